//! The engine as its users see it: answers, refusals and failures of a tiny random model in sessions of their own.
//!
//! | file | holds |
//! |---|---|
//! | `direct.rs` | what every answer must be: the same shards driven without engine, batch or actor |
//! | `answers.rs` | one and several requests, on 1 to 3 shards, plain and through the codec |
//! | `refusals.rs` | files that cannot be served and requests that mean nothing |
//! | `failures.rs` | shards that die, and engines that cannot be kept alive |
//! | `serving.rs` | the same behind `mobula_serve`'s `Engine` |

mod answers;
mod direct;
mod failures;
mod refusals;
mod serving;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mobula_llm::engine::{Description, LlmArgs, Prompt, Request};
use mobula_llm::random::SplitMix64;
use mobula_llm::tiny::{self, Shape};

/// How long the other side of a thread may take to notice something, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in a session of its own, with everything through the codec when `encode_all`; afterwards every call must
/// have had an outcome (G21).
fn in_session<F: Future<Output = ()>>(encode_all: bool, test: impl FnOnce() -> F) {
    mobula::__private::run_test(encode_all, test);
}

/// A model file that goes with its folder.
struct Saved {
    folder: tempfile::TempDir,
}

impl Saved {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tiny.gguf"), bytes).unwrap();
        Self { folder }
    }

    fn tiny(seed: u64) -> Self {
        Self::new(&tiny::model(seed))
    }

    /// One whose sequences may run for seconds.
    fn patient() -> Self {
        Self::new(&Shape { context: 1 << 14, ..Shape::default() }.model(2))
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tiny.gguf")
    }

    fn args(&self, shards: usize) -> LlmArgs {
        LlmArgs { shards, ..LlmArgs::new(self.path()) }
    }
}

/// A greedy request for `len` random tokens' continuation by at most `tokens_max`.
fn request(seed: u64, len: usize, tokens_max: usize) -> Request {
    let mut random = SplitMix64::new(seed);
    // The first three are control tokens.
    let tokens = (0..len).map(|_| 3 + random.below(256) as u32).collect();
    Request { tokens_max: Some(tokens_max), ..Request::new(Prompt::Tokens(tokens)) }
}

/// Waits until nothing waits or runs and all blocks are free.
async fn until_idle(described: &Description) {
    until(described, |[waiting, running, blocks_used, _]| [waiting, running, blocks_used] == [0, 0, 0]).await;
}

/// Waits until the engine's load is as `wanted`.
async fn until(described: &Description, wanted: impl Fn([usize; 4]) -> bool) {
    let given_up = Instant::now() + PATIENCE;
    while !wanted(described.load()) {
        assert!(Instant::now() < given_up, "the engine still has {:?}", described.load());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
