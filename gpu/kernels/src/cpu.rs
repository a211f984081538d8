//! Which instructions the kernels use, decided while the program runs.
//!
//! A [`Path`] is found once, when a model is loaded, and handed to every kernel. Results of one path are repeatable bit
//! for bit; those of two paths differ in the last bits of a sum.

use std::fmt;

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512, Lanes};

/// A set of CPU instructions that the kernels are written for.
///
/// ```
/// use mobula_kernels::Path;
///
/// let path = Path::detect()?;
/// assert!(Path::available().contains(&path));
/// # Ok::<(), mobula_kernels::PathError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// AVX-512 (F, BW, VL) with VNNI, beside all of AVX2: sixteen rows at a time.
    Avx512Vnni,
    /// AVX2 with FMA and F16C: eight rows at a time.
    Avx2,
    /// Rust without any of these: every machine, and the reference for the others.
    Plain,
}

/// `MOBULA_CPU` asks for what cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The word is none of the paths' names.
    #[error("MOBULA_CPU={value} is no CPU path; this machine has {}", Names(available))]
    Unknown {
        /// What the variable holds.
        value: String,
        /// What it may hold here.
        available: Vec<Path>,
    },
    /// This machine lacks the instructions.
    #[error("MOBULA_CPU={path} needs instructions that this machine lacks; it has {}", Names(available))]
    Unavailable {
        /// The path asked for.
        path: Path,
        /// What it may be here.
        available: Vec<Path>,
    },
}

impl Path {
    /// The variable that forces a path: `avx512`, `avx2` or `plain`.
    pub const VARIABLE: &str = "MOBULA_CPU";

    /// Every path, best first.
    pub const ALL: [Path; 3] = [Path::Avx512Vnni, Path::Avx2, Path::Plain];

    /// The path that `MOBULA_CPU` names, or the best that this machine has.
    ///
    /// # Errors
    ///
    /// [`PathError`] when the variable holds an unknown word, or a path that this machine lacks.
    pub fn detect() -> Result<Path, PathError> {
        let forced = std::env::var_os(Self::VARIABLE).map(|value| value.to_string_lossy().into_owned());
        Self::choose(forced.as_deref(), Self::available())
    }

    /// The paths that this machine has, best first; [`Path::Plain`] is always among them.
    pub fn available() -> Vec<Path> {
        Self::ALL.into_iter().filter(|path| path.is_available()).collect()
    }

    /// Whether this machine has the instructions.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        // The standard library asks the processor once and keeps the answer in an atomic.
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Path::Avx512Vnni => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Path::Avx2 => avx2(),
            Path::Plain => true,
        }
    }

    /// Whether this machine has the instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Path::Plain
    }

    /// Runs `f`, compiled for the path's instructions as far as it is inlined.
    ///
    /// # Panics
    ///
    /// If this machine lacks them.
    #[inline(always)]
    pub(crate) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Vnni => Avx512::new().run(f),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Avx2::new().run(f),
            _ => {
                assert!(self.is_available(), "this machine lacks the CPU path {self}");
                f()
            }
        }
    }

    /// The word for [`Path::VARIABLE`].
    pub const fn name(self) -> &'static str {
        match self {
            Path::Avx512Vnni => "avx512",
            Path::Avx2 => "avx2",
            Path::Plain => "plain",
        }
    }

    /// The decision of [`Path::detect`], apart from the environment and the processor.
    fn choose(forced: Option<&str>, available: Vec<Path>) -> Result<Path, PathError> {
        // An empty variable is how shells unset one for a single command.
        let Some(value) = forced.filter(|value| !value.is_empty()) else {
            return Ok(available[0]);
        };
        match Self::ALL.into_iter().find(|path| path.name() == value) {
            Some(path) if available.contains(&path) => Ok(path),
            Some(path) => Err(PathError::Unavailable { path, available }),
            None => Err(PathError::Unknown { value: value.to_owned(), available }),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `avx2, plain`
struct Names<'a>(&'a [Path]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|path| path.name()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_decides_else_the_best() {
        let here = || vec![Path::Avx2, Path::Plain];
        assert_eq!(Path::choose(None, here()), Ok(Path::Avx2));
        assert_eq!(Path::choose(Some(""), here()), Ok(Path::Avx2));
        assert_eq!(Path::choose(Some("plain"), here()), Ok(Path::Plain));
        let error = |value| Path::choose(Some(value), here()).unwrap_err().to_string();
        assert_eq!(error("avx512"), "MOBULA_CPU=avx512 needs instructions that this machine lacks; it has avx2, plain");
        assert_eq!(error("AVX2"), "MOBULA_CPU=AVX2 is no CPU path; this machine has avx2, plain");
    }

    #[test]
    fn plain_runs_everywhere_and_comes_last() {
        assert_eq!(Path::available().last(), Some(&Path::Plain));
    }
}
