//! A shard's keys and values: blocks of [`BLOCK_TOKENS`] tokens, in all layers, of its own heads.
//!
//! Who owns a block is the batcher's decision; here a block is memory, taken when first written and kept.

use mobula_kernels::{f16, store_f16};

use crate::logic::{BLOCK_TOKENS, BlockId};

#[derive(Debug)]
pub(super) struct Cache {
    /// Keys of one token in one layer: `kv_heads × head_dim`.
    row_len: usize,
    layers: usize,
    /// Each `[layers, keys or values, BLOCK_TOKENS, kv_heads, head_dim]`; `None` until it is first written.
    blocks: Vec<Option<Box<[f16]>>>,
}

impl Cache {
    pub(super) fn new(layers: usize, row_len: usize, blocks: usize) -> Self {
        Cache { row_len, layers, blocks: vec![None; blocks] }
    }

    /// Blocks that there is room for.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// A block of the table that should hold some of the first `tokens` tokens and was never written.
    pub(super) fn unwritten(&self, table: &[BlockId], tokens: usize) -> Option<BlockId> {
        let before = table.iter().take(tokens.div_ceil(BLOCK_TOKENS));
        before.copied().find(|id| self.blocks[id.0 as usize].is_none())
    }

    /// Writes keys and values (`[kv_heads, head_dim]` each) of the token at `position`.
    pub(super) fn store(&mut self, table: &[BlockId], layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let (row, half) = (self.row_len, BLOCK_TOKENS * self.row_len);
        let whole = self.layers * 2 * half;
        let block = &mut self.blocks[table[position / BLOCK_TOKENS].0 as usize];
        let block = block.get_or_insert_with(|| vec![f16::ZERO; whole].into_boxed_slice());
        let at = layer * 2 * half + position % BLOCK_TOKENS * row;
        store_f16(keys, &mut block[at..at + row]);
        store_f16(values, &mut block[at + half..at + half + row]);
    }

    /// Keys and values of a layer in the blocks of a table: `[BLOCK_TOKENS, kv_heads, head_dim]` each.
    pub(super) fn layer(&self, table: &[BlockId], layer: usize) -> (Vec<&[f16]>, Vec<&[f16]>) {
        let half = BLOCK_TOKENS * self.row_len;
        let blocks = table.iter().map(|id| {
            let block = self.blocks[id.0 as usize].as_deref().expect("a block of the table was written before");
            block[layer * 2 * half..][..2 * half].split_at(half)
        });
        blocks.unzip()
    }
}
