//! Enough of an HTTP/1.1 client to ask a server on this machine: POST of JSON, bodies by length or in chunks, and
//! server-sent events. No TLS, no redirects, no connection kept; it exists so that the demo needs neither curl nor a
//! client library.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::child;

/// Longest header line and longest event; an answer of the demo is far below.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Longest body that is read whole.
const BODY_BYTES_MAX: u64 = 4 << 20;
/// Header lines of one response.
const HEADERS_MAX: usize = 100;

/// Sends `body` to `http://{address}{path}` and reads the head of the answer, all before `deadline`.
pub(crate) fn post(address: &str, path: &str, body: &Value, deadline: Instant) -> Result<Response<Patient>> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(child::POLL))?;
    let body = body.to_string();
    let length = body.len();
    write!(
        &stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .with_context(|| format!("send to {address}"))?;
    Response::read(Patient { stream, deadline }).with_context(|| format!("POST {path}"))
}

/// A response whose head has been read.
pub(crate) struct Response<R> {
    /// `200` and its like.
    pub status: u16,
    body: Body<BufReader<R>>,
}

impl<R: Read> Response<R> {
    fn read(stream: R) -> Result<Self> {
        let mut reader = BufReader::new(stream);
        let status_line = line(&mut reader)?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("`{status_line}` is no status line"))?;
        let mut framing = Framing::UntilClose;
        for _ in 0..HEADERS_MAX {
            let header = line(&mut reader)?.to_ascii_lowercase();
            match header.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", length)) => {
                    framing = Framing::Length(length.parse().context("content-length")?)
                }
                Some(("transfer-encoding", "chunked")) => framing = Framing::Chunk { left: 0, first: true },
                Some(_) => {}
                None if header.is_empty() => return Ok(Response { status, body: Body { reader, framing } }),
                None => bail!("`{header}` is no header"),
            }
        }
        bail!("more than {HEADERS_MAX} headers")
    }

    /// The whole body.
    pub(crate) fn text(self) -> Result<String> {
        let mut bytes = Vec::new();
        self.body.take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes).context("read the body")?;
        ensure!(bytes.len() as u64 <= BODY_BYTES_MAX, "the body is longer than {BODY_BYTES_MAX} bytes");
        String::from_utf8(bytes).context("the body is not UTF-8")
    }

    /// The `data` of each server-sent event, as it comes.
    pub(crate) fn events(self) -> impl Iterator<Item = Result<String>> {
        let mut reader = BufReader::new(self.body);
        std::iter::from_fn(move || {
            loop {
                match text_line(&mut reader) {
                    Ok(None) => return None,
                    Ok(Some(line)) => match line.strip_prefix("data:") {
                        Some(data) => return Some(Ok(data.trim_start().to_owned())),
                        None => continue,
                    },
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }
}

/// A socket whose reads end at a deadline or a signal.
pub(crate) struct Patient {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    child::fail_if_stopped().map_err(io::Error::other)?;
                    if Instant::now() >= self.deadline {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time"));
                    }
                }
                done => return done,
            }
        }
    }
}

/// How the end of a body is known.
enum Framing {
    Length(u64),
    /// `left` bytes of the current chunk; before the `first` there is no line end to skip.
    Chunk {
        left: u64,
        first: bool,
    },
    UntilClose,
    Done,
}

/// A body without its framing.
struct Body<R> {
    reader: R,
    framing: Framing,
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunk { left: 0, first } = self.framing {
            self.framing = next_chunk(&mut self.reader, first)?;
        }
        let left = match &mut self.framing {
            Framing::Done => return Ok(0),
            Framing::UntilClose => return self.reader.read(buffer),
            Framing::Length(left) | Framing::Chunk { left, .. } => left,
        };
        let want = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let read = self.reader.read(&mut buffer[..want])?;
        if read == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the body ended {left} bytes early")));
        }
        *left -= read as u64;
        Ok(read)
    }
}

fn next_chunk(reader: &mut impl BufRead, first: bool) -> io::Result<Framing> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut next = || line(reader).map_err(|error| invalid(error.to_string()));
    if !first {
        next()?;
    }
    let size_line = next()?;
    let size = size_line.split(';').next().unwrap_or_default().trim();
    let left = u64::from_str_radix(size, 16).map_err(|_| invalid(format!("`{size_line}` is no chunk size")))?;
    Ok(if left == 0 { Framing::Done } else { Framing::Chunk { left, first: false } })
}

/// One line that must be there.
fn line(reader: &mut impl BufRead) -> Result<String> {
    text_line(reader)?.context("the server closed the connection")
}

/// One line without its end, or `None` at the end of the stream.
fn text_line(reader: &mut impl BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).context("read")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    ensure!(
        bytes.ends_with(b"\n") || (bytes.len() as u64) < LINE_BYTES_MAX,
        "a line is longer than {LINE_BYTES_MAX} bytes"
    );
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()))
}

/// How long the demo waits for an answer: the slowest machine that we know needs 10 s.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &str) -> Result<Response<&[u8]>> {
        Response::read(text.as_bytes())
    }

    #[test]
    fn bodies_by_length_and_in_chunks_and_until_the_end() {
        let by_length = response("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more").unwrap();
        assert_eq!((by_length.status, by_length.text().unwrap().as_str()), (200, "hi"));
        let chunked =
            "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nA;x=1\r\nllo worlds\r\n0\r\n\r\n";
        let chunked = response(chunked).unwrap();
        assert_eq!((chunked.status, chunked.text().unwrap().as_str()), (404, "hello worlds"));
        assert_eq!(response("HTTP/1.0 200 OK\r\n\r\nall").unwrap().text().unwrap(), "all");
    }

    #[test]
    fn events_are_read_over_chunk_borders() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n4\r\n {}\n\r\nf\r\n\ndata: [DONE]\n\n\r\n0\r\n\r\n";
        let events: Vec<String> = response(text).unwrap().events().collect::<Result<_>>().unwrap();
        assert_eq!(events, ["{}", "[DONE]"]);
    }

    #[test]
    fn broken_answers_are_errors() {
        assert!(response("").is_err());
        assert!(response("SSH-2.0-x\r\n\r\n").is_err());
        assert!(response("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi").unwrap().text().is_err());
        assert!(response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").unwrap().text().is_err());
    }
}
