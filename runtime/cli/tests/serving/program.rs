//! The command as a child process, whose every wait has an end and which never outlives its test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::http::{self, Answer};

/// The longest that a test waits for the program to come to a point: an unoptimised build on a busy machine is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What the model's file is called, and so the model.
pub(crate) const MODEL: &str = "tiny";
/// Any seed does: the model speaks noise. This one speaks long enough on all CPUs for a fault at its 20th token.
const SEED: u64 = 7;

/// A folder of one test, with the model in it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("tiny.gguf", &model());
        folder
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// `mobula` with these words, in the folder and without what the tester's environment may say.
    pub(crate) fn mobula(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mobula"));
        command.current_dir(self.0.path()).args(words).stdin(Stdio::null());
        for variable in ["MOBULA_API_KEY", "MOBULA_ADDRESS", "MOBULA_ENCODE", "MOBULA_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// Asserts that `mobula` with these words ends with `code` and one line of error that says `expect`.
    pub(crate) fn refuses(&self, words: &[&str], code: i32, expect: &str) {
        let output = self.mobula(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {errors}");
        assert!(output.stdout.is_empty(), "{words:?} says something on standard output");
        let of_errors: Vec<&str> = errors.lines().filter(|line| line.contains("error: ")).collect();
        let [line] = of_errors[..] else { panic!("{words:?}: expected one line of error, found {errors}") };
        assert!(line.contains(expect), "{words:?}: {line}");
    }
}

/// The bytes of the tiny model.
pub(crate) fn model() -> Vec<u8> {
    mobula_llm::tiny::model(SEED)
}

/// A running `mobula serve`, killed if the test leaves it.
pub(crate) struct Server {
    process: Child,
    lines: Receiver<String>,
    /// The line with the URL.
    pub(crate) announcement: String,
    /// Host and port.
    pub(crate) address: String,
    folder: Folder,
}

impl Server {
    /// Serves the tiny model on a free port.
    pub(crate) fn start(words: &[&str]) -> Server {
        Server::start_with(words, |_| {})
    }

    pub(crate) fn start_with(words: &[&str], prepare: impl FnOnce(&mut Command)) -> Server {
        let folder = Folder::new();
        let mut command = folder.mobula(&["serve", "tiny.gguf", "--port", "0"]);
        let errors = File::create(folder.0.path().join("errors")).unwrap();
        // A group of its own, in which every child of the program would be found.
        command.args(words).stdout(Stdio::piped()).stderr(errors).process_group(0);
        prepare(&mut command);
        let mut process = command.spawn().unwrap();
        let output = process.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                // A server that was dropped has no reader.
                drop(sender.send(line.unwrap()));
            }
        });
        let mut server = Server { process, lines, announcement: String::new(), address: String::new(), folder };
        let announced = server.lines.recv_timeout(PATIENCE);
        server.announcement = announced.unwrap_or_else(|_| panic!("no line with a URL; errors:\n{}", server.errors()));
        let (_, rest) = server.announcement.split_once("http://").expect("the line holds a URL");
        server.address = rest.split([' ', '/']).next().unwrap().to_owned();
        server
    }

    /// What it said on standard error so far.
    pub(crate) fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.0.path().join("errors")).unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &serde_json::Value) -> Answer {
        http::ask(&self.address, "POST", path, &[], &body.to_string())
    }

    pub(crate) fn get(&self, path: &str, headers: &[&str]) -> Answer {
        http::ask(&self.address, "GET", path, headers, "")
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// Waits for its end; the status, and what it said on standard output after the first line.
    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server did not stop in time; errors:\n{}", self.errors());
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(processes_of_group(self.process.id()), Vec::<String>::new(), "children are left");
        (status, self.lines.iter().collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines of `/proc/*/stat` of the processes in a group.
fn processes_of_group(group: u32) -> Vec<String> {
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    // After the name in parentheses: state, parent, group.
    let of_group = |stat: &String| {
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        rest.split(' ').nth(2) == Some(&group.to_string())
    };
    stats.filter(of_group).collect()
}
