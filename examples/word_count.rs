//! Remote functions: calls that run elsewhere, and references to what they will return.
//!
//! Run with `cargo run --example word_count`.

use std::collections::BTreeMap;

use mobula::prelude::*;

type Counts = BTreeMap<String, usize>;

#[remote(num_cpus = 1, max_retries = 3)]
fn count_words(text: String) -> Counts {
    let mut counts = Counts::new();
    for word in text.split_whitespace() {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    counts
}

/// Takes two results, wherever they are made, without waiting for them here.
#[remote]
fn merge(mut left: Counts, right: Counts) -> Counts {
    for (word, count) in right {
        *left.entry(word).or_default() += count;
    }
    left
}

const TEXTS: [&str; 4] = ["the ray is a fish", "the fish is a ray", "a manta is a ray", "Mobula is the genus"];

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let mut counts: Vec<ObjectRef<Counts>> = TEXTS.iter().map(|text| count_words::remote(text.to_string())).collect();
    // A tree of merges: every argument is a reference that stands for its value.
    while counts.len() > 1 {
        counts = counts.chunks(2).map(|pair| merge::remote(&pair[0], &pair[pair.len() - 1])).collect();
    }
    let total = mobula::get(&counts[0]).await?;
    assert_eq!((total["is"], total["ray"], total["mobula"]), (4, 3, 1));
    for (word, count) in total.iter().filter(|(_, count)| **count > 2) {
        println!("{count} {word}");
    }
    Ok(())
}
