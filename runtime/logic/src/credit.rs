//! How much mail of one process may be on its way to one actor of another, or wait in its mailbox (design.md §8).
//!
//! ```text
//! sender                                 receiver
//! OnTheWay: sent, not credited ──call──► mailbox ──taken──► Owed: taken, not credited
//!      ▲                                                      │ a quarter of the window
//!      └─────────────────────── credit ◄──────────────────────┘
//! ```
//!
//! The window is the mailbox's own bound, up to what a mailbox has by default: whoever asks for a small mailbox wants its
//! senders to feel it wherever they are. Credit comes back in quarters of the window, since a word for each call would
//! cost as much as the call.
//!
//! CREDIT-1: a sender has no more than the window on its way; mail that is large for the window goes when less than a
//! quarter of it is on its way, since that much may be owed for ever. CREDIT-2: when all that was sent has been taken, the
//! next may go.

/// Calls on their way to one actor at most: what its mailbox holds by default.
pub const CALLS_MAX: u32 = 1024;
/// Bytes of calls on their way to one actor at most.
pub const BYTES_MAX: u64 = 16 << 20;

/// What one process may have on its way to one actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    calls_max: u32,
    bytes_max: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { calls_max: CALLS_MAX, bytes_max: BYTES_MAX }
    }
}

impl Window {
    /// The window of an actor whose mailbox holds so much.
    pub fn of_mailbox(items_max: u64, bytes_max: u64) -> Self {
        let calls_max = u32::try_from(items_max).unwrap_or(CALLS_MAX).clamp(1, CALLS_MAX);
        Self { calls_max, bytes_max: bytes_max.min(BYTES_MAX) }
    }
}

/// The sender's account with one actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnTheWay {
    calls: u32,
    bytes: u64,
}

impl OnTheWay {
    /// Whether one more call of so many bytes may go.
    pub fn has_room(&self, window: Window, bytes: u64) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= window.bytes_max || self.bytes < window.bytes_max / 4;
        self.calls == 0 || (self.calls < window.calls_max && fits)
    }

    /// A call has gone.
    pub fn sent(&mut self, bytes: u64) {
        self.calls += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The receiver has given credit back.
    pub fn credited(&mut self, calls: u32, bytes: u64) {
        self.calls = self.calls.saturating_sub(calls);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Calls on their way.
    pub fn calls(&self) -> u32 {
        self.calls
    }
}

/// The receiver's account with one sender to one of its actors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    calls: u32,
    bytes: u64,
}

impl Owed {
    /// A call has left its mailbox; gives the calls and bytes that are to be credited now, if they are.
    pub fn taken(&mut self, window: Window, bytes: u64) -> Option<(u32, u64)> {
        self.calls += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let is_due = self.calls >= (window.calls_max / 4).max(1) || self.bytes >= window.bytes_max / 4;
        is_due.then(|| {
            let Self { calls, bytes } = std::mem::take(self);
            (calls, bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_window_is_the_mailbox_up_to_the_default() {
        assert_eq!(Window::of_mailbox(u64::MAX, u64::MAX), Window::default());
        assert_eq!(Window::of_mailbox(0, 7), Window { calls_max: 1, bytes_max: 7 });
        assert_eq!(Window::of_mailbox(2, 4096), Window { calls_max: 2, bytes_max: 4096 });
    }

    #[test]
    fn a_small_mailbox_has_room_for_what_it_holds() {
        let window = Window::of_mailbox(2, 4096);
        let mut way = OnTheWay::default();
        for _ in 0..2 {
            assert!(way.has_room(window, 8));
            way.sent(8);
        }
        assert!(!way.has_room(window, 0), "CREDIT-1: two are on their way");
        way.credited(1, 8);
        assert!(way.has_room(window, 8));
        let mut owed = Owed::default();
        assert_eq!(owed.taken(window, 8), Some((1, 8)), "a quarter of so few is one");
    }

    #[test]
    fn large_mail_goes_when_little_is_on_its_way() {
        let window = Window::default();
        let mut way = OnTheWay::default();
        way.sent(16);
        assert!(way.has_room(window, BYTES_MAX + 1), "the little may be owed for ever");
        way.sent(BYTES_MAX + 1);
        assert!(!way.has_room(window, 1));
        let mut owed = Owed::default();
        assert_eq!(owed.taken(window, 16), None);
        assert_eq!(owed.taken(window, BYTES_MAX + 1), Some((2, BYTES_MAX + 17)));
    }

    /// Mail of any sizes, taken and credited in any steps.
    #[test]
    fn nobody_waits_for_credit_that_does_not_come() {
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2_000 {
            let window = Window::of_mailbox(random(40), random(2_000));
            let (mut way, mut owed) = (OnTheWay::default(), Owed::default());
            let (mut mailbox, mut credits) = (VecDeque::new(), VecDeque::new());
            for _ in 0..200 {
                let bytes = random(2 * window.bytes_max + 2);
                while way.has_room(window, bytes) && random(4) > 0 {
                    let before = way;
                    way.sent(bytes);
                    mailbox.push_back(bytes);
                    let is_small = way.bytes <= window.bytes_max;
                    let fits = way.calls <= window.calls_max && (is_small || before.bytes < window.bytes_max / 4);
                    assert!(fits || before.calls == 0, "CREDIT-1: {before:?} and {bytes} in {window:?}");
                }
                for _ in 0..random(3) {
                    credits.extend(mailbox.pop_front().and_then(|bytes| owed.taken(window, bytes)));
                }
                if random(3) == 0 {
                    credits.drain(..).for_each(|(calls, bytes)| way.credited(calls, bytes));
                }
            }
            credits.extend(mailbox.drain(..).filter_map(|bytes| owed.taken(window, bytes)));
            credits.drain(..).for_each(|(calls, bytes)| way.credited(calls, bytes));
            assert!(way.has_room(window, u64::MAX), "CREDIT-2: {way:?} in {window:?}");
        }
    }
}
