//! The kernels in vector instructions, written once over [`Lanes`] and compiled for each instruction set.
//!
//! ```text
//! quantised ─ panel ┐
//! float ────────────┼─ Lanes ┬─ Avx2      8 lanes
//! attention ────────┘        ├─ Avx512   16 lanes, VNNI
//!                            └─ Emulated  any number, in plain Rust: the tests' twin
//! ```
//!
//! What is particular to an instruction set is one method of [`Lanes`] each; what is a kernel is generic, and so a
//! kernel of sixteen lanes is tested bit for bit on a machine that has eight.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod emulated;
mod float;
mod lanes;
mod panel;
mod quantised;

pub(crate) use attention::attention;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(test)]
pub(crate) use emulated::Emulated;
pub(crate) use lanes::Lanes;

use crate::{Activations, Dtype, Weights};

/// Evaluates the kernel with the lanes of a path, or the plain one.
macro_rules! on_path {
    ($path:expr, plain: $plain:expr, lanes: |$lanes:ident| $kernel:expr) => {
        match $path {
            #[cfg(target_arch = "x86_64")]
            $crate::Path::Avx512Vnni => {
                let $lanes = $crate::simd::Avx512::new();
                $kernel
            }
            #[cfg(target_arch = "x86_64")]
            $crate::Path::Avx2 => {
                let $lanes = $crate::simd::Avx2::new();
                $kernel
            }
            path => path.run(|| $plain),
        }
    };
}
pub(crate) use on_path;

/// [`crate::matmul()`] in lanes; shapes are checked there.
pub(crate) fn matmul<L: Lanes>(lanes: L, w: &Weights<'_>, x: &Activations, out: &mut [f32]) {
    match w.dtype() {
        Dtype::F32 => float::matmul::<L, float::F32>(lanes, w, x, out),
        Dtype::F16 => float::matmul::<L, float::F16>(lanes, w, x, out),
        Dtype::BF16 => float::matmul::<L, float::BF16>(lanes, w, x, out),
        Dtype::Q4_0 => quantised::matmul::<L, panel::Q4_0>(lanes, w, x, out),
        Dtype::Q4_1 => quantised::matmul::<L, panel::Q4_1>(lanes, w, x, out),
        Dtype::Q8_0 => quantised::matmul::<L, panel::Q8_0>(lanes, w, x, out),
    }
}
