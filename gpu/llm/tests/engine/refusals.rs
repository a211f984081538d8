//! Files that cannot be served and requests that mean nothing: a clear error, and nothing hangs.

use mobula_llm::engine::{Prompt, Request};
use mobula_llm::sampler::Sampling;
use mobula_llm::{Llm, RequestError};

use crate::{Saved, in_session, request};

/// Starting an engine fails with an error that says all of `parts`.
fn start_fails(saved: &Saved, shards: usize, parts: &[&str]) {
    for encode_all in [false, true] {
        in_session(encode_all, || async {
            let error = Llm::spawn_with(saved.args(shards)).await.expect_err("no engine starts").to_string();
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        });
    }
}

#[test]
fn files_that_are_no_models() {
    let missing = Saved::tiny(1);
    std::fs::remove_file(missing.path()).unwrap();
    start_fails(&missing, 2, &["tiny.gguf", "No such file"]);
    start_fails(&Saved::new(b"PK\x03\x04 is a wheel, not a model"), 1, &["tiny.gguf", "GGUF"]);
    let whole = mobula_llm::tiny::model(1);
    start_fails(&Saved::new(&whole[..whole.len() - 100]), 2, &["tiny.gguf"]);
    start_fails(&Saved::new(&whole[..50]), 2, &["tiny.gguf"]);
}

#[test]
fn shards_that_a_model_cannot_have() {
    start_fails(&Saved::tiny(1), 5, &["5 shards, but the model has 3 KV heads: use at most 3 shards"]);
    start_fails(&Saved::tiny(1), 0, &["0 shards, expected at least 1"]);
}

#[test]
fn requests_that_mean_nothing() {
    let saved = Saved::tiny(1);
    for encode_all in [false, true] {
        in_session(encode_all, || async {
            let llm = Llm::spawn(saved.path()).await.unwrap();
            let refused = async |request: Request| llm.request(request).await.unwrap_err();
            let invalid = async |param: &str, message: &str, request: Request| {
                let expected = RequestError::Invalid { param: param.into(), message: message.into() };
                assert_eq!(refused(request).await, expected);
            };
            let tokens = |tokens: Vec<u32>| Request::new(Prompt::Tokens(tokens));
            invalid("prompt", "the prompt is empty", Request::new(Prompt::Text(String::new()))).await;
            invalid("prompt", "the prompt is empty", tokens(vec![])).await;
            let message = "token 99999 is not in the vocabulary of 271 tokens";
            invalid("prompt", message, tokens(vec![5, 99_999])).await;
            let hot = Sampling { temperature: f32::INFINITY, ..Sampling::default() };
            let message = "temperature is inf, expected 0 to 2";
            invalid("temperature", message, Request { sampling: hot, ..request(1, 3, 3) }).await;
            let message = "top_logprobs is 21, expected 0 to 20";
            invalid("top_logprobs", message, Request { top_logprobs: Some(21), ..request(1, 3, 3) }).await;
            invalid("stop", "stop string 0 is empty", Request { stop: vec![String::new()], ..request(1, 3, 3) }).await;

            let error = refused(request(1, 256, 1)).await;
            assert_eq!(error, RequestError::PromptTooLong { tokens: 256, context: 256 });
            // Refused by its bytes: tokenising it would take far longer.
            let error = llm.generate("a".repeat(7 << 20)).await.unwrap_err();
            assert!(matches!(error, RequestError::PromptTooLong { context: 256, .. }), "{error}");
            let answer = llm.request(request(1, 255, 10)).await.unwrap();
            assert_eq!(answer.end.usage.answer_tokens, 1, "the context is full");
        });
    }
}
