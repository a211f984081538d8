//! Whether a frame is written by its sender at once, or gathered with others by the writer.
//!
//! A frame that is left to the writer waits until that has woken, which takes longer than all the rest of its way. But one
//! write for many frames costs little more than one for a single frame, and wakes the other side once. So what matters is
//! how fast frames come: while the writer wakes there is either another one to be gathered, or there is none and the wait
//! was for nothing.
//!
//! PACE-1: frames that come faster, on average since it was last asked, than a writer wakes are never written at once, so
//! a stream of them is gathered from its second frame on. PACE-2: a frame that comes alone always is.

use std::time::Duration;

use mobula_types::Time;

/// Frames that come faster than this are gathered: about what waking a thread takes on a processor that sleeps.
const GATHERED_WITHIN: Duration = Duration::from_micros(20);

/// How fast frames come.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When it was last asked; before that nothing had come for ever.
    asked: Option<Time>,
    /// Frames since then.
    frames: u32,
}

impl Pace {
    /// A frame comes that must be gathered, whatever the pace: others wait before it.
    pub(crate) fn gathered(&mut self) {
        self.frames = self.frames.saturating_add(1);
    }

    /// A frame comes before which nothing waits: whether to write it at once.
    pub(crate) fn is_alone(&mut self, now: Time) -> bool {
        let frames = std::mem::take(&mut self.frames).saturating_add(1);
        let asked = self.asked.replace(now);
        asked.is_none_or(|asked| now.since(asked) >= GATHERED_WITHIN * frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames at these microseconds, nothing waiting before any of them: which are written at once.
    fn at_once(moments: &[u64]) -> Vec<bool> {
        let mut pace = Pace::default();
        moments.iter().map(|at| pace.is_alone(Time::from_nanos(at * 1_000))).collect()
    }

    #[test]
    fn who_waits_for_each_answer_is_never_gathered() {
        assert_eq!(at_once(&[0, 20, 40, 100, 100_000]), [true; 5], "PACE-2");
    }

    #[test]
    fn a_stream_is_gathered_from_its_second_frame_on() {
        assert_eq!(at_once(&[5, 6, 8, 27, 46]), [true, false, false, false, false], "PACE-1");
    }

    #[test]
    fn the_pair_of_a_lone_frame_is_gathered_and_does_not_keep_the_next_from_being_written() {
        assert_eq!(at_once(&[0, 2, 100, 102, 200]), [true, false, true, false, true]);
    }

    #[test]
    fn a_pause_after_many_frames_does_not_make_the_next_burst_slow() {
        let mut pace = Pace::default();
        let mut now = Time::ZERO;
        assert!(pace.is_alone(now), "nothing came before");
        for _ in 0..50 {
            // A hundred frames in a microsecond each, and as long a pause as the answers to them take.
            (0..99).for_each(|_| pace.gathered());
            now = now + Duration::from_micros(100 + 400);
            assert!(!pace.is_alone(now), "PACE-1: five microseconds each");
        }
        now = now + Duration::from_millis(5);
        assert!(pace.is_alone(now), "PACE-2: the last of them is long ago");
    }

    #[test]
    fn numbers_do_not_overflow() {
        let mut pace = Pace { asked: Some(Time::ZERO), frames: u32::MAX };
        pace.gathered();
        assert!(!pace.is_alone(Time::from_nanos(1)));
        assert!(pace.is_alone(Time::MAX));
    }
}
