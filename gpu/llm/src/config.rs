//! The sizes of a model, from its file's metadata, checked so that nothing after it divides by zero or overflows.

use crate::gguf::{self, Gguf, optional};

/// Layers of a model at most: the deepest of 2026 have some 130.
const LAYERS_MAX: u64 = 1024;
/// Width and feed-forward columns at most; 16 times those of the largest dense models.
const WIDTH_MAX: u64 = 1 << 18;
/// Heads at most.
const HEADS_MAX: u64 = 4096;
/// Tokens of a sequence at most.
const CONTEXT_MAX: u64 = 1 << 24;
/// Elements of one head at most: what the attention kernels are made for.
const HEAD_DIM_MAX: u64 = mobula_kernels::AttentionShape::HEAD_DIM_MAX as u64;

/// The hyperparameters of a model of architecture `llama`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Layers.
    pub layers: usize,
    /// Elements of a token's state between layers.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Columns of the feed-forward layer.
    pub feed_forward: usize,
    /// Tokens that a sequence may have.
    pub context: usize,
    /// Tokens of the vocabulary: rows of embedding and head.
    pub vocabulary: usize,
    /// What the root mean square norms add under the root.
    pub norm_epsilon: f32,
    /// The base of the rotary embedding's angles.
    pub rope_base: f32,
    /// Elements of a head that are turned, from the first.
    pub rope_dims: usize,
}

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key or tensor is missing or holds something else.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A family of models that is not implemented.
    #[error("architecture {0:?} is not supported, expected \"llama\"")]
    Architecture(String),
    /// A number out of its range, or one that contradicts another.
    #[error("{key} is {value}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would be right.
        expected: String,
    },
}

impl Config {
    /// Reads the keys `llama.*`.
    ///
    /// # Errors
    /// [`Error`] names the key and what would be right.
    pub fn from_gguf(file: &Gguf) -> Result<Self, Error> {
        let architecture = file.string("general.architecture")?;
        if architecture != "llama" {
            return Err(Error::Architecture(architecture.to_owned()));
        }
        let layers = number(file, "llama.block_count", LAYERS_MAX)?;
        let width = number(file, "llama.embedding_length", WIDTH_MAX)?;
        let feed_forward = number(file, "llama.feed_forward_length", WIDTH_MAX)?;
        let context = number(file, "llama.context_length", CONTEXT_MAX)?;
        let heads = number(file, "llama.attention.head_count", HEADS_MAX)?;
        let kv_heads = or(number(file, "llama.attention.head_count_kv", HEADS_MAX), heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(value("llama.attention.head_count_kv", kv_heads, format!("a divisor of {heads} heads")));
        }
        let head_dim = or(number(file, "llama.attention.key_length", HEAD_DIM_MAX), width / heads)?;
        let value_dim = or(number(file, "llama.attention.value_length", HEAD_DIM_MAX), head_dim)?;
        if value_dim != head_dim {
            let key = "llama.attention.value_length";
            return Err(value(key, value_dim, format!("{head_dim}, the length of a key")));
        }
        if head_dim == 0 || head_dim as u64 > HEAD_DIM_MAX || head_dim % 2 != 0 {
            let expected =
                format!("so many that each of {width} / {heads} elements is even and at most {HEAD_DIM_MAX}");
            return Err(value("llama.attention.head_count", heads, expected));
        }
        let rope_dims = or(number(file, "llama.rope.dimension_count", HEAD_DIM_MAX), head_dim)?;
        if rope_dims > head_dim || rope_dims % 2 != 0 {
            let expected = format!("an even number up to {head_dim}");
            return Err(value("llama.rope.dimension_count", rope_dims, expected));
        }
        refuse_what_changes_the_result(file)?;

        let rope_base = or(file.float("llama.rope.freq_base").map_err(Error::from), 10_000.0)?;
        if !(rope_base.is_finite() && rope_base > 1.0 && rope_base < f64::from(f32::MAX)) {
            return Err(value("llama.rope.freq_base", rope_base, "a number above 1"));
        }
        let norm_epsilon = file.float("llama.attention.layer_norm_rms_epsilon")?;
        if !(norm_epsilon > 0.0 && norm_epsilon < 1.0) {
            return Err(value("llama.attention.layer_norm_rms_epsilon", norm_epsilon, "a number between 0 and 1"));
        }
        let embedding = file.tensor("token_embd.weight")?;
        let vocabulary = embedding.rows();
        if vocabulary > crate::tokenizer::VOCABULARY_MAX {
            let expected = format!("at most {}", crate::tokenizer::VOCABULARY_MAX);
            return Err(value("the rows of token_embd.weight", vocabulary, expected));
        }
        Ok(Config {
            layers,
            width,
            heads,
            kv_heads,
            head_dim,
            feed_forward,
            context,
            vocabulary,
            norm_epsilon: norm_epsilon as f32,
            rope_base: rope_base as f32,
            rope_dims,
        })
    }

