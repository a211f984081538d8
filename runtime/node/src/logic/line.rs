//! Who takes the next CPU: tasks that ask for one CPU in a queue of their own, all others in a line by shape.
//!
//! The queue of plain tasks is kept elsewhere, because it must be fast; here it is two numbers: how many came, how many
//! have begun. A task in the line stands behind the plain ones that came before it; when those have begun, it is *due*.
//!
//! LINE-1: the first due task that lacks only CPUs keeps later tasks, plain or not, from taking any, so it runs as soon
//! as enough of them are given back. LINE-2: a task that lacks something else keeps nobody waiting.

use std::collections::VecDeque;

use super::{Amount, Fit, Ledger, Request, Resources};

/// The ledger, and the tasks of special shape that wait for it.
#[derive(Debug)]
pub struct Line<T> {
    ledger: Ledger,
    /// Tasks that ask for the same stand behind one another: only the first of each shape is looked at.
    shapes: Vec<Shape<T>>,
    next_seq: u64,
}

#[derive(Debug)]
struct Shape<T> {
    request: Request,
    waiting: VecDeque<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    seq: u64,
    /// Plain tasks that came before it.
    behind: u64,
    task: T,
}

impl<T> Line<T> {
    /// Nobody waits, all is free.
    pub fn new(resources: &Resources) -> Self {
        Self { ledger: Ledger::new(resources), shapes: Vec::new(), next_seq: 0 }
    }

    /// What is in use.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// There is so much from now on.
    pub fn resize(&mut self, resources: &Resources) {
        self.ledger.resize(resources);
    }

    /// Whether somebody waits for CPUs and for nothing else that is in use.
    pub fn wants_cpus(&self) -> bool {
        let wants =
            |shape: &Shape<T>| shape.request.cpus > Amount::ZERO && self.ledger.fit(&shape.request) != Fit::Lacks;
        self.shapes.iter().any(wants)
    }

    /// Puts `task` behind the `came` plain tasks there have been.
    pub fn push(&mut self, request: Request, came: u64, task: T) {
        let waiting = Waiting { seq: self.next_seq, behind: came, task };
        self.next_seq += 1;
        match self.shapes.iter_mut().find(|shape| shape.request == request) {
            Some(shape) => shape.waiting.push_back(waiting),
            None => self.shapes.push(Shape { request, waiting: VecDeque::from([waiting]) }),
        }
    }

    /// Takes the first task that may run now out of the line and what it asks for out of the ledger.
    ///
    /// `begun` is how many plain tasks have begun; those that `is_over` says nobody waits for any more come out with no
    /// grant at all.
    pub fn next(&mut self, begun: u64, is_over: impl Fn(&T) -> bool) -> Option<(T, Request)> {
        if let Some(over) = self.shapes.iter().position(|shape| is_over(&shape.waiting[0].task)) {
            return Some((self.leave(over).0, Request::default()));
        }
        let reserved = self.reserved(begun);
        let may_run = |shape: &&(usize, &Shape<T>)| {
            let (_, Shape { request, waiting }) = shape;
            let first = &waiting[0];
            let its_turn = request.cpus == Amount::ZERO || (first.behind <= begun && first.seq < reserved);
            its_turn && self.ledger.fit(request) == Fit::Now
        };
        let shapes: Vec<_> = self.shapes.iter().enumerate().collect();
        let (at, _) = *shapes.iter().filter(may_run).min_by_key(|(_, shape)| shape.waiting[0].seq)?;
        let (task, request) = self.leave(at);
        self.ledger.take(&request);
        Some((task, request))
    }

    /// Takes one CPU for a plain task, unless one in the line comes first.
    pub fn take_cpu(&mut self, begun: u64) -> bool {
        let free = self.ledger.fit(&Request::ONE_CPU) == Fit::Now && self.reserved(begun) == u64::MAX;
        if free {
            self.ledger.take(&Request::ONE_CPU);
        }
        free
    }

    /// Takes what was given back during a wait, even above the total.
    pub fn take_again(&mut self, request: &Request) {
        self.ledger.take(request);
    }

    /// Gives back what a task held.
    pub fn give(&mut self, request: &Request) {
        self.ledger.give(request);
    }

    /// Those who wait and are `wanted`, in order.
    pub fn take_out(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for shape in &mut self.shapes {
            for waiting in std::mem::take(&mut shape.waiting) {
                if wanted(&waiting.task) { out.push(waiting) } else { shape.waiting.push_back(waiting) }
            }
        }
        self.shapes.retain(|shape| !shape.waiting.is_empty());
        out.sort_by_key(|waiting| waiting.seq);
        out.into_iter().map(|waiting| waiting.task).collect()
    }

