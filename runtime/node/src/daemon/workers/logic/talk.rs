//! How much of what a worker writes reaches a terminal: repeats are said once, and a flood is cut. The log has all of it.

use std::time::Duration;

use mobula_types::Time;

/// Lines of one stream of a worker that are told in a second; what comes above is counted. A person reads ten.
pub(crate) const LINES_PER_SECOND_MAX: u32 = 1_000;

/// A line that is said again is counted this long before the count is told.
pub(crate) const REPEAT_TOLD_AFTER: Duration = Duration::from_secs(1);

/// What one stream of a worker has said lately.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    last: Option<String>,
    /// How often `last` came after it was told, and since when.
    repeated: u32,
    repeated_since: Option<Time>,
    /// The running second, and what was told in it.
    second: Option<Time>,
    told: u32,
    left_out: u64,
}

impl Talk {
    /// What to tell for this line: nothing, it, or first what had been held back.
    pub(crate) fn hear(&mut self, now: Time, line: String, tell: &mut Vec<String>) {
        self.turn(now, tell);
        if self.last.as_ref() == Some(&line) {
            self.repeated += 1;
            self.repeated_since.get_or_insert(now);
            return;
        }
        self.tell_repeats(tell);
        if self.told >= LINES_PER_SECOND_MAX {
            self.left_out += 1;
            self.last = None;
            return;
        }
        self.told += 1;
        tell.push(line.clone());
        self.last = Some(line);
    }

    /// What is due by now.
    pub(crate) fn turn(&mut self, now: Time, tell: &mut Vec<String>) {
        if self.repeated_since.is_some_and(|since| now >= since + REPEAT_TOLD_AFTER) {
            self.tell_repeats(tell);
        }
        let is_new_second = self.second.is_none_or(|second| now >= second + Duration::from_secs(1));
        if is_new_second {
            self.second = Some(now);
            self.told = 0;
            self.tell_gap(tell);
        }
    }

    /// When something will be due, if anything is held back.
    pub(crate) fn due(&self) -> Option<Time> {
        let repeat = self.repeated_since.map(|since| since + REPEAT_TOLD_AFTER);
        let gap = self.second.filter(|_| self.left_out > 0).map(|second| second + Duration::from_secs(1));
        repeat.into_iter().chain(gap).min()
    }

    /// Lines that were to be told and could not be: nobody took them.
    pub(crate) fn was_not_heard(&mut self, lines: usize) {
        self.left_out += lines as u64;
        self.last = None;
    }

    /// All that is held back.
    pub(crate) fn finish(&mut self, tell: &mut Vec<String>) {
        self.tell_repeats(tell);
        self.tell_gap(tell);
    }

    fn tell_repeats(&mut self, tell: &mut Vec<String>) {
        self.repeated_since = None;
        match (std::mem::take(&mut self.repeated), &self.last) {
            (0, _) | (_, None) => {}
            // Short of a count, the line itself is as short.
            (1, Some(line)) => tell.push(line.clone()),
            (times, Some(line)) => {
                let front: String = line.chars().take(REPEATED_CHARS_MAX).collect();
                let dots = if front.len() < line.len() { "…" } else { "" };
                tell.push(format!("{front}{dots} (said {times} times more)"));
            }
        }
    }

    fn tell_gap(&mut self, tell: &mut Vec<String>) {
        match std::mem::take(&mut self.left_out) {
            0 => {}
            1 => tell.push("… 1 line left out: the log has it".to_owned()),
            lines => tell.push(format!("… {lines} lines left out: the log has them")),
        }
    }
}

/// What of a repeated line stands before its count: enough to know it again.
const REPEATED_CHARS_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    fn hear(talk: &mut Talk, ms: u64, line: &str) -> Vec<String> {
        let mut tell = Vec::new();
        talk.hear(at(ms), line.to_owned(), &mut tell);
        tell
    }

    #[test]
    fn repeats_are_counted_and_told_when_something_else_is_said() {
        let mut talk = Talk::default();
        assert_eq!(hear(&mut talk, 0, "a"), ["a"]);
        for ms in 1..38 {
            assert_eq!(hear(&mut talk, ms, "a"), [""; 0]);
        }
        assert_eq!(hear(&mut talk, 40, "b"), ["a (said 37 times more)", "b"]);
        assert_eq!(talk.due(), None);
        assert_eq!(hear(&mut talk, 41, "b"), [""; 0]);
        assert_eq!(hear(&mut talk, 42, "c"), ["b", "c"]);
    }

    #[test]
    fn repeats_are_told_after_a_second() {
        let mut talk = Talk::default();
        hear(&mut talk, 0, "a");
        hear(&mut talk, 500, "a");
        hear(&mut talk, 900, "a");
        assert_eq!(talk.due(), Some(at(1_500)));
        let mut tell = Vec::new();
        talk.turn(at(1_499), &mut tell);
        assert_eq!(tell, [""; 0]);
        talk.turn(at(1_500), &mut tell);
        assert_eq!(tell, ["a (said 2 times more)"]);
        assert_eq!(talk.due(), None);
    }

    #[test]
    fn a_flood_is_cut_and_the_gap_is_told() {
        let mut talk = Talk::default();
        let told: usize = (0..3_000).map(|n| hear(&mut talk, 10, &n.to_string()).len()).sum();
        assert_eq!(told, LINES_PER_SECOND_MAX as usize);
        assert_eq!(talk.due(), Some(at(1_010)));
        let mut tell = Vec::new();
        talk.turn(at(1_010), &mut tell);
        assert_eq!(tell, ["… 2000 lines left out: the log has them"]);
        assert_eq!(hear(&mut talk, 1_011, "x"), ["x"]);
    }

    #[test]
    fn what_nobody_took_is_a_gap_too() {
        let mut talk = Talk::default();
        hear(&mut talk, 0, "a");
        talk.was_not_heard(1);
        let mut tell = Vec::new();
        talk.finish(&mut tell);
        assert_eq!(tell, ["… 1 line left out: the log has it"]);
    }
}
