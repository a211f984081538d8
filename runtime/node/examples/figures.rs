//! The in-process figures, quickly: tasks, objects, asks, tells, spawns.

use std::time::{Duration, Instant};

use futures_util::stream::LocalBoxStream;
use mobula_actor::current::Frame;
use mobula_actor::{
    Actor, Address, Arg, Context, Handler, IntoArg, Message, Mode, ObjectRef, Placement, Spawn, arbiters,
};
use mobula_node::{Body, Embedded, EmbeddedConfig, RemoteFn, RemoteStream, TaskOptions, submit, submit_stream};
use mobula_types::{Error, NoError};

struct Nothing;

impl RemoteFn for Nothing {
    type Args = ();
    type Reply = ();
    type Error = NoError;
    const NAME: &'static str = "figures::nothing";
    const OPTIONS: TaskOptions = TaskOptions::new();
    const BODY: Body<Self> = Body::Sync(|()| Ok(()));
}

inventory::submit!(mobula_node::FunctionEntry::value::<Nothing>());

#[derive(Clone)]
struct Counter(u64);

impl Actor for Counter {
    type Args = u64;
    type Proxy = Address<Self>;
    async fn start(start: u64, _: &Context<Self>) -> Result<Self, Error> {
        Ok(Self(start))
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Add(u64);

impl Message for Add {
    type Reply = u64;
}

impl Handler<Add> for Counter {
    const MODE: Mode = Mode::Sync;
    async fn handle(&mut self, message: Add, ctx: &Context<Self>) -> u64 {
        self.handle_sync(message, ctx)
    }
    fn handle_sync(&mut self, Add(n): Add, _: &Context<Self>) -> u64 {
        self.0 += n;
        self.0
    }
}

struct Plus;

impl RemoteFn for Plus {
    type Args = (u64,);
    type Reply = u64;
    type Error = NoError;
    const NAME: &'static str = "figures::plus";
    const OPTIONS: TaskOptions = TaskOptions::new();
    const BODY: Body<Self> = Body::Sync(|(n,)| Ok(n + 1));
}

/// Submits ten and waits for them.
struct Ten;

impl RemoteFn for Ten {
    type Args = ();
    type Reply = ();
    type Error = NoError;
    const NAME: &'static str = "figures::ten";
    const OPTIONS: TaskOptions = TaskOptions::new();
    const BODY: Body<Self> = Body::Sync(|()| {
        let ten: Vec<_> = (0..10).map(|_| nothing()).collect();
        ten.iter().for_each(|one| drop(one.wait()));
        Ok(())
    });
}

struct Numbers;

impl RemoteStream for Numbers {
    type Args = (u64,);
    type Item = u64;
    const NAME: &'static str = "figures::numbers";
    const OPTIONS: TaskOptions = TaskOptions::new();

    fn open((n,): (u64,)) -> LocalBoxStream<'static, u64> {
        Box::pin(futures_util::stream::iter(0..n))
    }
}

/// Asks another actor many times from its own handler.
struct Asker;

struct Ask(mobula_actor::ActorRef<Counter>, usize);

impl Actor for Asker {
    type Args = ();
    type Proxy = Address<Self>;
    async fn start((): (), _: &Context<Self>) -> Result<Self, Error> {
        Ok(Self)
    }
}

impl Message for Ask {
    type Reply = Vec<u64>;
}

impl Handler<Ask> for Asker {
    async fn handle(&mut self, Ask(counter, count): Ask, _: &Context<Self>) -> Vec<u64> {
        let mut nanos = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            counter.ask(Add(1)).await.unwrap();
            nanos.push(start.elapsed().as_nanos() as u64);
        }
        nanos
    }
}

