//! One shard of a model of architecture `llama`.
//!
//! Papers: LLaMA (Touvron et al., arXiv:2302.13971), rotary embedding (arXiv:2104.09864), grouped-query attention
//! (arXiv:2305.13245), SwiGLU (arXiv:2002.05202), RMSNorm (arXiv:1910.07467). Reference implementation: llama.cpp,
//! `src/models/llama.cpp`, whose files these are: q and k are stored permuted, so that rotary pairs are adjacent.
//!
//! ```text
//! x = embedding[token]
//! per layer   x += all_reduce( attn_output · attention( rope(q·norm(x)), rope(k·norm(x)), v·norm(x) ) )
//!             x += all_reduce( ffn_down · ( silu(gate·norm(x)) ⊙ (up·norm(x)) ) )
//! logits = head · norm(x)
//! ```
//!
//! A shard computes its heads, columns and rows of the vocabulary; what stands outside `all_reduce` is computed by all.
//! All tokens of a step go through each matrix together, so weights are read once per step; every kernel gives a token
//! the same bits whatever the other tokens are, and so does this.

use std::time::Instant;

use mobula_collective::Member;
use mobula_kernels::{
    Activations, AttentionShape, KvBlocks, Pairing, Path, Rotary, Scratch, Tensor, add, attention, dequantise_row,
    matmul, rms_norm, swiglu,
};

use super::cache::Cache;
use super::{Error, Logits};
use crate::config::Config;
use crate::gguf::{self, Gguf};
use crate::logic::{BLOCK_TOKENS, StepPlan};
use crate::split::Part;

/// One rank's weights, cache and buffers.
#[derive(Debug)]
pub struct Shard {
    config: Config,
    part: Part,
    rotary: Rotary,
    /// `[vocabulary, width]`, whole: a step reads one row per token.
    embedding: Tensor,
    layers: Vec<Layer>,
    /// `[width]`.
    output_norm: Vec<f32>,
    /// `[part.vocabulary, width]`.
    head: Tensor,
    cache: Cache,
    work: Workspace,
}

/// Matrices are `[rows, columns]` here, as in the maths; GGUF writes the columns first.
#[derive(Debug)]
struct Layer {
    /// `[width]`.
    attention_norm: Vec<f32>,
    /// `[part.heads × head_dim, width]`.
    q: Tensor,
    /// `[part.kv_heads × head_dim, width]`.
    k: Tensor,
    /// `[part.kv_heads × head_dim, width]`.
    v: Tensor,
    /// `[width, part.heads × head_dim]`.
    output: Tensor,
    /// `[width]`.
    feed_forward_norm: Vec<f32>,
    /// `[part.feed_forward, width]`.
    gate: Tensor,
    /// `[part.feed_forward, width]`.
    up: Tensor,
    /// `[width, part.feed_forward]`.
    down: Tensor,
}

/// A step that was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The other shards did not come.
    #[error(transparent)]
    Collective(#[from] mobula_collective::Error),
    /// The plan asks for what the shard does not have.
    #[error("impossible plan for sequence {sequence}: {why}")]
    Plan {
        /// The sequence.
        sequence: u64,
        /// What is impossible.
        why: String,
    },
}

impl Shard {
    pub(super) fn load(file: &Gguf, config: &Config, part: &Part, path: Path, blocks: usize) -> Result<Self, Error> {
        let Config { width, head_dim, .. } = *config;
        let mut rotary = Rotary::new(config.rope_dims, config.rope_base, Pairing::Adjacent);
        if file.tensor(ROPE_FACTORS).is_ok() {
            rotary = rotary.with_factors(&rope_factors(file, config)?);
        }
        let embedding = file.matrix("token_embd.weight", width, config.vocabulary)?;
        let head = match file.tensor("output.weight") {
            Ok(_) => file.matrix("output.weight", width, config.vocabulary)?,
            Err(_) => embedding.clone(),
        };
        let layers =
            (0..config.layers).map(|layer| Layer::load(file, config, part, layer)).collect::<Result<_, _>>()?;
        Ok(Shard {
            rotary,
            embedding,
            layers,
            output_norm: norm(file, "output_norm.weight", config)?,
            head: head.slice_rows(part.vocabulary.clone()).map_err(|error| sliced("the head", &error))?,
            cache: Cache::new(config.layers, part.kv_heads.len() * head_dim, blocks),
            work: Workspace::new(path),
            config: *config,
            part: part.clone(),
        })
    }

