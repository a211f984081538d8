//! Generation beside llama.cpp: the same file, as many threads, greedy, one sequence, after a run that warms up.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use mobula_llm::{Llm, catalogue};

use crate::Effort;
use crate::row::{Better, Row};

const PEER: Option<&str> = Some("llama.cpp");
const MODEL: &str = "smollm2";
const PROMPT: &str = "Once upon a time, in a small village by the sea, there lived an old fisherman who";
/// Tokens of one answer.
const TOKENS: usize = 128;

/// Prints tokens per second of each run, one line each.
const SCRIPT: &str = "
import sys, time
from llama_cpp import Llama
path, prompt, tokens, threads, runs = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
llm = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
for run in range(runs + 1):
    llm.reset()
    start = time.perf_counter()
    answer = llm(prompt, max_tokens=tokens, temperature=0.0)
    rate = answer['usage']['completion_tokens'] / (time.perf_counter() - start)
    if run > 0:
        print(rate)
";

pub(crate) fn rows(effort: Effort, python: Option<&Path>) -> Result<Vec<Row>> {
    let Some(model) = catalogue::cached(MODEL) else {
        eprintln!("skipped: generation, because {MODEL} is not here: run `mobula pull {MODEL}`");
        return Ok(Vec::new());
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runs = effort.runs(10);
    let ours = ours(&model, threads, runs)?;
    let mut rows = vec![Row::of("generation, one sequence", "tokens/s", Better::Higher, None, ours)];
    match python {
        None => eprintln!("skipped: llama.cpp, because no --llama-python was given"),
        Some(python) => {
            let theirs = theirs(python, &model, threads, runs)?;
            rows.push(Row::of("generation, one sequence", "tokens/s", Better::Higher, PEER, theirs));
        }
    }
    Ok(rows)
}

fn ours(model: &Path, threads: usize, runs: usize) -> Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let config = mobula::Config::default().address("embedded");
        let session = mobula::init_with(config).await.context("begin a session")?;
        let llm = Llm::spawn(model).shards(threads).await.map_err(|error| anyhow!("load the model: {error}"))?;
        let mut rates = Vec::new();
        for run in 0..=runs {
            let start = Instant::now();
            let answer = llm.generate(PROMPT).tokens_max(TOKENS).await.context("generate")?;
            let rate = answer.end.usage.answer_tokens as f64 / start.elapsed().as_secs_f64();
            if run > 0 {
                rates.push(rate);
            }
        }
        session.stop().await;
        Ok(rates)
    })
}

fn theirs(python: &Path, model: &Path, threads: usize, runs: usize) -> Result<Vec<f64>> {
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(model)
        .args([PROMPT, &TOKENS.to_string(), &threads.to_string(), &runs.to_string()])
        .output()
        .with_context(|| format!("start {}", python.display()))?;
    let trouble = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} ended with {}: {trouble}", python.display(), output.status);
    let text = String::from_utf8(output.stdout).context("read llama.cpp's figures")?;
    let rates =
        text.lines().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>().context("read llama.cpp's figures")?;
    ensure!(rates.len() == runs, "llama.cpp gave {} figures of {runs}", rates.len());
    Ok(rates)
}