    /// Query heads that share a head of keys and values: the unit of a split.
    pub fn heads_per_group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Bytes of keys and values of one token in all layers, as f16.
    pub fn cache_bytes_per_token(&self) -> usize {
        self.layers * 2 * self.kv_heads * self.head_dim * 2
    }
}

/// Keys of models that call themselves `llama` but compute something else: ignoring them would give wrong answers.
fn refuse_what_changes_the_result(file: &Gguf) -> Result<(), Error> {
    if let Some(experts) = optional(file.unsigned("llama.expert_count"))?
        && experts > 0
    {
        return Err(value("llama.expert_count", experts, "0: mixtures of experts are not supported"));
    }
    match optional(file.string("llama.rope.scaling.type"))? {
        None | Some("none") => Ok(()),
        Some(other) => Err(value("llama.rope.scaling.type", other, "\"none\": a scaled context is not supported")),
    }
}

/// A whole number from 1 to `max`.
fn number(file: &Gguf, key: &str, max: u64) -> Result<usize, Error> {
    match file.unsigned(key)? {
        n if (1..=max).contains(&n) => Ok(n as usize),
        n => Err(value(key, n, format!("1 to {max}"))),
    }
}

/// A key's value, or `default` where the file lacks the key.
fn or<T>(found: Result<T, Error>, default: T) -> Result<T, Error> {
    match found {
        Err(Error::Gguf(gguf::Error::MissingKey(_))) => Ok(default),
        found => found,
    }
}

fn value(key: &str, value: impl ToString, expected: impl Into<String>) -> Error {
    Error::Value { key: key.to_owned(), value: value.to_string(), expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Value, Writer};
    use crate::tiny;
    use mobula_kernels::Dtype;

    #[test]
    fn reads_the_tiny_model() {
        let config = Config::from_gguf(&Gguf::from_bytes(tiny::model(1)).unwrap()).unwrap();
        let sizes = (config.layers, config.width, config.heads, config.kv_heads, config.head_dim);
        assert_eq!(sizes, (3, 192, 6, 3, 32));
        assert_eq!((config.heads_per_group(), config.cache_bytes_per_token()), (2, 3 * 2 * 96 * 2));
    }

    /// A whole file but for one key, which is `value` or, for `None`, missing.
    fn refused(key: &str, changed: Option<Value>, words: &str) {
        let mut file = Writer::new();
        let number = |n| Some(Value::Unsigned(n));
        let whole = [
            ("general.architecture", Some(Value::String("llama".into()))),
            ("llama.block_count", number(1)),
            ("llama.context_length", number(16)),
            ("llama.embedding_length", number(64)),
            ("llama.feed_forward_length", number(64)),
            ("llama.attention.head_count", number(2)),
            ("llama.attention.head_count_kv", number(2)),
            ("llama.attention.layer_norm_rms_epsilon", Some(Value::Float(1e-5))),
            ("llama.rope.dimension_count", None),
            ("llama.rope.freq_base", None),
            ("llama.rope.scaling.type", None),
            ("llama.expert_count", None),
            ("llama.attention.value_length", None),
        ];
        for (name, value) in whole {
            let value = if name == key { changed.clone() } else { value };
            if let Some(value) = value {
                file = file.key(name, value);
            }
        }
        let file = file.tensor("token_embd.weight", &[64, 4], Dtype::F32, vec![0; 1024]).finish();
        let error = Config::from_gguf(&Gguf::from_bytes(file).unwrap()).expect_err("a broken model").to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }

    #[test]
    fn refuses_by_name() {
        let number = |n| Some(Value::Unsigned(n));
        let text = |s: &str| Some(Value::String(s.into()));
        refused("general.architecture", None, "\"general.architecture\" is missing");
        refused("general.architecture", text("gemma3"), "architecture \"gemma3\" is not supported");
        refused("llama.block_count", number(0), "llama.block_count is 0, expected 1 to 1024");
        refused("llama.embedding_length", number(1 << 40), "expected 1 to 262144");
        refused("llama.attention.head_count", number(3), "expected a divisor of 3 heads");
        refused("llama.attention.head_count_kv", number(0), "is 0, expected 1 to 4096");
        refused("llama.attention.value_length", number(16), "is 16, expected 32");
        refused("llama.rope.dimension_count", number(33), "is 33, expected an even number up to 32");
        refused("llama.rope.freq_base", Some(Value::Float(f64::NAN)), "is NaN, expected a number above 1");
        refused("llama.rope.scaling.type", text("yarn"), "is yarn, expected \"none\"");
        refused("llama.expert_count", number(8), "mixtures of experts are not supported");
        refused("llama.attention.layer_norm_rms_epsilon", Some(Value::Float(-1.0)), "is -1");
        refused("llama.context_length", text("long"), "the string \"long\", expected a whole number");
    }
}
