//! A node in a folder of its own, and the command line beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The longest that a test waits for anything: ten times what takes longest, a node that waits for its head.
pub(crate) const PATIENCE: Duration = Duration::from_secs(100);

/// The command, in an environment that names no cluster but the one in `base`.
pub(crate) fn mobula(base: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mobula"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MOBULA_") {
            command.env_remove(name);
        }
    }
    command.env("MOBULA_DIR", base).args(words).stdin(Stdio::null());
    command
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Said {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else { panic!("{command:?} (process {pid}) hangs") };
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// A head in the foreground. When it is dropped it is killed.
pub(crate) struct Node {
    base: tempfile::TempDir,
    child: Child,
    /// Where it is for other nodes, and which folder it has.
    pub(crate) port: u16,
    /// Where its state is over HTTP.
    pub(crate) http: u16,
}

impl Node {
    pub(crate) fn head() -> Self {
        let base = tempfile::tempdir().unwrap();
        let (port, http) = (free_port(), free_port());
        let words = ["--head", "--port", &port.to_string(), "--dashboard-port", &http.to_string()];
        let child = start(base.path(), &words);
        Self { base, child, port, http }
    }

    pub(crate) fn base(&self) -> &Path {
        self.base.path()
    }

    /// Another node of its cluster, on a port of its own.
    pub(crate) fn member(&self, port: u16) -> Member {
        let address = format!("--address=127.0.0.1:{}", self.port);
        Member(start(self.base(), &[&address, "--port", &port.to_string()]))
    }

    /// Runs the command line to its end.
    pub(crate) fn ask(&self, words: &[&str]) -> Said {
        run(mobula(self.base(), words))
    }

    /// The same, and it must end well.
    pub(crate) fn told(&self, words: &[&str]) -> String {
        let said = self.ask(words);
        assert_eq!(said.code, 0, "mobula {words:?}: {said:?}");
        said.out
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// What comes back for some bytes over HTTP, until the other end closes.
    pub(crate) fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Another node of a cluster. When it is dropped it is killed.
pub(crate) struct Member(Child);

impl Member {
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.0)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A port that was free a moment ago, for datagrams and for streams.
pub(crate) fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Starts a node, and waits until it says that it is ready.
fn start(base: &Path, words: &[&str]) -> Child {
    let mut command = mobula(base, &["start", "--block", "--object-store-ahead", "0"]);
    let mut child = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        said.send(lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>()).ok();
    });
    let lines = heard.recv_timeout(PATIENCE);
    let lines = lines.unwrap_or_else(|_| {
        child.kill().ok();
        panic!("{command:?} is not ready")
    });
    assert!(!lines.is_empty(), "{command:?} ended: {:?}", child.wait());
    child
}

fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "process {} does not end", child.id());
        std::thread::sleep(Duration::from_millis(10));
    }
}
