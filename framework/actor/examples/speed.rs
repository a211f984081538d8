#![allow(missing_docs)]
use mobula_actor::*;
use mobula_types::{Error, NodeId};
use std::sync::Arc;
use std::time::{Duration, Instant};

struct C(u64);
struct Add(u64);
struct Drive(u64);
struct Pipe(u64, u64);
struct Tells(u64);
impl Message for Add {
    type Reply = u64;
}
impl Message for Drive {
    type Reply = Vec<u64>;
}
impl Message for Pipe {
    type Reply = f64;
}
impl Message for Tells {
    type Reply = f64;
}
impl Actor for C {
    type Args = u64;
    type Proxy = Address<Self>;
    async fn start(n: u64, _: &Context<Self>) -> Result<Self, Error> {
        Ok(C(n))
    }
}
impl Handler<Add> for C {
    const MODE: Mode = Mode::Sync;
    async fn handle(&mut self, m: Add, c: &Context<Self>) -> u64 {
        self.handle_sync(m, c)
    }
    fn handle_sync(&mut self, m: Add, _: &Context<Self>) -> u64 {
        self.0 += m.0;
        self.0
    }
}
struct D(ActorRef<C>);
impl Actor for D {
    type Args = ();
    type Proxy = Address<Self>;
    async fn start(_: (), c: &Context<Self>) -> Result<Self, Error> {
        Ok(D(c.spawn::<C>(0).await?))
    }
}
impl Handler<Drive> for D {
    async fn handle(&mut self, m: Drive, _: &Context<Self>) -> Vec<u64> {
        let mut v = vec![];
        for _ in 0..m.0 {
            let t = Instant::now();
            self.0.ask(Add(1)).await.unwrap();
            v.push(t.elapsed().as_nanos() as u64);
        }
        v
    }
}
impl Handler<Pipe> for D {
    async fn handle(&mut self, m: Pipe, _: &Context<Self>) -> f64 {
        let t = Instant::now();
        for _ in 0..m.0 / m.1 {
            let v: Vec<_> = (0..m.1).map(|_| self.0.ask(Add(1)).into_future()).collect();
            for a in v {
                a.await.unwrap();
            }
        }
        t.elapsed().as_nanos() as f64 / m.0 as f64
    }
}
impl Handler<Tells> for D {
    async fn handle(&mut self, m: Tells, _: &Context<Self>) -> f64 {
        let t = Instant::now();
        for _ in 0..m.0 / 500 {
            for _ in 0..500 {
                self.0.try_send(Add(1)).unwrap();
            }
            self.0.ask(Add(0)).await.unwrap();
        }
        t.elapsed().as_nanos() as f64 / m.0 as f64
    }
}
use std::future::IntoFuture;
fn p(v: &mut [u64], q: f64) -> u64 {
    v.sort();
    v[((v.len() - 1) as f64 * q) as usize]
}
fn rss() -> u64 {
    std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

mod ax {
    use actix::prelude::*;
    pub struct C(pub u64);
    impl Actor for C {
        type Context = Context<Self>;
        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.set_mailbox_capacity(1024);
        }
    }
    pub struct Add(pub u64);
    impl Message for Add {
        type Result = u64;
    }
    impl Handler<Add> for C {
        type Result = u64;
        fn handle(&mut self, m: Add, _: &mut Context<Self>) -> u64 {
            self.0 += m.0;
            self.0
        }
    }
}
fn main() {
    let system = System::start(&SystemConfig { node: NodeId(1), arbiters: 2 });
    let sys: Arc<System> = system.clone();
    arbiters::runtime().block_on(async move {
        let d = Spawn::<D>::new(sys.clone(), ()).await.unwrap();
        if let Some(what) = std::env::args().nth(1) {
            if what == "pipe" {
                for _ in 0..8 {
                    println!("{}", d.ask(Pipe(1_000_000, 500)).no_timeout().await.unwrap());
                }
            } else {
                for _ in 0..8 {
                    println!("{}", d.ask(Tells(4_000_000)).await.unwrap());
                }
            }
            return;
        }
        for _ in 0..2 {
            let mut v = d.ask(Drive(200_000)).await.unwrap();
            println!("ask one arbiter p50 {} p99 {}", p(&mut v, 0.5), p(&mut v, 0.99));
            println!("pipelined ask one arbiter ns {}", d.ask(Pipe(1_000_000, 500)).await.unwrap());
            println!("tell one arbiter ns {}", d.ask(Tells(2_000_000)).await.unwrap());
            let c = Spawn::<C>::new(sys.clone(), 0).await.unwrap();
            let mut v = vec![];
            for _ in 0..100_000 {
                let t = Instant::now();
                c.ask(Add(1)).await.unwrap();
                v.push(t.elapsed().as_nanos() as u64);
            }
            println!("ask across threads p50 {} p99 {}", p(&mut v, 0.5), p(&mut v, 0.99));
            let t = Instant::now();
            for _ in 0..2000 {
                let v: Vec<_> = (0..500).map(|_| c.ask(Add(1)).into_future()).collect();
                for a in v {
                    a.await.unwrap();
                }
            }
            println!("pipelined across threads /s {}", 1e6 / t.elapsed().as_secs_f64());
        }
        // actix on one thread
        let l = tokio::task::LocalSet::new();
        std::thread::spawn(|| {
            actix::System::new().block_on(async {
                use actix::prelude::*;
                let a = ax::C(0).start();
                for _ in 0..2 {
                    let mut v = vec![];
                    for _ in 0..200_000 {
                        let t = Instant::now();
                        a.send(ax::Add(1)).await.unwrap();
                        v.push(t.elapsed().as_nanos() as u64);
                    }
                    println!("actix ask p50 {}", p(&mut v, 0.5));
                    let t = Instant::now();
                    for _ in 0..2000 {
                        let v: Vec<_> = (0..500).map(|_| a.send(ax::Add(1))).collect();
                        for a in v {
                            a.await.unwrap();
                        }
                    }
                    println!("actix pipelined ns {}", t.elapsed().as_nanos() as f64 / 1e6);
                    let t = Instant::now();
                    for _ in 0..4000 {
                        for _ in 0..500 {
                            a.do_send(ax::Add(1));
                        }
                        a.send(ax::Add(0)).await.unwrap();
                    }
                    println!("actix tell ns {}", t.elapsed().as_nanos() as f64 / 2e6);
                }
            })
        })
        .join()
        .unwrap();
        drop(l);
        let before = rss();
        let t = Instant::now();
        let mut last = None;
        let mut all = vec![];
        for _ in 0..100_000 {
            let a = Spawn::<C>::new(sys.clone(), 0).now().unwrap();
            all.push(a);
        }
        println!("issued {:?}", t.elapsed());
        for a in &all {
            if !a.is_alive() {
                panic!()
            }
        }
        last.replace(1);
        while sys.actors().iter().any(|a| a.state == ActorState::Starting) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("spawn /s {} bytes {}", 1e5 / t.elapsed().as_secs_f64(), (rss() - before) / 100_000);
        let t = Instant::now();
        for _ in 0..1_000_000 {
            std::hint::black_box(ObjectRef::ready(&sys, 1u64));
        }
        println!("put ns {}", t.elapsed().as_nanos() as f64 / 1e6);
        let o = ObjectRef::ready(&sys, 1u64);
        let t = Instant::now();
        for _ in 0..1_000_000 {
            std::hint::black_box(o.get().await.unwrap());
        }
        println!("get ns {}", t.elapsed().as_nanos() as f64 / 1e6);
        sys.stop(Duration::from_secs(5)).await;
    });
}
