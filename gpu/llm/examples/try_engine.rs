#![allow(missing_docs)]
use std::time::Instant;
use mobula_llm::Llm;
fn main() {
    let shards: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let path = mobula_llm::catalogue::cached("smollm2").unwrap();
    let system = mobula::System::start(&mobula::SystemConfig { node: mobula::NodeId(1), arbiters: 2 });
    system.make_process_default();
    mobula_actor::arbiters::runtime().block_on(async {
        let t = Instant::now();
        let llm = Llm::spawn(path).shards(shards).await.unwrap();
        println!("loaded in {:?}", t.elapsed());
        for _ in 0..2 {
            let t = Instant::now();
            let a = llm.generate("The capital of France is").tokens_max(100).await.unwrap();
            println!("{} {:?} {} tok/s", a.text.len(), a.end, a.end.usage.answer_tokens as f64 / t.elapsed().as_secs_f64());
        }
        let t = Instant::now();
        let all = futures_util::future::join_all((0..8).map(|_| llm.generate("The capital of France is").tokens_max(100).into_future())).await;
        println!("8: {} tok/s", all.iter().map(|a| a.as_ref().unwrap().end.usage.answer_tokens).sum::<usize>() as f64 / t.elapsed().as_secs_f64());
        let long = "word ".repeat(500);
        let t = Instant::now();
        let a = llm.generate(long).tokens_max(1).await.unwrap();
        println!("prompt {} tok/s", a.end.usage.prompt_tokens as f64 / t.elapsed().as_secs_f64());
        println!("{:?}", llm.shards().await);
        system.stop(std::time::Duration::from_secs(5)).await;
    });
}
