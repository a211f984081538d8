//! Shards that die: whoever was being answered is told which and why, the group starts again, and the answers stay right.

use mobula::{ActorRef, CallError};
use mobula_llm::engine::{Answer, LlmArgs, Piece, Request};
use mobula_llm::{Fault, Llm, RequestError};

use crate::{PATIENCE, Saved, direct, in_session, request};

fn args(saved: &Saved, shards: usize, fault: &str) -> LlmArgs {
    LlmArgs { fault: Some(fault.parse::<Fault>().unwrap()), ..saved.args(shards) }
}

/// A request whose answer is long enough for a fault at an early token.
fn long(saved: &Saved, shards: usize) -> (Request, Answer) {
    let all = (0..50).map(|seed| request(seed, 5, 12));
    let mut answered = all.map(|request| (request.clone(), direct::answer(&saved.path(), shards, &request)));
    answered.find(|(_, answer)| answer.end.usage.answer_tokens == 12).expect("some answer is long")
}

/// The answer of an engine that fails under it.
async fn fails(llm: &ActorRef<Llm>, request: &Request, rank: usize) {
    let error = tokio::time::timeout(PATIENCE, llm.request(request.clone()).into_future()).await.expect("no hang");
    let Err(RequestError::ShardFailed { message }) = error else { panic!("shard {rank} did not fail: {error:?}") };
    assert!(message.starts_with(&format!("shard-{rank}: ")), "{message}");
    assert!(message.contains("the fault that was asked for, at token 5"), "{message}");
}

fn the_group_starts_again(encode_all: bool, shards: usize, rank: usize) {
    let saved = Saved::tiny(4);
    let (request, expected) = long(&saved, shards);
    in_session(encode_all, || async {
        let llm = Llm::spawn_with(args(&saved, shards, &format!("shard:{rank}@token=5,lives=2"))).await.unwrap();
        let ids = llm.shards().await.unwrap();
        let names: Vec<_> = ids.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["shard-0", "shard-1", "shard-2"][..shards]);
        fails(&llm, &request, rank).await;
        fails(&llm, &request, rank).await;
        for _ in 0..2 {
            assert_eq!(llm.request(request.clone()).await.as_ref(), Ok(&expected));
        }
        assert_eq!(llm.shards().await.unwrap(), ids, "a restarted shard keeps its id");
    });
}

#[test]
fn when_the_last_of_2_dies() {
    the_group_starts_again(false, 2, 1);
}

#[test]
fn when_the_first_of_2_dies() {
    the_group_starts_again(false, 2, 0);
}

#[test]
fn when_one_of_3_dies() {
    the_group_starts_again(false, 3, 1);
}

#[test]
fn when_the_only_one_dies() {
    the_group_starts_again(false, 1, 0);
}

#[test]
fn when_one_dies_behind_the_codec() {
    the_group_starts_again(true, 2, 1);
}

#[test]
fn a_stream_breaks_off_with_the_cause_and_those_that_wait_are_answered() {
    let saved = Saved::tiny(4);
    let (request, expected) = long(&saved, 2);
    in_session(false, || async {
        let llm = Llm::spawn_with(LlmArgs { running_max: 1, ..args(&saved, 2, "shard:1@token=5") }).await.unwrap();
        let mut pieces = llm.request(request.clone()).stream().await.unwrap();
        let (mut tokens, mut error) = (0, None);
        while let Some(piece) = pieces.next().await {
            match piece.unwrap() {
                Ok(Piece::More { .. }) => tokens += 1,
                Ok(Piece::End(end)) => panic!("ended {end:?}"),
                Err(failed) => error = Some(failed),
            }
        }
        assert_eq!(tokens, 4);
        assert!(matches!(error, Some(RequestError::ShardFailed { .. })), "{error:?}");
        assert_eq!(llm.request(request).await, Ok(expected));
    });
}

/// Whatever is asked of an engine that has ended says so with the first cause, now and later.
async fn has_ended(llm: &ActorRef<Llm>, request: &Request, cause: &str) {
    let again = async || tokio::time::timeout(PATIENCE, llm.request(request.clone()).into_future()).await;
    loop {
        match again().await.expect("no hang") {
            Err(RequestError::Unreachable(why)) => {
                assert!(why.contains(cause), "{cause:?} is not in {why:?}");
                break;
            }
            // Before the end is noticed.
            Err(RequestError::ShardFailed { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let error = llm.describe().await.expect_err("it has ended");
    assert!(matches!(error, CallError::NotStarted(_)), "{error:?}");
    assert!(error.to_string().contains(cause), "{error}");
}

#[test]
fn a_group_that_dies_again_and_again_ends_the_engine() {
    let saved = Saved::tiny(4);
    let (request, _) = long(&saved, 2);
    in_session(false, || async {
        let llm = Llm::spawn_with(args(&saved, 2, "shard:1@token=5,lives=99")).await.unwrap();
        // G5: at most 3 restarts in 10 s.
        for _ in 0..3 {
            fails(&llm, &request, 1).await;
        }
        has_ended(&llm, &request, "the fault that was asked for").await;
    });
}

#[test]
fn a_group_that_cannot_start_again_ends_the_engine() {
    let saved = Saved::tiny(4);
    let (request, _) = long(&saved, 2);
    in_session(false, || async {
        let llm = Llm::spawn_with(args(&saved, 2, "shard:0@token=5")).await.unwrap();
        std::fs::remove_file(saved.path()).unwrap();
        fails(&llm, &request, 0).await;
        has_ended(&llm, &request, "No such file").await;
    });
}