    /// Everybody who waits.
    pub fn drain(&mut self) -> Vec<T> {
        self.shapes.drain(..).flat_map(|shape| shape.waiting).map(|waiting| waiting.task).collect()
    }

    /// The task that keeps later ones from taking CPUs; the largest number when there is none.
    fn reserved(&self, begun: u64) -> u64 {
        let due = self.shapes.iter().filter(|shape| shape.waiting[0].behind <= begun);
        let lacking = due.filter(|shape| self.ledger.fit(&shape.request) == Fit::LacksOnlyCpus);
        lacking.map(|shape| shape.waiting[0].seq).min().unwrap_or(u64::MAX)
    }

    fn leave(&mut self, at: usize) -> (T, Request) {
        let shape = &mut self.shapes[at];
        let first = shape.waiting.pop_front().expect("a shape is kept only while somebody of it waits");
        if shape.waiting.is_empty() {
            (first.task, self.shapes.swap_remove(at).request)
        } else {
            (first.task, shape.request.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn line() -> Line<&'static str> {
        let others = BTreeMap::from([("tpu".to_owned(), Amount::ONE)]);
        Line::new(&Resources { cpus: Amount::whole(2), gpus: Amount::ZERO, others })
    }

    fn cpus(count: u64) -> Request {
        Request { cpus: Amount::whole(count), ..Request::default() }
    }

    fn tpu() -> Request {
        Request { others: vec![("tpu".into(), Amount::ONE)], ..Request::default() }
    }

    fn next(line: &mut Line<&'static str>, begun: u64) -> Option<&'static str> {
        line.next(begun, |task| *task == "over").map(|(task, _)| task)
    }

    #[test]
    fn a_task_waits_for_the_plain_ones_before_it() {
        let mut line = line();
        line.push(cpus(2), 3, "both");
        assert_eq!(next(&mut line, 2), None);
        assert_eq!(next(&mut line, 3), Some("both"));
        assert!(!line.wants_cpus());
    }

    #[test]
    fn the_first_that_lacks_cpus_keeps_later_ones_from_taking_them() {
        let mut line = line();
        assert!(line.take_cpu(0));
        line.push(cpus(2), 0, "both");
        line.push(cpus(1), 0, "one");
        assert!(!line.take_cpu(0), "LINE-1");
        assert_eq!(next(&mut line, 0), None);
        line.give(&Request::ONE_CPU);
        assert_eq!(next(&mut line, 0), Some("both"));
        assert_eq!(next(&mut line, 0), None);
        line.give(&cpus(2));
        assert_eq!(next(&mut line, 0), Some("one"));
        assert!(line.take_cpu(0));
    }

    #[test]
    fn one_that_lacks_something_else_keeps_nobody_waiting() {
        let mut line = line();
        line.push(tpu(), 0, "first");
        line.push(Request { cpus: Amount::whole(2), ..tpu() }, 0, "second");
        assert_eq!(next(&mut line, 0), Some("first"));
        assert_eq!(next(&mut line, 0), None);
        assert!(line.take_cpu(0), "LINE-2");
    }

    #[test]
    fn some_are_taken_out_in_order_and_the_rest_stays() {
        let mut line = line();
        line.push(cpus(2), 0, "sent 1");
        line.push(tpu(), 0, "sent 2");
        line.push(cpus(2), 0, "own");
        assert_eq!(line.take_out(|task| task.starts_with("sent")), ["sent 1", "sent 2"]);
        assert_eq!((next(&mut line, 0), next(&mut line, 0)), (Some("own"), None));
    }

    #[test]
    fn what_needs_no_cpu_waits_for_no_plain_task() {
        let mut line = line();
        line.push(tpu(), 1_000, "tpu");
        assert_eq!(next(&mut line, 0), Some("tpu"));
    }

    #[test]
    fn what_nobody_waits_for_comes_out_and_takes_nothing() {
        let mut line = line();
        line.push(cpus(2), 0, "over");
        line.push(cpus(2), 0, "both");
        assert_eq!(next(&mut line, 0), Some("over"));
        assert_eq!(next(&mut line, 0), Some("both"));
    }

    #[test]
    fn what_was_given_back_in_a_wait_is_taken_again_at_once() {
        let mut line = line();
        assert!(line.take_cpu(0) && line.take_cpu(0));
        line.give(&Request::ONE_CPU);
        assert!(line.take_cpu(0));
        line.take_again(&Request::ONE_CPU);
        assert!(!line.take_cpu(0));
        line.give(&Request::ONE_CPU);
        assert!(!line.take_cpu(0), "two are in use still");
        line.give(&Request::ONE_CPU);
        assert!(line.take_cpu(0));
    }
}
