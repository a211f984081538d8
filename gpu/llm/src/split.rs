//! Which part of each matrix a shard holds: tensor parallelism as in Megatron-LM (Shoeybi et al., arXiv:1909.08053).
//!
//! | matrices | cut by | a shard's part |
//! |---|---|---|
//! | q, k, v | output rows, whole groups of heads | contiguous rows |
//! | attn_output | input columns of the same heads | a range of blocks of every row |
//! | gate, up | output rows | contiguous rows |
//! | ffn_down | the same columns | a range of blocks of every row |
//! | head | vocabulary rows | contiguous rows |
//!
//! Every row-parallel product is a partial sum; two all-reduces per layer complete them. Embedding and norms are not
//! cut: a step reads one row of the one per token, and the others are small.
//!
//! A KV head and its query heads stay together, so heads may not divide: 3 KV heads on 2 shards are 2 and 1. The rest
//! is cut evenly all the same, because every layer waits twice for its slowest shard: giving the shard of fewer heads
//! more columns would balance the sums of bytes and lengthen the feed-forward phase. Only beyond
//! `IMBALANCE_MAX` do columns and vocabulary rows move.

use std::ops::Range;

use mobula_kernels::Dtype;

use crate::config::Config;
use crate::gguf::{self, Gguf};

/// A shard's bytes over the mean of all shards', at most, as far as columns and rows can be moved. SmolLM2 on 2 shards
/// has 1.07 without moving any.
const IMBALANCE_MAX: f64 = 1.15;
/// Rows of the vocabulary are cut at multiples of this, two of the widest kernels' panels of 16.
const VOCABULARY_GRAIN: usize = 32;
/// Feed-forward columns are cut at multiples of this where they can be, which is also every quantised format's block.
const COLUMN_GRAIN: usize = 32;

/// What one shard holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its rank among the shards.
    pub rank: usize,
    /// Its heads of keys and values.
    pub kv_heads: Range<usize>,
    /// Its query heads: all that use these.
    pub heads: Range<usize>,
    /// Its columns of the feed-forward layer.
    pub feed_forward: Range<usize>,
    /// Its rows of the head.
    pub vocabulary: Range<usize>,
}

/// Bytes of the matrices that are cut, over all layers, and where they may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// q, k, v and attn_output.
    pub attention_bytes: usize,
    /// gate, up and ffn_down.
    pub feed_forward_bytes: usize,
    /// The head, also when it is the embedding.
    pub head_bytes: usize,
    /// The longest block among the attn_output matrices.
    pub attention_block: usize,
    /// The longest block among the ffn_down matrices.
    pub feed_forward_block: usize,
}

/// Why a model cannot be cut into so many shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no model on no shard.
    #[error("0 shards, expected at least 1")]
    None,
    /// A shard would have no head.
    #[error("{shards} shards, but the model has {kv_heads} KV heads: use at most {kv_heads} shards")]
    TooFewHeads {
        /// Shards asked for.
        shards: usize,
        /// KV heads of the model.
        kv_heads: usize,
    },
    /// A shard would have no columns or rows of something.
    #[error("{shards} shards, but {what} can be cut into {pieces} pieces at most")]
    TooFewPieces {
        /// Shards asked for.
        shards: usize,
        /// What is too small.
        what: &'static str,
        /// Blocks or rows that it has.
        pieces: usize,
    },
    /// The edge between two groups of heads lies inside a block.
    #[error(
        "{shards} shards would cut attn_output at column {column}, inside a block of {block}: use 1 shard, or a file \
         with F16 weights"
    )]
    InsideBlock {
        /// Shards asked for.
        shards: usize,
        /// The first edge that is none of a block.
        column: usize,
        /// Elements of a block.
        block: usize,
    },
}

impl Sizes {
    /// Adds up a model's matrices.
    ///
    /// # Errors
    /// When one is missing.
    pub fn of(file: &Gguf, config: &Config) -> Result<Self, gguf::Error> {
        let mut sizes = Sizes {
            attention_bytes: 0,
            feed_forward_bytes: 0,
            head_bytes: head(file)?.range.len(),
            attention_block: 1,
            feed_forward_block: 1,
        };
        for layer in 0..config.layers {
            let tensor = |part: &str| file.tensor(&format!("blk.{layer}.{part}.weight"));
            for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
                sizes.attention_bytes += tensor(part)?.range.len();
            }
            for part in ["ffn_gate", "ffn_up", "ffn_down"] {
                sizes.feed_forward_bytes += tensor(part)?.range.len();
            }
            let block = |dtype: Dtype| dtype.block_len();
            sizes.attention_block = sizes.attention_block.max(block(tensor("attn_output")?.dtype));
            sizes.feed_forward_block = sizes.feed_forward_block.max(block(tensor("ffn_down")?.dtype));
        }
        Ok(sizes)
    }

    /// Bytes of all matrices that are cut.
    pub fn total_bytes(&self) -> usize {
        self.attention_bytes + self.feed_forward_bytes + self.head_bytes
    }

    /// Bytes of a part of them.
    pub fn part_bytes(&self, config: &Config, part: &Part) -> f64 {
        let share = |bytes: usize, part: usize, whole: usize| bytes as f64 * part as f64 / whole as f64;
        share(self.attention_bytes, part.kv_heads.len(), config.kv_heads)
            + share(self.feed_forward_bytes, part.feed_forward.len(), config.feed_forward)
            + share(self.head_bytes, part.vocabulary.len(), config.vocabulary)
    }
}