    /// Computes this shard's part of a step, together with the others of `group`.
    ///
    /// Afterwards the tokens of the plan are in the cache, and the logits of the rows it asks for are given.
    ///
    /// # Errors
    /// [`StepError::Collective`] when another shard is dead or late: then all shards must be restarted, for their caches
    /// differ. [`StepError::Plan`] before anything is computed.
    pub fn step(&mut self, plan: &StepPlan, group: &mut Member, deadline: Instant) -> Result<Logits, StepError> {
        self.check(plan)?;
        let Config { width, norm_epsilon: eps, head_dim, .. } = self.config;
        let path = self.work.path;
        let shape = AttentionShape { heads: self.part.heads.len(), kv_heads: self.part.kv_heads.len(), head_dim };
        let (q_len, kv_len) = (shape.heads * head_dim, shape.kv_heads * head_dim);

        let positions = plan.sequences.iter().flat_map(|sequence| sequence.start..sequence.end());
        let angles: Vec<_> = positions.map(|position| self.rotary.angles(position)).collect();
        let mut x = self.embed(plan);
        let work = &mut self.work;
        work.normed.resize(x.len(), 0.0);
        for (index, layer) in self.layers.iter().enumerate() {
            work.norm(&x, &layer.attention_norm, eps);
            work.input.set(path, &work.normed, width);
            work.multiply(&layer.q, |work| &mut work.q);
            work.multiply(&layer.k, |work| &mut work.k);
            work.multiply(&layer.v, |work| &mut work.v);
            for (token, angles) in angles.iter().enumerate() {
                self.rotary.turn(angles, &mut work.q[token * q_len..][..q_len], head_dim);
                self.rotary.turn(angles, &mut work.k[token * kv_len..][..kv_len], head_dim);
            }
            work.attended.resize(work.q.len(), 0.0);
            let mut token = 0;
            for sequence in &plan.sequences {
                let tokens = token..token + sequence.tokens.len();
                for (position, token) in (sequence.start..).zip(tokens.clone()) {
                    let (keys, values) = (&work.k[token * kv_len..][..kv_len], &work.v[token * kv_len..][..kv_len]);
                    self.cache.store(&sequence.blocks, index, position, keys, values);
                }
                let (keys, values) = self.cache.layer(&sequence.blocks, index);
                for (position, token) in (sequence.start..).zip(tokens.clone()) {
                    let kv = KvBlocks { keys: &keys, values: &values, block_tokens: BLOCK_TOKENS, len: position + 1 };
                    let range = token * q_len..(token + 1) * q_len;
                    let (q, out) = (&work.q[range.clone()], &mut work.attended[range]);
                    attention(path, shape, q, &kv, &mut work.scratch, out);
                }
                token = tokens.end;
            }
            work.input.set(path, &work.attended, q_len);
            work.multiply(&layer.output, |work| &mut work.sum);
            group.all_reduce_sum(&mut work.sum, deadline)?;
            add(path, &mut x, &work.sum);

            work.norm(&x, &layer.feed_forward_norm, eps);
            work.input.set(path, &work.normed, width);
            work.multiply(&layer.gate, |work| &mut work.gate);
            work.multiply(&layer.up, |work| &mut work.up);
            swiglu(path, &mut work.gate, &work.up);
            work.input.set(path, &work.gate, layer.gate.rows());
            work.multiply(&layer.down, |work| &mut work.sum);
            group.all_reduce_sum(&mut work.sum, deadline)?;
            add(path, &mut x, &work.sum);
        }
        Ok(self.head(plan, &x))
    }

    /// The rank's part of the model.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// Bytes of weights read by all steps so far: matrices, the embedding's rows, norms.
    pub fn weight_bytes_read(&self) -> u64 {
        self.work.weight_bytes
    }

