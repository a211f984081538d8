//! Leases and the workers they are in: from the decision for this node to the return.

use std::collections::BTreeSet;

use mobula_types::resources::{Amount, Request, Resources};
use mobula_types::{JobId, LeaseId, ProcessId, Time};

use super::bundles::Pool;
use super::devices::Share;
use super::place::{Lack, add_to, is_isolated, take_from};
use super::{
    Ask, At, Failures, LEASE_BITS, Lease, Mutant, Output, Refusal, RequestKey, START_WAIT_MAX, START_WAIT_MIN,
    STARTS_MAX, Scheduler, StartId, State, Worker,
};

impl Worker {
    pub(super) fn process(&self) -> Option<ProcessId> {
        match self.state {
            State::Running(process) => Some(process),
            State::Ending(process) => process,
            State::Starting => None,
        }
    }
}

impl Scheduler {
    /// Gives `request` a lease here; it is granted as soon as its worker runs.
    pub(super) fn lease(&mut self, request: RequestKey, devices: Vec<Share>) {
        let Some(ask) = self.asks.get(&request) else { return };
        let (shape, number, lives_on) = (ask.shape, ask.number, ask.lives_on);
        self.dequeue(shape, number);
        let (job, spec) = (self.shapes[shape].job, self.shapes[shape].spec.clone());
        let is_sharing = self.planted.is(Mutant::ShareDevices);
        let fitting = spec.within.and_then(|within| self.fits_bundle(within, &spec.request).ok());
        let pool: Pool = fitting.map(|(bundle, _)| bundle);
        debug_assert_eq!(pool.is_some(), spec.within.is_some(), "there was room in a bundle just now");
        self.take_of(pool, &spec.request);
        if pool.is_none() {
            self.count_lease(job, &spec.request);
        }
        if let Some(of_pool) = self.devices_of(pool).filter(|_| !is_sharing) {
            of_pool.take(&devices);
        }
        self.granted += 1;
        let id = LeaseId(self.node.0 << LEASE_BITS | self.granted);
        let start = match is_isolated(&spec) {
            true => None,
            false => self.shared.get(&(job, pool)).copied(),
        };
        let start = start.unwrap_or_else(|| self.start_worker((job, pool), is_isolated(&spec), &devices));
        if let Some(worker) = self.workers.get_mut(&start) {
            worker.leases.insert(id);
            add_to(&mut worker.held, &spec.request);
        }
        self.by_holder.insert((request.holder, id));
        self.leases.insert(id, Lease { request, job, spec, pool, worker: start, devices, lives_on });
        if let Some(ask) = self.asks.get_mut(&request) {
            ask.at = At::Here(id);
        }
        if let Some(State::Running(process)) = self.workers.get(&start).map(|worker| worker.state) {
            self.grant(id, process);
        }
    }

    fn start_worker(&mut self, (job, pool): (JobId, Pool), isolated: bool, devices: &[Share]) -> StartId {
        self.started += 1;
        let start = StartId(self.started);
        let worker = Worker {
            job,
            pool,
            isolated,
            state: State::Starting,
            leases: BTreeSet::new(),
            waiting: Amount::ZERO,
            held: Resources::default(),
            lent: Amount::ZERO,
        };
        self.workers.insert(start, worker);
        if isolated {
            self.starting += 1;
        } else {
            self.shared.insert((job, pool), start);
        }
        let gpus = devices.iter().map(|(at, _)| *at).collect();
        self.outputs.push_back(Output::StartWorker { start, job, isolated, gpus });
        start
    }

    /// SCHED-2: said only of a worker that runs.
    fn grant(&mut self, id: LeaseId, process: ProcessId) {
        let Some(lease) = self.leases.get(&id) else { return };
        let (request, start) = (lease.request, lease.worker);
        if !lease.spec.request.is_nothing() {
            self.tell_capacity(start);
        }
        self.count_granted(id);
        self.forget(request);
        self.outputs.push_back(Output::Grant { request, lease: id, process });
    }

    fn tell_capacity(&mut self, start: StartId) {
        let Some(worker) = self.workers.get(&start) else { return };
        if let State::Running(process) = worker.state {
            let held = worker.held.clone();
            let resources = Resources { cpus: held.cpus.minus(worker.lent), ..held };
            self.outputs.push_back(Output::Capacity { process, resources });
        }
    }

