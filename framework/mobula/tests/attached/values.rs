//! Values that travel: large ones, references inside messages, and what is kept under a key.

use mobula::prelude::*;
use serde::{Deserialize, Serialize};

use super::Test;

pub(crate) const TESTS: &[Test] = &[
    ("values of a job", || Box::pin(values_of_a_job())),
    ("large values travel", || Box::pin(large_values_travel())),
    ("references travel", || Box::pin(references_travel())),
];

#[remote]
async fn read(key: String) -> Result<Option<String>> {
    Ok(mobula::kv::get(&key).await?)
}

#[remote]
fn sum(bytes: Vec<u8>) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

#[remote]
fn zeros(count: usize) -> Vec<u8> {
    vec![0; count]
}

#[derive(Serialize, Deserialize)]
struct Boxed {
    inside: ObjectRef<String>,
}

struct Keeper(Option<ObjectRef<String>>);

#[actor]
impl Keeper {
    fn new() -> Self {
        Keeper(None)
    }

    fn keep(&mut self, boxed: Boxed) {
        self.0 = Some(boxed.inside);
    }

    async fn read(&self) -> Result<String> {
        match &self.0 {
            Some(kept) => Ok(mobula::get(kept).await?.into_owned()),
            None => Ok(String::new()),
        }
    }

    fn hand_on(&mut self) -> Option<Boxed> {
        self.0.clone().map(|inside| Boxed { inside })
    }
}

#[remote]
async fn read_boxed(boxed: Option<Boxed>) -> Result<String> {
    match boxed {
        Some(boxed) => Ok(mobula::get(boxed.inside).await?.into_owned()),
        None => Ok(String::new()),
    }
}

async fn values_of_a_job() -> Result<()> {
    mobula::kv::put("greeting", "hello").await?;
    assert_eq!(mobula::get(read::remote("greeting")).await?.as_deref(), Some("hello"));
    mobula::kv::delete("greeting").await?;
    assert_eq!(*mobula::get(read::remote("greeting")).await?, None);
    let large = mobula::kv::put("large", &vec![0u8; 1 << 20]).await.err().map(|error| error.to_string());
    assert!(large.is_some_and(|error| error.contains("put it")));
    Ok(())
}

async fn large_values_travel() -> Result<()> {
    for node in mobula::nodes().await? {
        let bytes = vec![1u8; 9 << 20];
        let total = sum::options().on_node(node.id).remote(bytes);
        assert_eq!(*mobula::get(total).await?, 9 << 20);
        let back = zeros::options().on_node(node.id).remote(5usize << 20);
        assert_eq!(mobula::get(back).await?.len(), 5 << 20);
    }
    Ok(())
}

async fn references_travel() -> Result<()> {
    let keeper = Keeper::spawn().spread_nodes().await?;
    keeper.keep(Boxed { inside: mobula::put("mine".to_owned())? }).await?;
    assert_eq!(keeper.read().await?, "mine");
    // Through a third process that is not its owner.
    let boxed = keeper.hand_on().await?;
    keeper.keep(Boxed { inside: mobula::put("another".to_owned())? }).await?;
    for node in mobula::nodes().await? {
        let again = keeper.hand_on().await?;
        assert_eq!(*mobula::get(read_boxed::options().on_node(node.id).remote(again)).await?, "another");
    }
    assert_eq!(*mobula::get(read_boxed::remote(boxed)).await?, "mine");
    Ok(())
}