    /// The rows of the embedding: `[tokens, width]`.
    fn embed(&mut self, plan: &StepPlan) -> Vec<f32> {
        let width = self.config.width;
        let mut x = vec![0.0; plan.tokens() * width];
        let tokens = plan.sequences.iter().flat_map(|sequence| &sequence.tokens);
        let embedding = self.embedding.view();
        for (row, &token) in x.chunks_exact_mut(width).zip(tokens) {
            dequantise_row(&embedding, token as usize, row);
            self.work.weight_bytes += embedding.row(token as usize).len() as u64;
        }
        x
    }

    /// The logits of the rows that the plan asks for.
    fn head(&mut self, plan: &StepPlan, x: &[f32]) -> Logits {
        let (width, work) = (self.config.width, &mut self.work);
        let mut last = Vec::with_capacity(plan.rows() * width);
        let mut token = 0;
        for sequence in &plan.sequences {
            token += sequence.tokens.len();
            last.extend_from_slice(&x[(token - sequence.row_count()) * width..token * width]);
        }
        let mut values = Vec::new();
        if !last.is_empty() {
            work.normed.resize(last.len(), 0.0);
            work.norm(&last, &self.output_norm, self.config.norm_epsilon);
            work.input.set(work.path, &work.normed, width);
            work.multiply(&self.head, |work| &mut work.logits);
            values = std::mem::take(&mut work.logits);
        }
        Logits { vocabulary: self.part.vocabulary.clone(), values }
    }

    /// Whether the plan fits the model and the cache.
    fn check(&self, plan: &StepPlan) -> Result<(), StepError> {
        for sequence in &plan.sequences {
            let wrong = |why: String| Err(StepError::Plan { sequence: sequence.id.0, why });
            if sequence.tokens.is_empty() {
                return wrong("no tokens".into());
            }
            if let Some(token) = sequence.tokens.iter().find(|&&token| token as usize >= self.config.vocabulary) {
                return wrong(format!("token {token} of a vocabulary of {}", self.config.vocabulary));
            }
            let end = sequence.start.saturating_add(sequence.tokens.len());
            if end > self.config.context {
                return wrong(format!("position {} in a context of {} tokens", end - 1, self.config.context));
            }
            if sequence.blocks.len() != end.div_ceil(BLOCK_TOKENS) {
                return wrong(format!("{} blocks of {BLOCK_TOKENS} for {end} tokens", sequence.blocks.len()));
            }
            if let Some(block) = sequence.blocks.iter().find(|block| block.0 as usize >= self.cache.len()) {
                return wrong(format!("block {} of {}", block.0, self.cache.len()));
            }
            if let Some(block) = self.cache.unwritten(&sequence.blocks, sequence.start) {
                return wrong(format!("block {} was never written, but {} tokens precede", block.0, sequence.start));
            }
        }
        Ok(())
    }
}

impl Layer {
    fn load(file: &Gguf, config: &Config, part: &Part, layer: usize) -> Result<Self, Error> {
        let Config { width, heads, kv_heads, head_dim, feed_forward, .. } = *config;
        let name = |role: &str| format!("blk.{layer}.{role}.weight");
        // Column-parallel: whole rows.
        let rows = |role: &str, all: usize, range: std::ops::Range<usize>| {
            let tensor = file.matrix(&name(role), width, all)?;
            tensor.slice_rows(range).map_err(|error| sliced(&name(role), &error))
        };
        // Row-parallel: a range of blocks of every row.
        let columns = |role: &str, all: usize, range: std::ops::Range<usize>| {
            let tensor = file.matrix(&name(role), all, width)?;
            tensor.slice_cols(range).map_err(|error| sliced(&name(role), &error))
        };
        let of_heads = |range: &std::ops::Range<usize>| range.start * head_dim..range.end * head_dim;
        Ok(Layer {
            attention_norm: norm(file, &name("attn_norm"), config)?,
            q: rows("attn_q", heads * head_dim, of_heads(&part.heads))?,
            k: rows("attn_k", kv_heads * head_dim, of_heads(&part.kv_heads))?,
            v: rows("attn_v", kv_heads * head_dim, of_heads(&part.kv_heads))?,
            output: columns("attn_output", heads * head_dim, of_heads(&part.heads))?,
            feed_forward_norm: norm(file, &name("ffn_norm"), config)?,
            gate: rows("ffn_gate", feed_forward, part.feed_forward.clone())?,
            up: rows("ffn_up", feed_forward, part.feed_forward.clone())?,
            down: columns("ffn_down", feed_forward, part.feed_forward.clone())?,
        })
    }
}