/// The head's tensor: its own, or the embedding where the two are tied.
pub(crate) fn head(file: &Gguf) -> Result<&gguf::Tensor, gguf::Error> {
    file.tensor("output.weight").or_else(|_| file.tensor("token_embd.weight"))
}

/// Cuts a model into the parts of `shards` shards, by rank.
///
/// # Errors
/// [`Error`] names the number of shards and what stands against it.
pub fn split(config: &Config, sizes: &Sizes, shards: usize) -> Result<Vec<Part>, Error> {
    if shards == 0 {
        return Err(Error::None);
    }
    if shards > config.kv_heads {
        return Err(Error::TooFewHeads { shards, kv_heads: config.kv_heads });
    }
    // The first shards take the heads that are left over.
    let head_cuts = cuts(config.kv_heads, 1, &vec![1.0; shards]);
    let group_columns = config.heads_per_group() * config.head_dim;
    let inside = head_cuts.iter().map(|&cut| cut * group_columns).find(|c| c % sizes.attention_block != 0);
    if let Some(column) = inside {
        return Err(Error::InsideBlock { shards, column, block: sizes.attention_block });
    }

    let heads: Vec<f64> = head_cuts.windows(2).map(|w| (w[1] - w[0]) as f64 / config.kv_heads as f64).collect();
    let shares = shares_of_the_rest(sizes, &heads);
    let column_grain = [COLUMN_GRAIN, sizes.feed_forward_block]
        .into_iter()
        .find(|grain| config.feed_forward.is_multiple_of(*grain))
        .expect("a row is whole blocks");
    let column_cuts = cuts(config.feed_forward, column_grain, &shares);
    let row_cuts = cuts(config.vocabulary, VOCABULARY_GRAIN.min(config.vocabulary / shards).max(1), &shares);
    for (what, cuts, grain) in
        [("the feed-forward layer", &column_cuts, column_grain), ("the vocabulary", &row_cuts, 1)]
    {
        if cuts.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::TooFewPieces { shards, what, pieces: cuts[shards] / grain });
        }
    }

    let group = config.heads_per_group();
    let part = |rank: usize| Part {
        rank,
        kv_heads: head_cuts[rank]..head_cuts[rank + 1],
        heads: head_cuts[rank] * group..head_cuts[rank + 1] * group,
        feed_forward: column_cuts[rank]..column_cuts[rank + 1],
        vocabulary: row_cuts[rank]..row_cuts[rank + 1],
    };
    Ok((0..shards).map(part).collect())
}

/// Each shard's share of columns and vocabulary, given its share of the heads: an even one, less where that would make
/// it too heavy.
fn shares_of_the_rest(sizes: &Sizes, heads: &[f64]) -> Vec<f64> {
    let shards = heads.len() as f64;
    let attention = sizes.attention_bytes as f64;
    let rest = (sizes.feed_forward_bytes + sizes.head_bytes) as f64;
    let limit = IMBALANCE_MAX * (attention + rest) / shards;
    let capped = |share: f64| ((limit - share * attention) / rest).clamp(0.0, 1.0 / shards);
    let mut shares: Vec<f64> = heads.iter().map(|&share| capped(share)).collect();
    // What the heavy ones do not take goes to the others, in even parts.
    let missing = 1.0 - shares.iter().sum::<f64>();
    let light = shares.iter().filter(|&&share| share >= 1.0 / shards).count();
    if light > 0 {
        let more = missing / light as f64;
        shares.iter_mut().filter(|share| **share >= 1.0 / shards).for_each(|share| *share += more);
    }
    shares
}

