//! Values that tasks have left on another node, and that are wanted when it is gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mobula::prelude::*;
use mobula_cluster::report::READY;

use crate::record::{lines, note};
use crate::until_told;

/// Long enough to stay where they are made.
const WORDS: u64 = 1 << 17;

/// Where runs are noted.
const FILE: &str = "runs";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where runs are noted.
    #[arg(long)]
    record: PathBuf,
    /// Where the first of them is made.
    #[arg(long)]
    on: u64,
}

/// Each run leaves its name and its node.
fn ran(record: &str, name: &str) -> Result<()> {
    let node = mobula::this_node().map_or_else(String::new, |node| node.to_string());
    Ok(note(Path::new(record), FILE, &format!("{name} {node}"))?)
}

#[remote]
fn first(record: String) -> Result<Vec<u64>> {
    ran(&record, "first")?;
    Ok((0..WORDS).collect())
}

#[remote]
fn next(record: String, name: String, before: Vec<u64>) -> Result<Vec<u64>> {
    ran(&record, &name)?;
    Ok(before.into_iter().map(|word| word + 1).collect())
}

/// Gives something else each time.
#[remote]
fn fickle(record: String) -> Result<Vec<u64>> {
    ran(&record, "fickle")?;
    let run = lines(Path::new(&record), FILE).iter().filter(|line| line.starts_with("fickle")).count() as u64;
    Ok(vec![run; WORDS as usize])
}

#[remote(at_most_once)]
fn once(record: String) -> Result<Vec<u64>> {
    ran(&record, "once")?;
    Ok((0..WORDS).collect())
}

/// Waits until a node has all its CPUs: a place is kept for a moment after its task.
async fn until_free(node: mobula::NodeId) -> Result<()> {
    for _ in 0..2_000 {
        let nodes = mobula::nodes().await?;
        if nodes.iter().any(|it| it.id == node && it.resources_free == it.resources_total) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The other nodes have heard of it then.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    Ok(())
}

/// Waits until it has a value, and does not read it.
async fn made(object: &ObjectRef<Vec<u64>>) -> Result<()> {
    mobula::wait(std::slice::from_ref(object)).timeout(Duration::from_secs(20)).await?;
    Ok(())
}

pub(crate) async fn show(Args { record, on }: Args) -> Result<()> {
    std::fs::create_dir_all(&record)?;
    let folder = record.display().to_string();
    let node = mobula::NodeId(on);
    let a = first::options().on_node_soft(node).remote(folder.clone());
    made(&a).await?;
    until_free(node).await?;
    // It goes where its argument is.
    let b = next::remote(folder.clone(), "second".to_owned(), &a);
    let c = next::options().on_node_soft(node).remote(folder.clone(), "third".to_owned(), &b);
    made(&c).await?;
    let fickle = fickle::options().on_node_soft(node).remote(folder.clone());
    let once = once::options().on_node_soft(node).remote(folder.clone());
    made(&fickle).await?;
    made(&once).await?;
    println!("{READY}{}", std::process::id());
    until_told().await?;
    let made = mobula::get(&c).await?;
    let is_right = made.iter().zip(2..).all(|(word, right)| *word == right) && made.len() as u64 == WORDS;
    println!("the third is {}", if is_right { "right" } else { "wrong" });
    for (name, object) in [("fickle", fickle), ("once", once)] {
        match mobula::get(object).await {
            Ok(_) => println!("{name} was read"),
            Err(error) => println!("{name}: {error}"),
        }
    }
    println!("runs {}", lines(&record, FILE).join(", "));
    Ok(())
}
