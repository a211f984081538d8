//! Who takes the next CPU: tasks that ask for one CPU in a queue of their own, all others in a line by shape.
//!
//! The queue of plain tasks is kept elsewhere, because it must be fast; here it is two numbers: how many came, how many
//! have begun. A task in the line stands behind the plain ones that came before it; when those have begun, it is *due*. Plain
//! ones have no priority: one with a priority above 0 is due at once, one with a priority below it when no plain one waits.
//!
//! Of those in the line, one with a higher priority comes before others, and of one priority the first to come: its *rank*.
//!
//! LINE-1: the first due task that lacks only CPUs keeps those behind it, plain or not, from taking any, so it runs as soon
//! as enough of them are given back. LINE-2: a task that lacks something else keeps nobody waiting.

use std::cmp::Reverse;
use std::collections::BTreeMap;

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
    /// Never empty.
    waiting: BTreeMap<Rank, Waiting<T>>,
}

/// Who comes first, by priority and then by number.
type Rank = (Reverse<i32>, u64);

/// The rank behind all others.
const LAST: Rank = (Reverse(i32::MIN), u64::MAX);

#[derive(Debug)]
struct Waiting<T> {
    /// Plain tasks that came before it.
    behind: u64,
    task: T,
}

/// How many plain tasks there have been, and how many of them have begun.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain {
    /// Since the start.
    pub came: u64,
    /// Of those.
    pub begun: u64,
}

impl<T> Shape<T> {
    fn first(&self) -> (Rank, &Waiting<T>) {
        let (rank, waiting) = self.waiting.first_key_value().expect("a shape is kept only while somebody of it waits");
        (*rank, waiting)
    }

    /// Whether no plain task comes before the first.
    fn is_due(&self, plain: Plain) -> bool {
        let ((Reverse(priority), _), first) = self.first();
        let behind = if priority < 0 { plain.came } else { first.behind };
        priority > 0 || behind <= plain.begun
    }
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

    /// Puts `task` into the line.
    pub fn push(&mut self, request: Request, priority: i32, plain: Plain, task: T) {
        let (rank, waiting) = ((Reverse(priority), self.next_seq), Waiting { behind: plain.came, task });
        self.next_seq += 1;
        match self.shapes.iter_mut().find(|shape| shape.request == request) {
            Some(shape) => drop(shape.waiting.insert(rank, waiting)),
            None => self.shapes.push(Shape { request, waiting: BTreeMap::from([(rank, waiting)]) }),
        }
    }

    /// Takes the first task that may run now out of the line and what it asks for out of the ledger.
    ///
    /// Those that `is_over` says nobody waits for any more come out with no grant at all.
    pub fn next(&mut self, plain: Plain, is_over: impl Fn(&T) -> bool) -> Option<(T, Request)> {
        if let Some(over) = self.shapes.iter().position(|shape| is_over(&shape.first().1.task)) {
            return Some((self.leave(over).0, Request::default()));
        }
        let reserved = self.reserved(plain).unwrap_or(LAST);
        let may_run = |shape: &&(usize, &Shape<T>)| {
            let (_, shape) = shape;
            let is_free = shape.request.cpus == Amount::ZERO;
            let its_turn = is_free || (shape.is_due(plain) && shape.first().0 < reserved);
            its_turn && self.ledger.fit(&shape.request) == Fit::Now
        };
        let shapes: Vec<_> = self.shapes.iter().enumerate().collect();
        let (at, _) = *shapes.iter().filter(may_run).min_by_key(|(_, shape)| shape.first().0)?;
        let (task, request) = self.leave(at);
        self.ledger.take(&request);
        Some((task, request))
    }