/// Cuts `0..len` in proportion to `shares`, at multiples of `grain`: `shares.len() + 1` edges.
fn cuts(len: usize, grain: usize, shares: &[f64]) -> Vec<usize> {
    let total: f64 = shares.iter().sum();
    let grains = len / grain;
    let mut edges = vec![0];
    let mut sum = 0.0;
    for share in &shares[..shares.len() - 1] {
        sum += share;
        // Up, so that the first shards take what is left over; the tiny amount is for sums that should be whole.
        let edge = (sum / total * grains as f64 - 1e-9).ceil() as usize * grain;
        edges.push(edge.min(len));
    }
    edges.push(len);
    edges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    fn smollm2() -> (Config, Sizes) {
        let config = Config {
            layers: 30,
            width: 576,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            feed_forward: 1536,
            context: 8192,
            vocabulary: 49152,
            norm_epsilon: 1e-5,
            rope_base: 1e5,
            rope_dims: 64,
        };
        (config, sizes_of(&config, 32))
    }

    /// Q4_1 layers, a Q8_0 head.
    fn sizes_of(config: &Config, block: usize) -> Sizes {
        let q4_1 = |elements: usize| config.layers * elements / 32 * 20;
        let (heads, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        Sizes {
            attention_bytes: q4_1(config.width * (2 * heads + 2 * kv)),
            feed_forward_bytes: q4_1(3 * config.width * config.feed_forward),
            head_bytes: config.vocabulary * config.width / 32 * 34,
            attention_block: block,
            feed_forward_block: block,
        }
    }

    /// SPLIT-1: the parts of each matrix are all of it, in order, none empty. SPLIT-2: no shard has more than 1.2 times
    /// its share of the bytes. SPLIT-3: columns are cut at edges of blocks.
    fn check(config: &Config, sizes: &Sizes, parts: &[Part]) {
        let ranges = |p: &Part| [&p.kv_heads, &p.heads, &p.feed_forward, &p.vocabulary].map(Clone::clone);
        let wholes = [config.kv_heads, config.heads, config.feed_forward, config.vocabulary];
        for (which, whole) in wholes.into_iter().enumerate() {
            let mut at = 0;
            for part in parts {
                let range = &ranges(part)[which];
                assert_eq!(range.start, at, "SPLIT-1: {parts:?}");
                assert!(!range.is_empty(), "SPLIT-1: {parts:?}");
                at = range.end;
            }
            assert_eq!(at, whole, "SPLIT-1: {parts:?}");
        }
        for part in parts {
            let share = sizes.total_bytes() as f64 / parts.len() as f64;
            let over = sizes.part_bytes(config, part) / share;
            assert!(over <= 1.2, "SPLIT-2: rank {} has {over} times its share: {parts:?}", part.rank);
            assert_eq!(part.feed_forward.end % sizes.feed_forward_block, 0, "SPLIT-3");
            assert_eq!(part.heads.end * config.head_dim % sizes.attention_block, 0, "SPLIT-3");
        }
    }

    #[test]
    fn the_demo_model_on_two_shards() {
        let (config, sizes) = smollm2();
        let parts = split(&config, &sizes, 2).unwrap();
        check(&config, &sizes, &parts);
        assert_eq!((parts[0].heads.clone(), parts[1].heads.clone()), (0..6, 6..9));
        assert_eq!(parts[0].feed_forward, 0..768);
        assert_eq!(parts[0].vocabulary, 0..24576);
    }

    #[test]
    fn one_and_three_shards_are_even() {
        let (config, sizes) = smollm2();
        for shards in [1, 3] {
            let parts = split(&config, &sizes, shards).unwrap();
            check(&config, &sizes, &parts);
            assert!(parts.iter().all(|part| part.feed_forward.len() == 1536 / shards));
        }
    }

    #[test]
    fn more_shards_than_heads_are_refused_with_both_numbers() {
        let (config, sizes) = smollm2();
        let error = |shards| split(&config, &sizes, shards).unwrap_err().to_string();
        assert_eq!(error(4), "4 shards, but the model has 3 KV heads: use at most 3 shards");
        assert_eq!(error(0), "0 shards, expected at least 1");
        let coarse = Sizes { attention_block: 256, ..sizes };
        let error = split(&config, &coarse, 2).unwrap_err().to_string();
        assert!(error.contains("at column 384, inside a block of 256"), "{error}");
        let narrow = Config { feed_forward: 64, ..config };
        let error = split(&narrow, &sizes, 3).unwrap_err().to_string();
        assert!(error.contains("the feed-forward layer can be cut into 2 pieces"), "{error}");
    }

    /// Random models whose attention outweighs the rest or not, on every number of shards.
    #[test]
    fn any_model_is_cut_whole_and_level() {
        for seed in 0..2_000 {
            let mut random = SplitMix64::new(seed);
            let mut from = |low: u64, high: u64| (low + random.below(high - low + 1)) as usize;
            let kv_heads = from(1, 8);
            let config = Config {
                layers: from(1, 80),
                width: 64 * from(1, 64),
                heads: kv_heads * from(1, 8),
                kv_heads,
                head_dim: 32 * from(1, 4),
                // Columns to move there must be: at least as much feed-forward as a narrow model has.
                feed_forward: 32 * from(64, 512),
                vocabulary: from(20_000, 200_000),
                ..smollm2().0
            };
            let sizes = sizes_of(&config, 32);
            for shards in 1..=kv_heads {
                let parts = split(&config, &sizes, shards).unwrap();
                // A model of nearly nothing but attention cannot be levelled by its columns.
                let enough_rest = sizes.attention_bytes as f64 <= 0.6 * sizes.total_bytes() as f64;
                if enough_rest {
                    check(&config, &sizes, &parts);
                }
            }
        }
    }
}
