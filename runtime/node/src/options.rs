//! What a task asks for beside its arguments.

use std::time::Duration;

use mobula_types::resources::{Amount, Request};
use mobula_types::{
    ErrorChain, GroupId, LabelRule, LabelSelector, NodeId, NotStarted, PlacementSpec, PlacementStrategy, Within,
};
use mobula_wire::parcel::TaskSpecWire;
use serde::de::DeserializeOwned;

use crate::admission::WhenFull;
use crate::retry::{Retries, Test};

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
    pub(crate) labels: Vec<LabelRule>,
    pub(crate) fallbacks: Vec<LabelSelector>,
    pub(crate) strategy: PlacementStrategy,
    pub(crate) isolated: bool,
    pub(crate) within: Option<Within>,
    pub(crate) at_most_once: bool,
    pub(crate) max_calls: Option<u32>,
    pub(crate) error_retries: Retries,
    /// Whether its submitter wants to see an error of its own as it is.
    pub(crate) wants_error: bool,
    pub(crate) priority: i32,
    pub(crate) when_full: WhenFull,
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
            labels: Vec::new(),
            fallbacks: Vec::new(),
            strategy: PlacementStrategy::Hybrid,
            isolated: false,
            within: None,
            at_most_once: false,
            max_calls: None,
            error_retries: Retries::NONE,
            wants_error: false,
            priority: 0,
            when_full: WhenFull::Wait,
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

    /// How often it may run again after a failure of the system. Its own errors and panics are another matter: see
    /// [`retry_errors`](Self::retry_errors).
    #[must_use]
    pub const fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// How often it may run again after it returned an error or panicked: never, unless this or
    /// [`retry_on`](Self::retry_on) says otherwise. A test that was given there stays.
    #[must_use]
    pub const fn retry_errors(mut self, count: u32) -> Self {
        self.error_retries.count = count;
        self
    }

    /// Runs again, so often, after an error of its own of which `test` holds, but not after a panic. For functions whose
    /// [`encode_error`](crate::RemoteFn::encode_error) gives an `E`.
    ///
    /// The test is called in the process that submits the task; it must not block.
    #[must_use]
    pub fn retry_on<E: DeserializeOwned + 'static>(
        mut self,
        test: impl Fn(&E) -> bool + Send + Sync + 'static,
        count: u32,
    ) -> Self {
        self.error_retries = Retries { count, test: Some(Test::of(test)) };
        self.wants_error = true;
        self
    }

    /// The same for functions whose errors travel as text with their causes.
    #[must_use]
    pub fn retry_on_text(mut self, test: impl Fn(&ErrorChain) -> bool + Send + Sync + 'static, count: u32) -> Self {
        self.error_retries = Retries { count, test: Some(Test::of_text(test)) };
        self.wants_error = false;
        self
    }

    /// When it is of no use any more, counted from its submission.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Runs on a node that carries this label.
    #[must_use]
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.label_rule(LabelRule::equal(key, value))
    }

    /// Runs on a node whose labels are as this rule says; with others, all must hold.
    ///
    /// ```
    /// use mobula_node::TaskOptions;
    /// use mobula_types::LabelRule;
    /// let rule: LabelRule = "zone not in (a, b)".parse()?;
    /// let options = TaskOptions::new().label_rule(rule).label_rule(LabelRule::not_equal("disk", "hdd"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn label_rule(mut self, rule: LabelRule) -> Self {
        self.labels.push(rule);
        self
    }

    /// When the labels of no living node are as was said so far, they must be as these rules say instead. Of several, the
    /// first counts that any node is as it says.
    #[must_use]
    pub fn label_fallback(mut self, rules: impl Into<LabelSelector>) -> Self {
        self.fallbacks.push(rules.into());
        self
    }

    /// Runs on this node, or not at all.
    #[must_use]
    pub const fn on_node(mut self, node: NodeId) -> Self {
        self.strategy = PlacementStrategy::Node { node };
        self
    }

    /// Runs on this node, waiting for it while others use it; elsewhere when it is dead or drained, or can never do.
    #[must_use]
    pub const fn on_node_soft(mut self, node: NodeId) -> Self {
        self.strategy = PlacementStrategy::NodeSoft { node };
        self
    }

    /// Which of the nodes that fit is taken.
    #[must_use]
    pub const fn strategy(mut self, strategy: PlacementStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Runs on the node that is used least.
    #[must_use]
    pub const fn spread_nodes(self) -> Self {
        self.strategy(PlacementStrategy::Spread)
    }

    /// Runs in a process of its own: its end is nobody else's.
    #[must_use]
    pub const fn isolated(mut self) -> Self {
        self.isolated = true;
        self
    }

    /// Runs in a process that runs nothing but this function, and ends after so many runs of it: what a foreign library leaks
    /// goes with it. Where no cluster runs it, no process is its own, and none ends.
    #[must_use]
    pub const fn max_calls(mut self, calls: u32) -> Self {
        self.isolated = true;
        self.max_calls = Some(calls);
        self
    }

    /// Takes what it needs of a placement group, of any bundle that has room, and of nothing else.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<GroupId>) -> Self {
        self.within = Some(Within { group: group.into(), bundle: None });
        self
    }

    /// Takes what it needs of this bundle of a placement group, and of nothing else.
    #[must_use]
    pub fn in_bundle(mut self, group: impl Into<GroupId>, bundle: u32) -> Self {
        self.within = Some(Within { group: group.into(), bundle: Some(bundle) });
        self
    }

    /// Never runs again once it may have begun.
    #[must_use]
    pub const fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// Goes before tasks of its job that wait for the same resources and have a lower one; 0 unless said. Of one priority, the
    /// first to come goes first. What runs is not interrupted, what it submits inherits nothing, and other jobs get their share
    /// whatever theirs say.
    #[must_use]
    pub const fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// What its submission does that finds the queue full.
    #[must_use]
    pub const fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// A name for it in lists and logs.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it gets a process of its own.
    pub(crate) fn is_isolated(&self) -> bool {
        self.isolated || self.num_gpus > 0.0
    }

    /// What it takes while it runs; a function that is not async takes a CPU unless it says otherwise.
    pub(crate) fn request(&self, is_sync: bool) -> Result<Request, NotStarted> {
        if self.num_cpus.is_none() && self.num_gpus == 0.0 && self.resources.is_empty() {
            return Ok(if is_sync { Request::ONE_CPU } else { Request::default() });
        }
        let amount = |name: &str, value: f64| {
            let missing = || format!("{name} = {value} is no amount: use a number from 0 on");
            Amount::new(value).ok_or_else(|| NotStarted::Unschedulable { missing: missing() })
        };
        let num_cpus = self.num_cpus.unwrap_or(if is_sync { 1.0 } else { 0.0 });
        let mut request = Request {
            cpus: amount("num_cpus", num_cpus)?,
            gpus: amount("num_gpus", self.num_gpus)?,
            others: Vec::new(),
        };
        for (name, value) in &self.resources {
            request.add(name, amount(name, *value)?);
        }
        Ok(request)
    }

    /// What its place must have.
    pub(crate) fn place(&self, is_sync: bool) -> Result<PlacementSpec, NotStarted> {
        let labels = self.labels.iter().cloned().collect();
        let request = self.request(is_sync)?;
        let fallbacks = self.fallbacks.clone();
        let Self { strategy, isolated, within, .. } = *self;
        let place = PlacementSpec { request, labels, fallbacks, strategy, isolated, within };
        place.check_labels().map_err(|missing| NotStarted::Unschedulable { missing })?;
        Ok(place)
    }

    /// The options of a task that came from elsewhere.
    pub(crate) fn received(spec: TaskSpecWire) -> Self {
        let TaskSpecWire { request, name, is_last_run, wants_error, priority } = spec;
        let wholes = |amount: Amount| amount.steps() as f64 / Amount::STEPS as f64;
        let resources = request.others.iter().map(|(name, amount)| (name.clone(), wholes(*amount))).collect();
        let (num_cpus, num_gpus) = (Some(wholes(request.cpus)), wholes(request.gpus));
        let max_retries = u32::from(!is_last_run);
        Self { num_cpus, num_gpus, resources, name, max_retries, wants_error, priority, ..Self::new() }
    }
}