    /// SCHED-3: the one place where a lease ends; a second time is nothing.
    pub(super) fn release(&mut self, id: LeaseId) {
        let Some(Lease { request, job, spec, pool, worker: start, devices, .. }) = self.leases.remove(&id) else {
            return;
        };
        self.by_holder.remove(&(request.holder, id));
        if let Some(worker) = self.workers.get_mut(&start) {
            worker.leases.remove(&id);
            take_from(&mut worker.held, &spec.request);
            let waiting = worker.waiting.min(worker.held.cpus);
            self.set_waiting(start, waiting);
        }
        if pool.is_none() {
            self.count_release(id, job, &spec.request);
        }
        self.give_to(pool, &spec.request);
        let is_sharing = self.planted.is(Mutant::ShareDevices);
        if let Some(of_pool) = self.devices_of(pool).filter(|_| !is_sharing) {
            of_pool.give(&devices);
        }
        match self.workers.get(&start) {
            Some(worker) if worker.isolated => self.end_worker(start),
            Some(_) if !spec.request.is_nothing() => self.tell_capacity(start),
            _ => {}
        }
    }

    fn end_worker(&mut self, start: StartId) {
        if let Some(process) = self.stop_worker(start) {
            self.outputs.push_back(Output::EndWorker { process });
        }
    }

    /// Nothing is granted in a worker any more; gives the process that is to be ended.
    pub(super) fn stop_worker(&mut self, start: StartId) -> Option<ProcessId> {
        let worker = self.workers.get_mut(&start)?;
        match worker.state {
            State::Running(process) => {
                worker.state = State::Ending(Some(process));
                Some(process)
            }
            State::Starting => {
                worker.state = State::Ending(None);
                self.starting -= usize::from(worker.isolated);
                None
            }
            State::Ending(_) => None,
        }
    }

    pub(super) fn end_workers_of(&mut self, job: JobId) {
        self.shared.retain(|(of, _), _| *of != job);
        let of_job: Vec<StartId> =
            self.workers.iter().filter(|(_, worker)| worker.job == job).map(|(start, _)| *start).collect();
        for start in of_job {
            let leases = self.workers.get(&start).map(|worker| worker.leases.clone()).unwrap_or_default();
            self.end_worker(start);
            leases.into_iter().for_each(|lease| self.release(lease));
        }
    }

    pub(super) fn handle_started(&mut self, now: Time, start: StartId, process: ProcessId) {
        let Some(worker) = self.workers.get_mut(&start) else {
            // It was given up for dead already.
            return self.outputs.push_back(Output::EndWorker { process });
        };
        match worker.state {
            State::Running(_) | State::Ending(Some(_)) => return,
            State::Ending(None) => {
                worker.state = State::Ending(Some(process));
                self.by_process.insert(process, start);
                return self.outputs.push_back(Output::EndWorker { process });
            }
            State::Starting => worker.state = State::Running(process),
        }
        self.starting -= usize::from(worker.isolated);
        self.by_process.insert(process, start);
        self.failures.remove(&worker.job);
        let leases = worker.leases.clone();
        leases.into_iter().for_each(|lease| self.grant(lease, process));
        // Others may have waited for a start to be over.
        self.serve_all(now);
    }

    pub(super) fn handle_failed(&mut self, now: Time, start: StartId, why: &str) {
        let is_starting = |worker: &Worker| matches!(worker.state, State::Starting | State::Ending(None));
        if !self.workers.get(&start).is_some_and(is_starting) {
            return;
        }
        let Some(worker) = self.workers.remove(&start) else { return };
        if self.shared.get(&(worker.job, worker.pool)) == Some(&start) {
            self.shared.remove(&(worker.job, worker.pool));
        }
        if worker.state == State::Starting {
            self.starting -= usize::from(worker.isolated);
            let failures = self.failures.entry(worker.job);
            let failures = failures.or_insert_with(|| Failures { in_a_row: 0, again_at: now, why: String::new() });
            failures.in_a_row += 1;
            why.clone_into(&mut failures.why);
            let wait = START_WAIT_MIN.saturating_mul(2u32.saturating_pow(failures.in_a_row - 1)).min(START_WAIT_MAX);
            failures.again_at = now + wait;
            self.alarms.insert(failures.again_at);
        }
        for lease in worker.leases {
            let Some(request) = self.leases.get(&lease).map(|lease| lease.request) else { continue };
            self.release(lease);
            let Some(ask) = self.asks.get_mut(&request) else { continue };
            ask.failures += 1;
            if ask.failures >= STARTS_MAX || request.holder.node() != self.node {
                ask.at = At::Queue;
                self.forget(request);
                self.refuse(request, Refusal::WorkerFailed { node: self.node, why: why.to_owned() });
            } else {
                self.enqueue(request);
            }
        }
        self.serve_all(now);
    }

