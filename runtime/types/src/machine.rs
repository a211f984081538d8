//! The one shape of every decision, so that one driver and one simulator serve them all.

use crate::Time;

/// A decision apart from I/O: inputs and time go in, outputs come out, nothing else happens.
///
/// A driver hands over what it saw with [`handle`](Self::handle), performs every output of
/// [`poll_output`](Self::poll_output) in order, and comes back at [`next_timeout`](Self::next_timeout) at the latest.
pub trait StateMachine {
    /// What can happen to the machine.
    type Input;
    /// What the machine can ask for.
    type Output;

    /// Takes one input at `now`. Time never goes backwards; a passed timeout is acted on before the input.
    fn handle(&mut self, now: Time, input: Self::Input);

    /// The next thing to do, in order; `None` when all is said.
    fn poll_output(&mut self) -> Option<Self::Output>;

    /// When the machine wants to be called again although nothing happened.
    fn next_timeout(&self) -> Option<Time>;
}