    /// Takes one CPU for a plain task, unless one in the line comes first.
    pub fn take_cpu(&mut self, plain: Plain) -> bool {
        let free = self.ledger.fit(&Request::ONE_CPU) == Fit::Now && self.reserved(plain).is_none();
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
            out.extend(shape.waiting.extract_if(.., |_, waiting| wanted(&waiting.task)));
        }
        self.shapes.retain(|shape| !shape.waiting.is_empty());
        out.sort_by_key(|(rank, _)| *rank);
        out.into_iter().map(|(_, waiting)| waiting.task).collect()
    }

    /// Everybody who waits.
    pub fn drain(&mut self) -> Vec<T> {
        self.shapes.drain(..).flat_map(|shape| shape.waiting.into_values()).map(|waiting| waiting.task).collect()
    }

    /// The task that keeps those behind it from taking CPUs.
    fn reserved(&self, plain: Plain) -> Option<Rank> {
        let due = self.shapes.iter().filter(|shape| shape.is_due(plain));
        let lacking = due.filter(|shape| self.ledger.fit(&shape.request) == Fit::LacksOnlyCpus);
        lacking.map(|shape| shape.first().0).min()
    }

    fn leave(&mut self, at: usize) -> (T, Request) {
        let shape = &mut self.shapes[at];
        let (_, first) = shape.waiting.pop_first().expect("a shape is kept only while somebody of it waits");
        if shape.waiting.is_empty() {
            (first.task, self.shapes.swap_remove(at).request)
        } else {
            (first.task, shape.request.clone())
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// So many plain tasks, and none of them waits.
    fn came(came: u64) -> Plain {
        Plain { came, begun: came }
    }

    fn next(line: &mut Line<&'static str>, begun: u64) -> Option<&'static str> {
        line.next(Plain { came: begun, begun }, |task| *task == "over").map(|(task, _)| task)
    }

    #[test]
    fn a_task_waits_for_the_plain_ones_before_it() {
        let mut line = line();
        line.push(cpus(2), 0, came(3), "both");
        assert_eq!(next(&mut line, 2), None);
        assert_eq!(next(&mut line, 3), Some("both"));
        assert!(!line.wants_cpus());
    }

    #[test]
    fn the_first_that_lacks_cpus_keeps_later_ones_from_taking_them() {
        let mut line = line();
        assert!(line.take_cpu(came(0)));
        line.push(cpus(2), 0, came(0), "both");
        line.push(cpus(1), 0, came(0), "one");
        assert!(!line.take_cpu(came(0)), "LINE-1");
        assert_eq!(next(&mut line, 0), None);
        line.give(&Request::ONE_CPU);
        assert_eq!(next(&mut line, 0), Some("both"));
        assert_eq!(next(&mut line, 0), None);
        line.give(&cpus(2));
        assert_eq!(next(&mut line, 0), Some("one"));
        assert!(line.take_cpu(came(0)));
    }

    #[test]
    fn one_that_lacks_something_else_keeps_nobody_waiting() {
        let mut line = line();
        line.push(tpu(), 0, came(0), "first");
        line.push(Request { cpus: Amount::whole(2), ..tpu() }, 0, came(0), "second");
        assert_eq!(next(&mut line, 0), Some("first"));
        assert_eq!(next(&mut line, 0), None);
        assert!(line.take_cpu(came(0)), "LINE-2");
    }

    #[test]
    fn some_are_taken_out_in_order_and_the_rest_stays() {
        let mut line = line();
        line.push(cpus(2), 0, came(0), "sent 1");
        line.push(tpu(), 0, came(0), "sent 2");
        line.push(cpus(2), 0, came(0), "own");
        assert_eq!(line.take_out(|task| task.starts_with("sent")), ["sent 1", "sent 2"]);
        assert_eq!((next(&mut line, 0), next(&mut line, 0)), (Some("own"), None));
    }

    #[test]
    fn what_needs_no_cpu_waits_for_no_plain_task() {
        let mut line = line();
        line.push(tpu(), 0, came(1_000), "tpu");
        assert_eq!(next(&mut line, 0), Some("tpu"));
    }

    #[test]
    fn what_nobody_waits_for_comes_out_and_takes_nothing() {
        let mut line = line();
        line.push(cpus(2), 0, came(0), "over");
        line.push(cpus(2), 0, came(0), "both");
        assert_eq!(next(&mut line, 0), Some("over"));
        assert_eq!(next(&mut line, 0), Some("both"));
    }

    #[test]
    fn what_was_given_back_in_a_wait_is_taken_again_at_once() {
        let mut line = line();
        assert!(line.take_cpu(came(0)) && line.take_cpu(came(0)));
        line.give(&Request::ONE_CPU);
        assert!(line.take_cpu(came(0)));
        line.take_again(&Request::ONE_CPU);
        assert!(!line.take_cpu(came(0)));
        line.give(&Request::ONE_CPU);
        assert!(!line.take_cpu(came(0)), "two are in use still");
        line.give(&Request::ONE_CPU);
        assert!(line.take_cpu(came(0)));
    }

    #[test]
    fn the_most_urgent_comes_first_and_of_one_priority_the_first_to_come() {
        let mut line = line();
        for (priority, task) in [(0, "first"), (-1, "low"), (5, "urgent"), (0, "second"), (5, "urgent too")] {
            line.push(cpus(1), priority, came(0), task);
        }
        // Another shape is of the same order.
        line.push(cpus(2), 9, came(0), "most urgent");
        let mut order = Vec::new();
        while let Some((task, request)) = line.next(came(0), |_| false) {
            line.give(&request);
            order.push(task);
        }
        assert_eq!(order, ["most urgent", "urgent", "urgent too", "first", "second", "low"]);
    }

    #[test]
    fn an_urgent_one_goes_before_plain_ones_and_a_low_one_behind_all_of_them() {
        let mut line = line();
        let waiting = Plain { came: 100, begun: 7 };
        let next = |line: &mut Line<&'static str>, plain| line.next(plain, |_| false).map(|(task, _)| task);
        assert!(line.take_cpu(waiting) && line.take_cpu(waiting));
        line.push(Request::ONE_CPU, -1, waiting, "low");
        assert!(line.wants_cpus());
        line.push(Request::ONE_CPU, 1, waiting, "urgent");
        line.give(&Request::ONE_CPU);
        assert_eq!((next(&mut line, waiting), next(&mut line, waiting)), (Some("urgent"), None));
        line.give(&Request::ONE_CPU);
        // More plain ones have come behind it, and go before it nevertheless.
        let later = Plain { came: 101, begun: 100 };
        assert_eq!(next(&mut line, later), None);
        assert!(line.take_cpu(later), "it keeps none of them waiting");
        line.give(&Request::ONE_CPU);
        assert_eq!(next(&mut line, came(101)), Some("low"));
    }
}