    /// Wants every lease back. Those whose worker is not there yet nobody has heard of: their requests go elsewhere, and
    /// so does what waits here for other nodes.
    pub(super) fn recall_all(&mut self, now: Time) {
        let is_own = |request: &RequestKey| request.holder.node() == self.node;
        let goes = |(request, ask): &(&RequestKey, &Ask)| matches!(ask.at, At::Here(_)) || !is_own(request);
        let going = self.asks.iter().filter(goes).map(|(request, ask)| (*request, ask.at, is_own(request)));
        for (request, at, is_own) in going.collect::<Vec<_>>() {
            if let At::Here(lease) = at {
                self.release(lease);
                self.enqueue(request);
            }
            if !is_own {
                self.refuse_other(now, request, &Lack::Draining);
            }
        }
        for (lease, Lease { request, .. }) in &self.leases {
            self.outputs.push_back(Output::Recall { holder: request.holder, lease: *lease });
        }
    }

    /// A worker of ours has ended, and its leases with it: their holders hear of its death.
    pub(super) fn drop_worker(&mut self, process: ProcessId) {
        let Some(start) = self.by_process.remove(&process) else { return };
        let Some(worker) = self.workers.remove(&start) else { return };
        if self.shared.get(&(worker.job, worker.pool)) == Some(&start) {
            self.shared.remove(&(worker.job, worker.pool));
        }
        if worker.waiting > Amount::ZERO && worker.pool.is_none() {
            self.count_waiting(worker.job, worker.waiting, Amount::ZERO);
        }
        if let Some(ledger) = self.ledger_of(worker.pool).filter(|_| worker.waiting > Amount::ZERO) {
            ledger.take(&Request { cpus: worker.waiting, ..Request::default() });
        }
        if self.planted.is(Mutant::KeepLeasesOnDead) {
            return;
        }
        worker.leases.into_iter().for_each(|lease| self.release(lease));
    }

    pub(super) fn handle_waiting(&mut self, now: Time, process: ProcessId, cpus: Amount) {
        let Some(start) = self.by_process.get(&process).copied() else { return };
        let held = self.workers.get(&start).map_or(Amount::ZERO, |worker| worker.held.cpus);
        self.set_waiting(start, cpus.min(held));
        self.serve_all(now);
    }

    /// Tells workers how much of what waits in them others use now.
    pub(super) fn settle_lent(&mut self) {
        if self.lenders.is_empty() {
            return;
        }
        let mut over = self.over();
        for start in std::mem::take(&mut self.lenders) {
            let Some(worker) = self.workers.get_mut(&start) else { continue };
            // The pool of a worker that ends may be gone.
            let mut none = Amount::ZERO;
            let over = over.get_mut(&worker.pool).unwrap_or(&mut none);
            let lent = worker.waiting.min(*over);
            *over = over.minus(lent);
            let before = std::mem::replace(&mut worker.lent, lent);
            if worker.waiting > Amount::ZERO {
                self.lenders.insert(start);
            }
            if lent != before {
                self.tell_capacity(start);
            }
        }
    }

    /// Others may use what waits; when it goes on, more may be in use than there is, until something is returned.
    fn set_waiting(&mut self, start: StartId, cpus: Amount) {
        let Some(worker) = self.workers.get_mut(&start) else { return };
        let before = std::mem::replace(&mut worker.waiting, cpus);
        let (job, pool) = (worker.job, worker.pool);
        if cpus != before {
            self.lenders.insert(start);
            if pool.is_none() {
                self.count_waiting(job, before, cpus);
            }
        }
        let Some(ledger) = self.ledger_of(pool) else { return };
        let request = |cpus| Request { cpus, ..Request::default() };
        if cpus > before {
            ledger.give(&request(cpus.minus(before)));
        } else {
            ledger.take(&request(before.minus(cpus)));
        }
    }
}
