//! mobula-kernels.
