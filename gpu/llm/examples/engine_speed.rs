//! Prints what the whole engine makes of the demo model: load time, prompt and decoding tokens per second, time to first
//! token, peak memory: `cargo run --release -p mobula-llm --example engine_speed -- [shards]`.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use mobula::ActorRef;
use mobula_llm::engine::{Prompt, Request};
use mobula_llm::{Llm, Piece, catalogue};

const PROMPT: usize = 256;
const ANSWER: usize = 128;

#[mobula::main]
async fn main() -> mobula::Result<()> {
    let _session = mobula::init().await?;
    let shards = std::env::args().nth(1).map_or(Ok(1), |arg| arg.parse())?;
    let file = catalogue::cached("smollm2").ok_or_else(|| mobula::Error::msg("run `mobula pull smollm2` first"))?;
    let started = Instant::now();
    let llm = Llm::spawn(file).shards(shards).await?;
    println!("{shards} shards, loaded in {:?}", started.elapsed());
    for sequences in [1, 8] {
        let started = Instant::now();
        let answers = (0..sequences).map(|sequence| answer(&llm, sequence));
        let answers = try_join_all(answers).await?;
        let first = answers.iter().map(|(first, _)| *first).max().unwrap_or(started);
        let tokens = answers.iter().map(|(_, tokens)| tokens - 1).sum::<usize>();
        // Prompts come one after the other, and who is first decodes meanwhile: only one alone has times of its own.
        match sequences {
            1 => {
                let (to_first, decoding) = (first - started, first.elapsed());
                println!("1 sequence: first token of {PROMPT} after {to_first:?}, {}", speed(PROMPT, to_first));
                println!("1 sequence: {}", speed(tokens, decoding));
            }
            _ => println!("{sequences} sequences with their prompts: {}", speed(tokens, started.elapsed())),
        }
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("peak memory:{}", status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" unknown"));
    Ok(())
}

/// When the first token came, and how many there were.
async fn answer(llm: &ActorRef<Llm>, sequence: u32) -> mobula::Result<(Instant, usize)> {
    let prompt = (0..PROMPT as u32).map(|i| 1000 + sequence * 10 + i * 7).collect();
    let request = Request { tokens_max: Some(ANSWER), ..Request::new(Prompt::Tokens(prompt)) };
    let mut pieces = llm.request(request).stream().await?;
    let (mut first, mut tokens) = (None, 0);
    while let Some(piece) = pieces.next().await {
        if let Piece::More { .. } = piece?? {
            first.get_or_insert_with(Instant::now);
            tokens += 1;
        }
    }
    Ok((first.ok_or_else(|| mobula::Error::msg("no token came"))?, tokens))
}

fn speed(tokens: usize, took: Duration) -> String {
    format!("{tokens} tokens, {:.1} tokens/s", tokens as f64 / took.as_secs_f64())
}
