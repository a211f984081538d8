//! Producers that put values into the store and hold them, as whoever started this says, a line for each order.
//!
//! | order | what is done | answer |
//! |---|---|---|
//! | `put <count>` | so many values are put, all at once, beside those that are held | [`Puts`] |
//! | `read` | each producer reads what another holds, and compares the hashes | [`Reads`] |
//! | `broadcast` | the driver puts a value, and all producers read it at once | by node, `right` or what else came |
//! | `drop` | all that is held is let go | `null` |

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::future::{join_all, try_join_all};
use mobula::prelude::*;
use mobula::{CallError, NotStarted};
use mobula_cluster::report::{Puts, READY, Reads, answer};
use tokio::sync::mpsc;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Producers.
    #[arg(long, default_value_t = 1)]
    producers: u64,
    /// One on each of these nodes instead.
    #[arg(long, value_delimiter = ',')]
    on: Vec<u64>,
    /// What a value has.
    #[arg(long, default_value_t = 8)]
    mib: usize,
}

/// The numbers of a value are made once for so many, and follow one another with a number of their own: it takes long to
/// make each, where nothing is optimised.
const BLOCK: usize = 1 << 13;

/// A value, and how it is known again.
type Held = (ObjectRef<Vec<u64>>, [u8; 32]);

fn hash(value: &[u64]) -> [u8; 32] {
    blake3::hash(bytemuck::cast_slice(value)).into()
}

struct Producer {
    number: u64,
    length: usize,
    made: u64,
    held: Vec<Held>,
}

#[actor(max_restarts = 0)]
impl Producer {
    fn new(number: u64, length: usize) -> Self {
        Producer { number, length, made: 0, held: Vec::new() }
    }

    async fn put(&mut self, count: u64) -> Puts {
        let seeds =
            (self.made..).map(|made| made << 8 | self.number).take(usize::try_from(count).unwrap_or(usize::MAX));
        self.made += count;
        let length = self.length;
        let put = join_all(seeds.map(|seed| async move {
            let begun = Instant::now();
            let written = write(seed, length).await;
            (written, begun.elapsed())
        }));
        let mut puts = Puts::default();
        for (written, took) in put.await {
            puts.ms_max = puts.ms_max.max(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            match written {
                Ok(held) => {
                    puts.taken += 1;
                    self.held.push(held);
                }
                Err(CallError::NotStarted(NotStarted::StoreFull { .. })) => puts.full += 1,
                Err(error) => puts.wrong.push(error.to_string()),
            }
        }
        puts
    }

    fn lend(&self) -> Vec<Held> {
        self.held.clone()
    }

    async fn read(&self, values: Vec<Held>) -> Reads {
        let mut reads = Reads::default();
        for (number, (value, expected)) in values.iter().enumerate() {
            match mobula::get_view(value).await {
                Ok(view) if hash(&view) == *expected => reads.right += 1,
                Ok(_) => reads.wrong.push(format!("value {number} is another")),
                Err(error) => reads.wrong.push(format!("value {number}: {error}")),
            }
        }
        reads
    }

    fn let_go(&mut self) {
        self.held.clear();
    }
}

async fn write(seed: u64, length: usize) -> Result<Held, CallError> {
    let mut writer = mobula::writer(length).await?;
    let mut block: Vec<u64> = (0..BLOCK as u64).map(|n| (seed << 20 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    for (number, part) in (0..).zip(writer.chunks_mut(BLOCK)) {
        block[0] = number;
        part.copy_from_slice(&block[..part.len()]);
    }
    let hash = hash(&writer);
    Ok((writer.put(), hash))
}

pub(crate) async fn stand(args: Args) -> Result<()> {
    let length = (args.mib << 20) / size_of::<u64>();
    let started = (0..args.producers).map(|number| Producer::spawn(number, length).num_cpus(0.1).into_future());
    let placed = args.on.iter().map(|node| {
        let spawn = Producer::spawn(*node, length).num_cpus(0.1);
        spawn.on_node(mobula::NodeId(*node)).into_future()
    });
    let producers = if args.on.is_empty() { try_join_all(started).await? } else { try_join_all(placed).await? };
    println!("{READY}{}", std::process::id());
    let mut orders = orders();
    let mut number = 0;
    while let Some(order) = orders.recv().await {
        number += 1;
        let said = match order.split_once(' ') {
            Some(("put", count)) => serde_json::to_string(&put(&producers, count.parse()?).await?)?,
            _ if order == "read" => serde_json::to_string(&read(&producers).await?)?,
            _ if order == "broadcast" => serde_json::to_string(&broadcast(&producers, &args.on, length).await?)?,
            _ if order == "drop" => {
                try_join_all(producers.iter().map(|producer| producer.let_go().into_future())).await?;
                "null".to_owned()
            }
            _ => return Err(std::io::Error::other(format!("`{order}` is no order")).into()),
        };
        println!("{}{said}", answer(number));
    }
    Ok(())
}

async fn broadcast(producers: &[ActorRef<Producer>], on: &[u64], length: usize) -> Result<BTreeMap<u64, String>> {
    let value = write(0, length).await?;
    let read =
        join_all(producers.iter().map(|reader| reader.read(vec![value.clone()]).no_timeout().into_future())).await;
    let said = read.into_iter().map(|reads| match reads {
        Ok(Reads { right: 1, .. }) => "right".to_owned(),
        Ok(Reads { wrong, .. }) => wrong.join("; "),
        Err(error) => error.to_string(),
    });
    Ok(on.iter().copied().zip(said).collect())
}

/// Read on a thread of its own, which blocks there.
fn orders() -> mpsc::Receiver<String> {
    let (sender, orders) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lines().map_while(Result::ok);
        lines.all(|line| sender.blocking_send(line).is_ok())
    });
    orders
}

async fn put(producers: &[ActorRef<Producer>], count: u64) -> Result<Puts> {
    let each = count / producers.len() as u64;
    let all = try_join_all(producers.iter().map(|producer| producer.put(each).no_timeout().into_future())).await?;
    Ok(all.into_iter().fold(Puts::default(), Puts::and))
}

async fn read(producers: &[ActorRef<Producer>]) -> Result<Reads> {
    let mut reads = Reads::default();
    for (reader, holder) in producers.iter().zip(producers.iter().cycle().skip(1)) {
        let lent = holder.lend().await?;
        reads = reads.and(reader.read(lent).no_timeout().await?);
    }
    Ok(reads)
}
