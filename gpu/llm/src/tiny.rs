//! Small models of random weights, for tests and demos of everything that must not need a download.
//!
//! A tiny model speaks noise, but it is a whole GGUF file: hyperparameters, quantised weights, a byte-level tokenizer
//! with merges, a chat template. Its shape is as awkward as the demo model's: 3 KV heads, which do not divide by 2.

use half::f16;
use mobula_kernels::Dtype;

use crate::gguf::{Value, Writer};
use crate::random::SplitMix64;
use crate::tokenizer::char_of;

/// The sizes of a tiny model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Elements of one head; the width is `heads` times this and a multiple of 32.
    pub head_dim: usize,
    /// Columns of the feed-forward layer, a multiple of 32.
    pub feed_forward: usize,
    /// Tokens of a sequence.
    pub context: usize,
    /// The format of the matrices; `None` mixes all formats.
    pub dtype: Option<Dtype>,
    /// Whether the head has a matrix of its own, or is the embedding.
    pub untied_head: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            layers: 3,
            heads: 6,
            kv_heads: 3,
            head_dim: 32,
            feed_forward: 256,
            context: 256,
            dtype: None,
            untied_head: false,
        }
    }
}

/// The model of the default shape and a seed, as the bytes of a GGUF file of some 1.5 MB.
pub fn model(seed: u64) -> Vec<u8> {
    Shape::default().model(seed)
}

impl Shape {
    /// A model of this shape, as the bytes of a GGUF file. The same seed gives the same bytes.
    ///
    /// # Panics
    /// If the sizes are no multiples of 32 where they must be.
    pub fn model(&self, seed: u64) -> Vec<u8> {
        let width = self.heads * self.head_dim;
        let (tokens, kinds, merges) = vocabulary();
        let number = |n: usize| Value::Unsigned(n as u64);
        let text = |s: &str| Value::String(s.to_owned());
        let mut file = Writer::new()
            .key("general.architecture", text("llama"))
            .key("general.name", text("tiny"))
            .key("llama.block_count", number(self.layers))
            .key("llama.context_length", number(self.context))
            .key("llama.embedding_length", number(width))
            .key("llama.feed_forward_length", number(self.feed_forward))
            .key("llama.attention.head_count", number(self.heads))
            .key("llama.attention.head_count_kv", number(self.kv_heads))
            .key("llama.attention.layer_norm_rms_epsilon", Value::Float(1e-5))
            .key("llama.rope.freq_base", Value::Float(10_000.0))
            .key("llama.rope.dimension_count", number(self.head_dim))
            .key("llama.vocab_size", number(tokens.len()))
            .key("tokenizer.ggml.model", text("gpt2"))
            .key("tokenizer.ggml.pre", text("smollm"))
            .strings("tokenizer.ggml.tokens", &tokens)
            .integers("tokenizer.ggml.token_type", &kinds)
            .strings("tokenizer.ggml.merges", &merges)
            .key("tokenizer.ggml.bos_token_id", number(1))
            .key("tokenizer.ggml.eos_token_id", number(2))
            .key("tokenizer.ggml.add_bos_token", Value::Bool(false))
            .key("tokenizer.chat_template", text(CHAT_TEMPLATE));

        let mut random = SplitMix64::new(seed);
        let kv_width = self.kv_heads * self.head_dim;
        let mut next = 0;
        let mut matrix = |file: Writer, name: String, columns: usize, rows: usize| {
            let dtype = self.dtype.unwrap_or(Dtype::ALL[next % Dtype::ALL.len()]);
            next += 1;
            let bytes = random_matrix(dtype, columns, rows, &mut random);
            file.tensor(&name, &[columns as u64, rows as u64], dtype, bytes)
        };
        let norm = |file: Writer, name: String| {
            file.tensor(&name, &[width as u64], Dtype::F32, 1f32.to_le_bytes().repeat(width))
        };
        file = matrix(file, "token_embd.weight".into(), width, tokens.len());
        if self.untied_head {
            file = matrix(file, "output.weight".into(), width, tokens.len());
        }
        file = norm(file, "output_norm.weight".into());
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            file = norm(file, name("attn_norm"));
            file = norm(file, name("ffn_norm"));
            file = matrix(file, name("attn_q"), width, width);
            file = matrix(file, name("attn_k"), width, kv_width);
            file = matrix(file, name("attn_v"), width, kv_width);
            file = matrix(file, name("attn_output"), width, width);
            file = matrix(file, name("ffn_gate"), width, self.feed_forward);
            file = matrix(file, name("ffn_up"), width, self.feed_forward);
            file = matrix(file, name("ffn_down"), self.feed_forward, width);
        }
        file.finish()
    }
}

/// SmolLM2's template without its system message.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
     message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' \
     }}{% endif %}";

/// Texts, kinds and merges: three control tokens, all bytes, and a few words.
fn vocabulary() -> (Vec<String>, Vec<i32>, Vec<&'static str>) {
    let merges = vec!["t h", "i n", "Ġ t", "th e", "in g", "Ġ the", "Ġt he", "th ing", "Ġ thing", "l l", "Ġ Ġ", "1 2"];
    let mut tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).into();
    let mut kinds = vec![3; tokens.len()];
    tokens.extend((0..=255).map(|byte| char_of(byte).to_string()));
    for merge in &merges {
        let joined = merge.replace(' ', "");
        if !tokens.contains(&joined) {
            tokens.push(joined);
        }
    }
    // The stand-in of half a word that "Ġt he" needs.
    tokens.push("he".into());
    kinds.resize(tokens.len(), 1);
    (tokens, kinds, merges)
}

/// Elements uniform about zero, scaled so that a product with a normalised vector stays about as long.
fn random_matrix(dtype: Dtype, columns: usize, rows: usize, random: &mut SplitMix64) -> Vec<u8> {
    let blocks = rows * columns / dtype.block_len();
    // The standard deviation of a uniform number in ±limit is limit / √3; that of a sum of n of them √n times more.
    let limit = (3.0 / columns as f64).sqrt();
    let mut bytes = Vec::with_capacity(blocks * dtype.block_bytes());
    for _ in 0..blocks {
        let mut unit = || random.next_unit();
        let number = (unit() * 2.0 - 1.0) * limit;
        let half = |x: f64| f16::from_f64(x).to_le_bytes();
        match dtype {
            Dtype::F32 => bytes.extend((number as f32).to_le_bytes()),
            Dtype::F16 => bytes.extend(half(number)),
            Dtype::BF16 => bytes.extend(half::bf16::from_f64(number).to_le_bytes()),
            Dtype::Q4_0 => bytes.extend(half((0.5 + unit() / 2.0) * limit / 8.0)),
            Dtype::Q4_1 => {
                let scale = (0.5 + unit() / 2.0) * limit / 7.5;
                bytes.extend(half(scale));
                bytes.extend(half(scale * -7.5));
            }
            Dtype::Q8_0 => bytes.extend(half((0.5 + unit() / 2.0) * limit / 127.0)),
        }
        let quants = match dtype {
            Dtype::Q4_0 | Dtype::Q4_1 => 16,
            Dtype::Q8_0 => 32,
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => 0,
        };
        bytes.extend((0..quants).map(|_| random.next_u64() as u8));
    }
    bytes
}
