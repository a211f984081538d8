//! Prints prompt and decoding tokens per second of the bare shards, without engine or server:
//! `cargo run --release -p mobula-llm --example speed -- [shards] [sequences] [tokens of a
//! step]`.

use std::time::{Duration, Instant};

use mobula_llm::catalogue;
use mobula_llm::logic::{Batcher, Limits, SequenceId};
use mobula_llm::model::{Logits, Model};

const PROMPT: usize = 256;
const ANSWER: usize = 128;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>());
    let shards = args.next().transpose()?.unwrap_or(1);
    let sequences = args.next().transpose()?.unwrap_or(1);
    let step_tokens = args.next().transpose()?.unwrap_or(256);
    let file = catalogue::cached("smollm2").ok_or_else(|| anyhow::anyhow!("run `mobula pull smollm2` first"))?;
    let model = Model::open(file)?;
    let path = mobula_kernels::Path::detect()?;
    let limits = Limits {
        running_max: sequences,
        waiting_max: sequences,
        step_tokens_max: step_tokens.max(sequences),
        context: model.config().context,
        blocks: 1024,
    };
    let mut batcher = Batcher::new(limits)?;
    for id in 0..sequences as u64 {
        batcher.submit(SequenceId(id), (0..PROMPT as u32).map(|i| 1000 + i * 7).collect(), ANSWER)?;
    }
    let started = Instant::now();
    let parts = model.split(shards)?;
    let mut loaded = parts.iter().map(|part| model.shard(part, path, 1024)).collect::<Result<Vec<_>, _>>()?;
    println!("{shards} shards on {path}, loaded in {:?}", started.elapsed());

    let (mut prompt, mut decode) = ((0, Duration::ZERO), (0, Duration::ZERO));
    let mut steps = 0;
    while let Some(plan) = batcher.plan() {
        let started = Instant::now();
        let group = format!("speed {steps}");
        steps += 1;
        let logits: Vec<Logits> = std::thread::scope(|threads| {
            let plan = &plan;
            let spawned: Vec<_> = loaded
                .iter_mut()
                .map(|shard| {
                    let group = &group;
                    threads.spawn(move || {
                        let mut member = mobula_collective::join(group, shard.part().rank, shards)?;
                        let logits = shard.step(plan, &mut member, Instant::now() + Duration::from_secs(60))?;
                        member.leave();
                        anyhow::Ok(logits)
                    })
                })
                .collect();
            spawned.into_iter().map(|thread| thread.join().expect("no shard panics")).collect::<Result<_, _>>()
        })?;
        let took = started.elapsed();
        let kind = if plan.tokens() > sequences { &mut prompt } else { &mut decode };
        *kind = (kind.0 + plan.tokens(), kind.1 + took);
        let rows = plan.sequences.iter().filter(|sequence| sequence.row_count() == 1);
        for (row, sequence) in rows.enumerate() {
            let whole = Logits::whole_row(&logits, row);
            batcher.advance(sequence.id, mobula_kernels::argmax(&whole) as u32);
        }
    }
    for (what, (tokens, took)) in [("prompt", prompt), ("decode", decode)] {
        println!("{what}: {tokens} tokens, {:.1} tokens/s", tokens as f64 / took.as_secs_f64());
    }
    Ok(())
}