fn main() {
    let began = Instant::now();
    let args: Vec<String> = std::env::args().collect();
    let only = args.get(1).cloned().unwrap_or_default();
    let session = Embedded::start(&EmbeddedConfig::default());
    session.driver().make_process_default();
    arbiters::runtime().block_on(async {
        nothing().await.unwrap();
        println!("start to first result: {:?}", began.elapsed());
        let system = session.driver().clone();
        let mut frame = Frame { system: Some(system.clone()), ..Frame::default() };
        frame.enter(|| ());
        let want = |name: &str| only.is_empty() || only == name;

        if want("tasks") {
            for _ in 0..3 {
                rate("tasks pipelined", 300_000, async |count| {
                    let refs: Vec<_> = (0..count).map(|_| nothing()).collect();
                    for object in refs {
                        object.await.unwrap();
                    }
                })
                .await;
            }
        }
        if want("tasks1m") {
            let before = rss();
            rate("tasks 1M", 1_000_000, async |count| {
                let refs: Vec<_> = (0..count).map(|_| nothing()).collect();
                println!("rss {} MiB", (rss() - before) >> 20);
                for object in refs {
                    object.await.unwrap();
                }
            })
            .await;
        }
        if want("task") {
            one_by_one("task one at a time", 50_000, async || drop(nothing().await.unwrap())).await;
        }
        if want("shapes") {
            rate("chain of 100 dependent tasks, per chain", 100, async |count| {
                for _ in 0..count {
                    let mut last = submit::<Plus>(&Plus::OPTIONS, Arg::Value((0,)));
                    for _ in 0..100 {
                        let arg = IntoArg::<u64>::into_arg(last);
                        let args = Box::pin(async move { Ok((arg.resolve().await?,)) });
                        last = submit::<Plus>(&Plus::OPTIONS, Arg::Later(args));
                    }
                    last.await.unwrap();
                }
            })
            .await;
            rate("nested 50 x 10, per round", 20, async |count| {
                for _ in 0..count {
                    let outer: Vec<_> = (0..50).map(|_| submit::<Ten>(&Ten::OPTIONS, Arg::Value(()))).collect();
                    for one in outer {
                        one.await.unwrap();
                    }
                }
            })
            .await;
            rate("streamed results", 1_000_000, async |count| {
                let mut items = submit_stream::<Numbers>(&Numbers::OPTIONS, Arg::Value((count as u64,)));
                while let Some(item) = items.next().await {
                    item.unwrap();
                }
            })
            .await;
        }
        if want("objects") {
            rate("put", 1_000_000, async |count| {
                for i in 0..count {
                    std::hint::black_box(ObjectRef::ready(&mobula_actor::current::system().unwrap(), i as u64));
                }
            })
            .await;
            let object = ObjectRef::ready(&system, 7u64);
            rate("get", 1_000_000, async |count| {
                for _ in 0..count {
                    std::hint::black_box(object.get().await.unwrap());
                }
            })
            .await;
        }
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        if want("ask") {
            one_by_one("ask across threads (main)", 50_000, async || _ = counter.ask(Add(1)).await.unwrap()).await;
            let asker = Spawn::<Asker>::new(system.clone(), ()).await.unwrap();
            let nanos = asker.ask(Ask(counter.clone(), 100_000)).no_timeout().await.unwrap();
            percentiles("ask across arbiters", nanos);
            let asker = on_the_arbiter_of_one(&system).await;
            let nanos = asker.0.ask(Ask(asker.1, 100_000)).no_timeout().await.unwrap();
            percentiles("ask on one arbiter", nanos);
        }
        if want("pipelined") {
            for _ in 0..3 {
                rate("asks pipelined (1000 in flight)", 1_000_000, async |count| {
                    use std::future::IntoFuture;
                    let mut flight = std::collections::VecDeque::new();
                    for _ in 0..count {
                        if flight.len() == 1000 {
                            let first: <mobula_actor::Call<'_, Counter, Add> as IntoFuture>::IntoFuture =
                                flight.pop_front().unwrap();
                            first.await.unwrap();
                        }
                        flight.push_back(counter.ask(Add(1)).into_future());
                    }
                    for one in flight {
                        one.await.unwrap();
                    }
                })
                .await;
            }
        }
        if want("tells") {
            for _ in 0..3 {
                rate("tells", 1_000_000, async |count| {
                    for _ in 0..count {
                        if counter.ask(Add(1)).tell().is_err() {
                            counter.ask(Add(1)).send().await.unwrap();
                        }
                    }
                    counter.ask(Add(1)).await.unwrap();
                })
                .await;
            }
        }
        if want("spawn") {
            let before = rss();
            let starts = system.counters().of(mobula_actor::Count::Starts);
            let start = Instant::now();
            let actors: Vec<_> =
                (0..100_000).map(|i| Spawn::<Counter>::new(system.clone(), i).now().unwrap()).collect();
            let started = || system.counters().of(mobula_actor::Count::Starts);
            while started() - starts < 100_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let took = start.elapsed();
            let each = (rss() - before) as f64 / 100_000.0;
            println!("spawn: {:.0}/s, {each:.0} bytes each", 100_000.0 / took.as_secs_f64());
            drop(actors);
        }
    });
}

async fn on_the_arbiter_of_one(
    system: &std::sync::Arc<mobula_actor::System>,
) -> (mobula_actor::ActorRef<Asker>, mobula_actor::ActorRef<Counter>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let own = system.clone();
    system.run_on_arbiter(Placement::Spread, move || {
        let counter = Spawn::<Counter>::new(own.clone(), 0).now().unwrap();
        let asker = Spawn::<Asker>::new(own, ()).now().unwrap();
        sender.send((asker, counter)).ok();
    });
    receiver.await.unwrap()
}

fn nothing() -> ObjectRef<()> {
    submit::<Nothing>(&Nothing::OPTIONS, Arg::Value(()))
}

async fn rate(name: &str, count: usize, work: impl AsyncFnOnce(usize)) {
    let cpu = cpu();
    let start = Instant::now();
    work(count).await;
    let took = start.elapsed();
    println!(
        "{name}: {:.0}/s, {:.0} ns each, {:.0} ns CPU each",
        count as f64 / took.as_secs_f64(),
        took.as_nanos() as f64 / count as f64,
        (cpu_since(cpu)).as_nanos() as f64 / count as f64
    );
}

async fn one_by_one(name: &str, count: usize, mut work: impl AsyncFnMut()) {
    let mut nanos = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        work().await;
        nanos.push(start.elapsed().as_nanos() as u64);
    }
    percentiles(name, nanos);
}

fn percentiles(name: &str, mut nanos: Vec<u64>) {
    nanos.sort_unstable();
    let at = |share: f64| nanos[(nanos.len() as f64 * share) as usize] as f64 / 1000.0;
    println!("{name}: p50 {:.2} µs, p90 {:.2} µs, p99 {:.2} µs", at(0.5), at(0.9), at(0.99));
}

fn rss() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    Duration::from_millis((fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10)
}

fn cpu_since(before: Duration) -> Duration {
    cpu() - before
}
