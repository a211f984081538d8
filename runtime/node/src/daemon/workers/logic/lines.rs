//! Lines out of bytes, however the bytes are cut; long lines are cut short.

/// Bytes of a line that terminals and deaths get; the log has all of them.
pub(crate) const LINE_BYTES_MAX: usize = 4 << 10;

/// What has come of a line that has not ended yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: Vec<u8>,
    left_out: usize,
}

impl Lines {
    /// Calls `each` for every line that these bytes end.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        // The last part is a line that has only begun, or nothing.
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.keep(part);
            each(self.take());
        }
        self.keep(last);
    }

    /// The line that never ended, if there is one.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let has_begun = !self.begun.is_empty() || self.left_out > 0;
        has_begun.then(|| self.take())
    }

    fn keep(&mut self, part: &[u8]) {
        let fit = part.len().min(LINE_BYTES_MAX - self.begun.len());
        self.begun.extend_from_slice(&part[..fit]);
        self.left_out += part.len() - fit;
    }

    fn take(&mut self) -> String {
        let begun = std::mem::take(&mut self.begun);
        let begun = begun.strip_suffix(b"\r").unwrap_or(&begun);
        let mut line = String::from_utf8_lossy(begun).into_owned();
        match std::mem::take(&mut self.left_out) {
            0 => {}
            bytes => line.push_str(&format!(" … {bytes} more bytes")),
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        parts.iter().for_each(|part| lines.push(part, |line| found.push(line)));
        found.extend(lines.finish());
        found
    }

    #[test]
    fn lines_do_not_depend_on_how_bytes_come() {
        for size in 1..8 {
            let parts: Vec<&[u8]> = b"one\r\n\ntwo\nthree".chunks(size).collect();
            assert_eq!(lines(&parts), ["one", "", "two", "three"], "{size} bytes at once");
        }
        assert_eq!(lines(&[b""]), [""; 0]);
        assert_eq!(lines(&[b"a\n"]), ["a"]);
        assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let long = vec![b'x'; LINE_BYTES_MAX + 5];
        let found = lines(&[&long, b"yy\nnext"]);
        assert_eq!(found, [format!("{} … 7 more bytes", "x".repeat(LINE_BYTES_MAX)), "next".to_owned()]);
    }
}
