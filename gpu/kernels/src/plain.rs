//! The kernels in plain Rust: [`Path::Plain`](crate::Path::Plain), and the reference for the vector kernels.
//!
//! Written to be read: formats are decoded here and nowhere else in scalar code. Not written to be fast, though a
//! machine without vector instructions of ours runs it.

mod attention;
mod blocks;
mod matmul;

pub(crate) use attention::attention;
pub(crate) use blocks::dequantise_row;
pub(crate) use matmul::matmul;
