//! Which blocks of the cache are free.
//!
//! Paged keys and values as in vLLM (Kwon et al., arXiv:2309.06180): a sequence takes blocks as it grows, in any order,
//! so nothing is reserved and nothing fragments.

use super::{BLOCK_TOKENS, BlockId};

/// A pool of blocks.
///
/// ```
/// use mobula_llm::logic::BlockPool;
///
/// let mut pool = BlockPool::new(2);
/// let block = pool.take().unwrap();
/// assert_eq!(pool.free(), 1);
/// pool.give_back(block);
/// assert_eq!(pool.free(), 2);
/// ```
#[derive(Debug, Clone)]
pub struct BlockPool {
    /// The last one given back is the next one taken: its memory is warm.
    free: Vec<BlockId>,
    total: usize,
}

impl BlockPool {
    /// A pool of `total` free blocks.
    pub fn new(total: u32) -> Self {
        BlockPool { free: (0..total).rev().map(BlockId).collect(), total: total as usize }
    }

    /// Takes a block, if one is free.
    pub fn take(&mut self) -> Option<BlockId> {
        self.free.pop()
    }

    /// Gives a block back.
    pub fn give_back(&mut self, block: BlockId) {
        debug_assert!((block.0 as usize) < self.total && !self.free.contains(&block), "KV-1: {block:?} is given back");
        self.free.push(block);
    }

    /// Blocks that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The free ones, for the invariants.
    pub(super) fn free_blocks(&self) -> &[BlockId] {
        &self.free
    }
}

/// Blocks that hold so many tokens.
pub(super) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}
