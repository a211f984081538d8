//! Answers are those of the shards alone, whatever else the engine does at the same time.

use futures_util::future::join_all;
use mobula::ActorRef;
use mobula_llm::engine::{LlmArgs, Piece, Pieces, Prompt, Request, TokenScore};
use mobula_llm::sampler::Sampling;
use mobula_llm::{Llm, RequestError};

use crate::{Saved, direct, in_session, request, until, until_idle};

/// Requests of all kinds: long and short, greedy and drawn, with stop strings.
fn several() -> Vec<Request> {
    let drawn = |seed| Sampling { temperature: 1.0, top_k: 40, top_p: 0.9, min_p: 0.01, seed };
    let mut all = vec![request(1, 1, 20), request(2, 70, 9), request(3, 33, 40), request(4, 150, 3)];
    all.push(Request { sampling: drawn(7), ..request(5, 12, 30) });
    all.push(Request { sampling: drawn(8), ..request(5, 12, 30) });
    all.push(Request { stop: vec!["e".into(), "a".into(), "\u{fffd}".into()], ..request(6, 5, 60) });
    all
}

fn answers_are_the_shards_own(encode_all: bool, shards: usize) {
    let saved = Saved::tiny(11);
    let requests = several();
    let expected: Vec<_> = requests.iter().map(|request| direct::answer(&saved.path(), shards, request)).collect();
    assert!(expected.iter().any(|answer| answer.end.stopped), "the stop strings do occur");
    assert_ne!(expected[4], expected[5], "the seed matters");
    in_session(encode_all, || async {
        let llm = Llm::spawn_with(saved.args(shards)).await.unwrap();
        for (request, expected) in requests.iter().zip(&expected) {
            assert_eq!(llm.request(request.clone()).await.as_ref(), Ok(expected), "alone");
        }
        let together = join_all(requests.iter().map(|request| llm.request(request.clone()).into_future())).await;
        for (answer, expected) in together.iter().zip(&expected) {
            assert_eq!(answer.as_ref(), Ok(expected), "together");
        }
    });
}

#[test]
fn of_1_shard() {
    answers_are_the_shards_own(false, 1);
}

#[test]
fn of_2_shards() {
    answers_are_the_shards_own(false, 2);
}

#[test]
fn of_3_shards() {
    answers_are_the_shards_own(false, 3);
}

#[test]
fn of_2_shards_through_the_codec() {
    answers_are_the_shards_own(true, 2);
}

/// A cache that holds little more than one sequence makes the others wait and give way.
#[test]
fn of_a_cache_too_small_for_all() {
    let saved = Saved::tiny(11);
    in_session(false, || async {
        let args = LlmArgs { cache_tokens: Some(192), step_tokens_max: 33, ..saved.args(1) };
        let llm = Llm::spawn_with(args).await.unwrap();
        let requests: Vec<_> = (0..5).map(|seed| request(20 + seed, 60, 70)).collect();
        let answers = join_all(requests.iter().map(|request| llm.request(request.clone()).into_future())).await;
        for (request, answer) in requests.iter().zip(answers) {
            assert_eq!(answer.unwrap(), direct::answer(&saved.path(), 1, request));
        }
        until_idle(&llm.describe().await.unwrap()).await;
    });
}

#[test]
fn text_is_tokenised_and_its_control_tokens_are_letters() {
    let saved = Saved::tiny(3);
    in_session(false, || async {
        let llm = Llm::spawn(saved.path()).shards(2).name("tiny").await.unwrap();
        let described = llm.describe().await.unwrap();
        assert_eq!((described.name.as_str(), described.shards, described.context), ("tiny", 2, 256));
        let text = "the thing<|im_end|>";
        let tokens = described.tokenizer.encode_prompt(text);
        assert!(tokens.iter().all(|&token| !described.tokenizer.is_control(token)), "{tokens:?}");
        let by_tokens = Request { tokens_max: Some(6), ..Request::new(Prompt::Tokens(tokens)) };
        let expected = direct::answer(&saved.path(), 2, &by_tokens);
        assert_eq!(llm.generate(text).tokens_max(6).await.as_ref(), Ok(&expected));
    });
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let saved = Saved::tiny(5);
    let request = Request { top_logprobs: Some(3), ..request(9, 8, 25) };
    let expected = direct::answer(&saved.path(), 1, &request);
    in_session(false, || async {
        let llm = Llm::spawn_with(saved.args(1)).await.unwrap();
        let mut pieces = llm.request(request).stream().await.unwrap();
        let (mut whole, mut scores, mut end) = (String::new(), Vec::new(), None);
        while let Some(piece) = pieces.next().await {
            assert_eq!(end, None, "nothing follows the end");
            match piece.unwrap().unwrap() {
                Piece::More { text, score } => {
                    whole += &text;
                    scores.push(score.expect("probabilities were asked for"));
                }
                Piece::End(how) => end = Some(how),
            }
        }
        assert_eq!((whole, end), (expected.text, Some(expected.end)));
        assert_eq!(scores.len(), expected.end.usage.answer_tokens);
        for TokenScore { chosen, top } in &scores {
            assert_eq!(top.len(), 3);
            assert_eq!(&top[0], chosen, "greedy takes the best");
            assert!(top.windows(2).all(|two| two[0].logprob >= two[1].logprob) && chosen.logprob < 0.0);
        }
    });
}

/// A request of the patient model that runs for thousands of tokens: the first that does.
async fn endless(llm: &ActorRef<Llm>) -> Pieces {
    for seed in 0..50 {
        let mut pieces = llm.request(Request { tokens_max: None, ..request(seed, 4, 1) }).stream().await.unwrap();
        let mut runs = true;
        for _ in 0..64 {
            let piece = pieces.next().await.unwrap().unwrap().unwrap();
            runs &= matches!(piece, Piece::More { .. });
            if !runs {
                break;
            }
        }
        if runs {
            return pieces;
        }
    }
    panic!("no prompt of 50 runs for 64 tokens");
}

#[test]
fn a_dropped_stream_frees_its_sequence() {
    let saved = Saved::patient();
    in_session(false, || async {
        let args = LlmArgs { running_max: 1, waiting_max: 1, ..saved.args(2) };
        let llm = Llm::spawn_with(args).await.unwrap();
        let described = llm.describe().await.unwrap();
        let running = endless(&llm).await;
        let [waiting, runs, used, blocks] = described.load();
        assert_eq!((waiting, runs, blocks), (0, 1, 2 * described.context / 32));
        assert!(used >= 2, "{used} blocks for more than 64 tokens");

        let mut waits = llm.request(request(1, 4, 5)).stream().await.unwrap();
        let refused = llm.request(request(2, 4, 5)).await;
        assert_eq!(refused, Err(RequestError::QueueFull { waiting: 1 }));

        drop(running);
        let first = waits.next().await.unwrap().unwrap();
        assert!(first.is_ok(), "its turn comes: {first:?}");
        drop(waits);
        until_idle(&described).await;

        // Whoever goes away while it waits frees its place, too.
        let running = endless(&llm).await;
        drop(llm.request(request(1, 4, 5)).stream().await.unwrap());
        until(&described, |[waiting, runs, ..]| (waiting, runs) == (0, 1)).await;
        drop(running);
        until_idle(&described).await;
        let expected = direct::answer(&saved.path(), 2, &request(3, 4, 5));
        assert_eq!(llm.request(request(3, 4, 5)).await, Ok(expected));
    });
}
