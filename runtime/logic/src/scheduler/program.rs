//! Which nodes can run the program of a job: what it was built for, and what their hosts offer (design.md §2).

use mobula_types::program::{Platform, Target};
use mobula_types::{JobId, NodeId};

use super::{Peer, Scheduler};

impl Scheduler {
    /// The same on a host that can run certain programs only.
    #[must_use]
    pub fn on(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// What the program of a job was built for is known from now on.
    pub(super) fn handle_program(&mut self, job: JobId, target: Option<Target>) {
        match target {
            Some(target) if !self.ended.contains(&job) => _ = self.targets.insert(job, target),
            _ => _ = self.targets.remove(&job),
        }
    }

    /// The job's target, when this node's host cannot run it.
    pub(super) fn cannot_run_here(&self, job: JobId) -> Option<&Target> {
        self.targets.get(&job).filter(|target| !self.platform.runs(target))
    }

    /// The same of another node's host.
    pub(super) fn cannot_run_there(&self, job: JobId, peer: &Peer) -> Option<&Target> {
        self.targets.get(&job).filter(|target| !peer.load.platform.runs(target))
    }

    /// In words, when no living node can run the program of a job.
    pub(super) fn nobody_runs(&self, job: JobId) -> Option<String> {
        let target = self.cannot_run_here(job)?;
        let is_nobody = self.peers.values().all(|peer| self.cannot_run_there(job, peer).is_some());
        let hosts = self.peers.iter().map(|(node, peer)| (*node, &peer.load.platform));
        let hosts = hosts.chain([(self.node, &self.platform)]).min_by_key(|(node, _)| *node);
        let (node, platform) = hosts.filter(|_| is_nobody)?;
        Some(format!("no node of the cluster can run its program, built for {target}: {node} is {platform}"))
    }
}

/// That a host cannot run a program, in words.
pub(super) fn cannot_run(node: NodeId, target: &Target, platform: &Platform) -> String {
    format!("{node} is {platform}, and its program was built for {target}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mobula_types::program::{Glibc, Libc};
    use mobula_types::resources::{Amount, Request, Resources};
    use mobula_types::{NodeLoad, PlacementSpec, PlacementStrategy, ProcessId, StateMachine, Time};

    use super::super::{Input, Output, RequestKey, Wanted};
    use super::*;

    const HERE: NodeId = NodeId(1);
    const THERE: NodeId = NodeId(2);
    const JOB: JobId = JobId(1);

    fn host(minor: u16) -> Platform {
        Platform { machine: "x86_64".into(), glibc: Some(Glibc { major: 2, minor }), has_musl: false }
    }

    fn built_for(minor: u16) -> Input {
        let target = Target { machine: "x86_64".into(), library: Libc::Gnu(Glibc { major: 2, minor }) };
        Input::Program { job: JOB, target: Some(target) }
    }

    fn four_cpus() -> Resources {
        Resources { cpus: Amount::whole(4), ..Resources::default() }
    }

    fn here(minor: u16) -> Scheduler {
        Scheduler::new(HERE, &four_cpus(), BTreeMap::new()).on(host(minor))
    }

    fn there(minor: u16) -> Input {
        let load = NodeLoad { total: four_cpus(), free: four_cpus(), platform: host(minor), ..NodeLoad::default() };
        Input::Seen { node: THERE, load }
    }

    fn key(holder: NodeId, number: u64) -> RequestKey {
        RequestKey { holder: ProcessId::new(holder, 1), number }
    }

    fn asked(request: RequestKey, strategy: PlacementStrategy) -> Input {
        let spec = PlacementSpec { request: Request::ONE_CPU, strategy, ..PlacementSpec::default() };
        Input::Asked(Wanted { request, job: JOB, spec, avoid: Vec::new(), lives_on: false, waits: false })
    }

    fn outputs(scheduler: &mut Scheduler, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
        inputs.into_iter().for_each(|input| scheduler.handle(Time::ZERO, input));
        std::iter::from_fn(|| scheduler.poll_output()).collect()
    }

    #[test]
    fn a_program_runs_only_where_it_can() {
        let (any, own) = (PlacementStrategy::Hybrid, key(HERE, 1));
        // What the host has is enough here, only there, and where nothing is known of the program.
        for (inputs, goes_here) in [
            (vec![built_for(31), there(34)], true),
            (vec![built_for(34), there(34)], false),
            (vec![there(34)], true),
            (vec![Input::Program { job: JobId(2), target: None }, there(34)], true),
        ] {
            let mut scheduler = here(31);
            let said = outputs(&mut scheduler, inputs.into_iter().chain([asked(own, any)]));
            match goes_here {
                true => assert!(matches!(said[..], [Output::StartWorker { .. }]), "{said:?}"),
                false => assert!(matches!(said[..], [Output::AskPeer { node: THERE, .. }]), "{said:?}"),
            }
        }
    }

    #[test]
    fn what_runs_nowhere_waits_and_says_why_until_a_node_comes() {
        let (any, own) = (PlacementStrategy::Hybrid, key(HERE, 1));
        let mut scheduler = here(31);
        assert_eq!(outputs(&mut scheduler, [built_for(38), asked(own, any)]), []);
        let built = "built for x86_64-unknown-linux-gnu with GLIBC_2.38";
        let why = scheduler.why(Time::ZERO, own).unwrap();
        assert_eq!(why, format!("node-1 is x86_64-unknown-linux-gnu with GLIBC_2.31, and its program was {built}"));
        assert_eq!(outputs(&mut scheduler, [there(34)]), []);
        let why = scheduler.why(Time::ZERO, own).unwrap();
        let first = "node-1 is x86_64-unknown-linux-gnu with GLIBC_2.31";
        assert_eq!(why, format!("no node of the cluster can run its program, {built}: {first}"));
        let said = outputs(&mut scheduler, [there(38)]);
        assert!(matches!(said[..], [Output::AskPeer { node: THERE, .. }]), "{said:?}");
    }

    #[test]
    fn who_asked_for_a_node_that_cannot_run_it_waits_and_is_told() {
        let (only, own) = (PlacementStrategy::Node { node: THERE }, key(HERE, 1));
        let mut scheduler = here(38);
        assert_eq!(outputs(&mut scheduler, [built_for(38), there(34), asked(own, only)]), []);
        let why = scheduler.why(Time::ZERO, own).unwrap();
        assert!(why.starts_with("node-2 was asked for: node-2 is x86_64-unknown-linux-gnu with GLIBC_2.34"), "{why}");
    }

    #[test]
    fn another_node_is_refused_with_the_reason() {
        let (any, theirs) = (PlacementStrategy::Hybrid, key(THERE, 1));
        let mut scheduler = here(31);
        let said = outputs(&mut scheduler, [built_for(34), asked(theirs, any)]);
        let [Output::Refuse { why, .. }] = &said[..] else { panic!("{said:?}") };
        assert!(why.to_string().contains("with GLIBC_2.31, and its program was built for"), "{why}");
    }

    #[test]
    fn nothing_is_kept_of_a_job_that_is_over() {
        let mut scheduler = here(31);
        outputs(&mut scheduler, [built_for(34), Input::JobEnded { job: JOB }]);
        assert!(scheduler.targets.is_empty());
        outputs(&mut scheduler, [built_for(34)]);
        assert!(scheduler.targets.is_empty(), "what is told late is not kept either");
    }
}