/// The buffers of a step, kept from one to the next. All are `[tokens, …]` of this shard's part.
#[derive(Debug)]
struct Workspace {
    path: Path,
    input: Activations,
    scratch: Scratch,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// A partial sum, then the whole one.
    sum: Vec<f32>,
    logits: Vec<f32>,
    weight_bytes: u64,
}

impl Workspace {
    fn new(path: Path) -> Self {
        Workspace {
            path,
            input: Activations::new(),
            scratch: Scratch::new(),
            normed: Vec::new(),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            attended: Vec::new(),
            gate: Vec::new(),
            up: Vec::new(),
            sum: Vec::new(),
            logits: Vec::new(),
            weight_bytes: 0,
        }
    }

    /// `normed = norm(x)`.
    fn norm(&mut self, x: &[f32], weight: &[f32], eps: f32) {
        rms_norm(self.path, x, weight, eps, &mut self.normed);
        self.weight_bytes += size_of_val(weight) as u64;
    }

    /// Multiplies the input by a matrix, into one of the buffers.
    fn multiply(&mut self, weights: &Tensor, out: impl Fn(&mut Self) -> &mut Vec<f32>) {
        let mut buffer = std::mem::take(out(self));
        buffer.resize(self.input.tokens() * weights.rows(), 0.0);
        matmul(self.path, &weights.view(), &self.input, &mut buffer);
        *out(self) = buffer;
        self.weight_bytes += weights.weight_bytes() as u64;
    }
}

/// Where Llama 3.1 and later keep the factors of their stretched context.
const ROPE_FACTORS: &str = "rope_freqs.weight";

fn rope_factors(file: &Gguf, config: &Config) -> Result<Vec<f32>, Error> {
    file.shaped(ROPE_FACTORS, &[config.rope_dims as u64 / 2])?;
    let factors = file.floats_of(ROPE_FACTORS)?;
    match factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        None => Ok(factors),
        Some(factor) => {
            let why = format!("holds the factor {factor}, expected positive numbers");
            Err(gguf::Error::Malformed { what: format!("tensor {ROPE_FACTORS:?}"), why }.into())
        }
    }
}

fn norm(file: &Gguf, name: &str, config: &Config) -> Result<Vec<f32>, Error> {
    file.shaped(name, &[config.width as u64])?;
    Ok(file.floats_of(name)?)
}

/// The parts are cut at edges that [`crate::split::split`] has checked for this file; another file's part may not fit.
fn sliced(what: &str, error: &mobula_kernels::WeightsError) -> Error {
    Error::Gguf(gguf::Error::Malformed { what: what.to_owned(), why: format!("cannot be cut: {error}") })
}

/// Refuses a file with a tensor that [`Shard`] would ignore: biases, experts, norms of other models.
pub(super) fn check_tensors(file: &Gguf, config: &Config) -> Result<(), Error> {
    const OUTSIDE: [&str; 4] = ["token_embd.weight", "output.weight", "output_norm.weight", ROPE_FACTORS];
    const INSIDE: [&str; 9] = [
        "attn_norm.weight",
        "attn_q.weight",
        "attn_k.weight",
        "attn_v.weight",
        "attn_output.weight",
        "ffn_norm.weight",
        "ffn_gate.weight",
        "ffn_up.weight",
        "ffn_down.weight",
    ];
    let known = |name: &str| {
        let inside = || {
            let (layer, role) = name.strip_prefix("blk.")?.split_once('.')?;
            Some(layer.parse::<usize>().ok()? < config.layers && INSIDE.contains(&role))
        };
        OUTSIDE.contains(&name) || inside() == Some(true)
    };
    match file.tensors().iter().find(|tensor| !known(&tensor.name)) {
        None => Ok(()),
        Some(tensor) => Err(Error::UnknownTensor(tensor.name.clone())),
    }
}

#[cfg(test)]
mod tests;
