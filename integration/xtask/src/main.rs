//! Builds, checks and runs Mobula: `cargo xtask check|fix|test|demo|bench`.
fn main() {}
