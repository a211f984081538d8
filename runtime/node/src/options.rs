//! What a task asks for beside its arguments.

use std::time::Duration;

/// Runs of a task beyond the first that failures of the system may cost (G2).
const MAX_RETRIES: u32 = 3;

/// What one submission of a remote function asks for: resources, retries, a deadline.
///
/// ```
/// use std::time::Duration;
/// use mobula_node::TaskOptions;
/// const OPTIONS: TaskOptions = TaskOptions::new().num_cpus(0.5).timeout(Duration::from_secs(2));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TaskOptions {
    pub(crate) num_cpus: Option<f64>,
    pub(crate) num_gpus: f64,
    pub(crate) resources: Vec<(String, f64)>,
    pub(crate) max_retries: u32,
    pub(crate) timeout: Option<Duration>,
    pub(crate) name: Option<String>,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl TaskOptions {
    /// One CPU for a function that is not async and none for one that is; no deadline, 3 retries.
    pub const fn new() -> Self {
        Self {
            num_cpus: None,
            num_gpus: 0.0,
            resources: Vec::new(),
            max_retries: MAX_RETRIES,
            timeout: None,
            name: None,
        }
    }

    /// CPUs it takes while it runs, in steps of 0.0001.
    #[must_use]
    pub const fn num_cpus(mut self, num_cpus: f64) -> Self {
        self.num_cpus = Some(num_cpus);
        self
    }

    /// GPUs it takes while it runs, in steps of 0.0001.
    #[must_use]
    pub const fn num_gpus(mut self, num_gpus: f64) -> Self {
        self.num_gpus = num_gpus;
        self
    }

    /// How much it takes of a resource that the session's configuration names.
    #[must_use]
    pub fn resource(mut self, name: impl Into<String>, amount: f64) -> Self {
        self.resources.push((name.into(), amount));
        self
    }

    /// How often it may run again after a failure of the system; its own errors and panics are never retried.
    #[must_use]
    pub const fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// When it is of no use any more, counted from its submission.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// A name for it in lists and logs.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}
