//! A language model as an actor of your own program: the same actor that `mobula serve` serves.
//!
//! Run with `cargo run --example model_actor -- model.gguf`; without a file it takes the demo model when that has been
//! pulled, else a tiny random one, which answers nonsense.

use std::path::PathBuf;

use mobula::prelude::*;
use mobula_llm::{Llm, Piece, catalogue, tiny};

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let folder = tempfile::tempdir()?;
    let path = match std::env::args_os().nth(1).map(PathBuf::from).or_else(|| catalogue::cached("smollm2")) {
        Some(path) => path,
        None => {
            let path = folder.path().join("tiny.gguf");
            std::fs::write(&path, tiny::model(7))?;
            path
        }
    };
    let llm = Llm::spawn(path).shards(2).await?;
    for (name, id) in llm.shards().await? {
        println!("{name} is {id}");
    }
    // The whole answer …
    println!("{}", llm.generate("The capital of France is").tokens_max(8).await?);
    // … or piece by piece, as it is made.
    let mut pieces = llm.generate("Once upon a time").tokens_max(16).stream().await?;
    while let Some(piece) = pieces.next().await {
        match piece?? {
            Piece::More { text, .. } => print!("{text}"),
            Piece::End(end) => println!("\n{} tokens", end.usage.answer_tokens),
        }
    }
    Ok(())
}
