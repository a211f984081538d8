//! The multiplication of quantised weights by 8-bit activations, panel by panel.
//!
//! An output is the sum over its row's blocks, first to last, of `dot · scale · x.scale + min · x.scaled_sum`, by two
//! fused multiply-adds; nothing else happens to it, whichever way it is reached (MATMUL-1):
//!
//! - **few tokens** read each block from the file into registers and are done with it: weights pass through once, and
//!   the memory sets the pace;
//! - **many tokens** unpack a chunk of a panel's blocks once and multiply it by four tokens at a time, the sums resting
//!   in `out` between chunks.

use super::{
    lanes::{Lanes, WIDTH_MAX},
    panel::{Block, Format, Panel},
};
use crate::{Activations, Weights, activations::BlockScale, dtype::QUANTISED_BLOCK_LEN};

/// [`crate::matmul()`] for the quantised format `F`.
pub(super) fn matmul<L: Lanes, F: Format>(lanes: L, w: &Weights<'_>, x: &Activations, out: &mut [f32]) {
    let mut out = Out { values: out, rows: w.rows() };
    match x.tokens() {
        0 => (),
        1 => few_tokens::<L, F, 1>(lanes, w, x, &mut out),
        2 => few_tokens::<L, F, 2>(lanes, w, x, &mut out),
        3 => few_tokens::<L, F, 3>(lanes, w, x, &mut out),
        4 => few_tokens::<L, F, 4>(lanes, w, x, &mut out),
        _ => many_tokens::<L, F>(lanes, w, x, &mut out),
    }
}

fn few_tokens<L: Lanes, F: Format, const T: usize>(lanes: L, w: &Weights<'_>, x: &Activations, out: &mut Out<'_>) {
    lanes.run(
        #[inline(always)]
        || {
            let tokens = Tile::<T>::new(x, 0, 0, x.blocks());
            for first_row in (0..w.rows()).step_by(L::WIDTH) {
                let mut panel = Panel::new(lanes, w, first_row);
                let mut sums = [lanes.splat(0.0); T];
                for index in 0..x.blocks() {
                    panel.fetch_ahead::<L, F>(lanes);
                    let block = panel.block::<L, F>(lanes, index);
                    tokens.add::<L, F>(lanes, &block, index, &mut sums);
                }
                for (token, sum) in sums.into_iter().enumerate() {
                    out.store(lanes, token, first_row, sum);
                }
            }
        },
    );
}

fn many_tokens<L: Lanes, F: Format>(lanes: L, w: &Weights<'_>, x: &Activations, out: &mut Out<'_>) {
    let mut unpacked = [Block::zero(lanes); CHUNK_BLOCKS];
    out.values.fill(0.0);
    for first_row in (0..w.rows()).step_by(L::WIDTH) {
        let mut panel = Panel::new(lanes, w, first_row);
        for first_block in (0..x.blocks()).step_by(CHUNK_BLOCKS) {
            let chunk = &mut unpacked[..CHUNK_BLOCKS.min(x.blocks() - first_block)];
            lanes.run(
                #[inline(always)]
                || {
                    for (index, block) in chunk.iter_mut().enumerate() {
                        *block = panel.block::<L, F>(lanes, first_block + index);
                    }
                },
            );
            let mut token = 0;
            while token < x.tokens() {
                let at = (token, first_block, first_row);
                token += match x.tokens() - token {
                    1 => add_chunk::<L, F, 1>(lanes, chunk, &mut panel, x, at, out),
                    2 => add_chunk::<L, F, 2>(lanes, chunk, &mut panel, x, at, out),
                    3 => add_chunk::<L, F, 3>(lanes, chunk, &mut panel, x, at, out),
                    _ => add_chunk::<L, F, 4>(lanes, chunk, &mut panel, x, at, out),
                };
            }
        }
    }
}

