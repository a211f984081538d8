//! The CPU kernels of Mobula's inference: weights multiplied as they lie in the model file.
//!
//! One thread per call, no state but the caller's buffers, nothing of model formats or of sequences. A step of a layer
//! reads:
//!
//! ```
//! use mobula_kernels::{Activations, Path, Tensor, add, matmul, rms_norm, swiglu};
//!
//! /// `x: [tokens, width]` becomes `x + down(silu(gate(norm(x))) · up(norm(x)))`.
//! fn feed_forward(path: Path, norm: &[f32], [gate, up, down]: [&Tensor; 3], x: &mut [f32]) {
//!     let (tokens, ff) = (x.len() / norm.len(), gate.rows());
//!     let mut input = Activations::new(); // kept by a real model
//!     let (mut a, mut b, mut normed) = (vec![0.0; tokens * ff], vec![0.0; tokens * ff], vec![0.0; x.len()]);
//!
//!     rms_norm(path, x, norm, 1e-5, &mut normed);
//!     input.set(path, &normed, norm.len());
//!     matmul(path, &gate.view(), &input, &mut a);
//!     matmul(path, &up.view(), &input, &mut b);
//!     swiglu(path, &mut a, &b);
//!     input.set(path, &a, ff);
//!     matmul(path, &down.view(), &input, &mut normed);
//!     add(path, x, &normed);
//! }
//! ```
//!
//! | subject | items |
//! |---|---|
//! | the file | [`MappedFile`], [`Dtype`], [`Tensor`] (owned), [`Weights`] (borrowed) |
//! | the machine | [`Path`], forced by `MOBULA_CPU=avx512\|avx2\|plain` |
//! | linear layers | [`Activations`], [`matmul()`], [`dequantise_row`] |
//! | attention | [`Rotary`], [`store_f16`], [`attention()`] over [`KvBlocks`] |
//! | the rest | [`rms_norm`], [`swiglu`], [`add`], [`argmax`] |
//!
//! **Results are repeatable.** A token's numbers have the same bits whatever else is in the batch and however its prompt
//! is chunked, for each path: every sum has a fixed order. Paths differ from one another in the last bits.
//!
//! **Shapes are the caller's.** Sizes that come from a file are checked where [`Weights`] and [`Tensor`] are made, and
//! give typed errors; after that a wrong length is a bug of the caller and panics.
//!
//! Layouts are written `[outer, inner]`, contiguous; all numbers are `f32` unless said otherwise. The host is little
//! endian, as the files are.

mod activations;
mod attention;
mod cpu;
mod dtype;
mod elementwise;
mod exp;
mod map;
mod matmul;
mod plain;
mod rotary;
#[cfg(test)]
mod samples;
mod simd;
mod weights;

pub use activations::Activations;
pub use attention::{AttentionShape, KvBlocks, Scratch, attention, store_f16};
pub use cpu::{Path, PathError};
pub use dtype::Dtype;
pub use elementwise::{add, argmax, rms_norm, swiglu};
pub use half::f16;
pub use map::{MapError, MappedFile};
pub use matmul::{dequantise_row, matmul};
pub use rotary::{Angles, Pairing, Rotary};
pub use weights::{Tensor, Weights, WeightsError};