/// Adds the products of an unpacked chunk to the sums of `T` tokens; gives `T`.
fn add_chunk<L: Lanes, F: Format, const T: usize>(
    lanes: L,
    chunk: &[Block<L>],
    panel: &mut Panel,
    x: &Activations,
    (first_token, first_block, first_row): (usize, usize, usize),
    out: &mut Out<'_>,
) -> usize {
    lanes.run(
        #[inline(always)]
        || {
            let tokens = Tile::<T>::new(x, first_token, first_block, chunk.len());
            let mut sums = [lanes.splat(0.0); T];
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = out.load(lanes, first_token + t, first_row);
            }
            for (index, block) in chunk.iter().enumerate() {
                if first_token == 0 {
                    panel.fetch_ahead::<L, F>(lanes);
                }
                tokens.add::<L, F>(lanes, block, index, &mut sums);
            }
            for (t, sum) in sums.into_iter().enumerate() {
                out.store(lanes, first_token + t, first_row, sum);
            }
        },
    );
    T
}

/// Some blocks of `T` tokens' activations.
struct Tile<'a, const T: usize> {
    codes: [&'a [[i8; QUANTISED_BLOCK_LEN]]; T],
    scales: [&'a [BlockScale]; T],
}

impl<'a, const T: usize> Tile<'a, T> {
    #[inline(always)]
    fn new(x: &'a Activations, first_token: usize, first_block: usize, blocks: usize) -> Self {
        let (mut codes, mut scales) = ([&[][..]; T], [&[][..]; T]);
        for t in 0..T {
            let row = x.quantised_row(first_token + t);
            (codes[t], scales[t]) = (&row.0[first_block..][..blocks], &row.1[first_block..][..blocks]);
        }
        Self { codes, scales }
    }

    /// Adds the products of `block` and the tile's block `index`: the one place where the arithmetic is.
    #[inline(always)]
    fn add<L: Lanes, F: Format>(&self, lanes: L, block: &Block<L>, index: usize, sums: &mut [L::F32; T]) {
        for (t, sum) in sums.iter_mut().enumerate() {
            let x = self.scales[t][index];
            let dot = F::dot(lanes, block, &self.codes[t][index], x.sum);
            if F::HAS_MIN {
                *sum = lanes.mul_add(block.min, lanes.splat(x.scaled_sum), *sum);
            }
            *sum = lanes.mul_add(lanes.mul(dot, block.scale), lanes.splat(x.scale), *sum);
        }
    }
}

/// `[tokens, rows]`, read and written a panel's rows at a time.
struct Out<'a> {
    values: &'a mut [f32],
    rows: usize,
}

impl Out<'_> {
    #[inline(always)]
    fn panel<L: Lanes>(&mut self, token: usize, first_row: usize) -> &mut [f32] {
        &mut self.values[token * self.rows + first_row..][..L::WIDTH.min(self.rows - first_row)]
    }

    #[inline(always)]
    fn load<L: Lanes>(&mut self, lanes: L, token: usize, first_row: usize) -> L::F32 {
        let panel = self.panel::<L>(token, first_row);
        if panel.len() == L::WIDTH {
            return lanes.load(panel);
        }
        let mut padded = [0.0; WIDTH_MAX];
        padded[..panel.len()].copy_from_slice(panel);
        lanes.load(&padded)
    }

    #[inline(always)]
    fn store<L: Lanes>(&mut self, lanes: L, token: usize, first_row: usize, sum: L::F32) {
        let panel = self.panel::<L>(token, first_row);
        if panel.len() == L::WIDTH {
            return lanes.store(sum, panel);
        }
        let mut padded = [0.0; WIDTH_MAX];
        lanes.store(sum, &mut padded);
        panel.copy_from_slice(&padded[..panel.len()]);
    }
}

/// Blocks unpacked at a time: 5 KiB in eight lanes, 10 KiB in sixteen, and as many of the activations, within 32 KiB of
/// first-level cache.
const CHUNK_BLOCKS: usize = 24;
