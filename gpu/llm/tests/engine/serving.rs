//! The engine behind `mobula_serve`'s trait: what `mobula serve` serves.

use futures_util::StreamExt;
use mobula::CallError;
use mobula_llm::engine::{LlmArgs, Prompt as LlmPrompt, Request};
use mobula_llm::{Llm, LlmEngine};
use mobula_serve::{
    ChatMessage, Chunk, Engine, EngineError, Event, Finish, FinishReason, GenerateRequest, Prompt, Role, Sampling,
    TokenStream,
};

use crate::{PATIENCE, Saved, direct, in_session, request, until_idle};

async fn engine(args: LlmArgs) -> LlmEngine {
    LlmEngine::new(Llm::spawn_with(args).await.unwrap(), "tiny").await.unwrap()
}

const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: None, top_p: 1.0, seed: None };

fn greedy(prompt: Prompt, max_tokens: u32) -> GenerateRequest {
    GenerateRequest { max_tokens: Some(max_tokens), sampling: GREEDY, ..GenerateRequest::new(prompt) }
}

/// The chunks of an answer and its end.
async fn read(mut stream: TokenStream) -> Result<(Vec<Chunk>, Finish), EngineError> {
    let mut chunks = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("no hang");
        match event.expect("a stream ends with a finish or an error")? {
            Event::Chunk(chunk) => chunks.push(chunk),
            Event::Finish(finish) => {
                assert!(stream.next().await.is_none(), "nothing follows the finish");
                return Ok((chunks, finish));
            }
        }
    }
}

#[test]
fn a_chat_is_rendered_and_answered() {
    let saved = Saved::tiny(6);
    in_session(false, || async {
        let engine = engine(saved.args(2)).await;
        assert_eq!((engine.model().id.as_str(), engine.model().context_len), ("tiny", 256));

        // What a user spells is no control token; what the template writes is.
        let prompt = engine.render_chat(&[ChatMessage::new(Role::User, "the <|im_end|>")]).unwrap();
        let Prompt::Tokens(tokens) = &prompt else { panic!("{prompt:?}") };
        let starts = tokens.iter().filter(|&&token| token == 1).count();
        let ends = tokens.iter().filter(|&&token| token == 2).count();
        assert_eq!((starts, ends), (2, 1), "{tokens:?}");

        let direct = Request { tokens_max: Some(9), ..Request::new(LlmPrompt::Tokens(tokens.to_vec())) };
        let expected = direct::answer(&saved.path(), 2, &direct);
        let request = GenerateRequest { logprobs: Some(2), ..greedy(prompt, 9) };
        let (chunks, finish) = read(engine.generate(request).unwrap()).await.unwrap();
        let text: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
        assert_eq!(text, expected.text);
        let usage = expected.end.usage;
        assert_eq!(finish.usage.prompt_tokens as usize, usage.prompt_tokens);
        assert_eq!(finish.usage.completion_tokens as usize, usage.answer_tokens);
        assert_eq!(finish.reason == FinishReason::Stop, expected.end.stopped);
        let scores: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.tokens).collect();
        assert_eq!(scores.len(), usage.answer_tokens);
        assert!(scores.iter().all(|score| score.top.len() == 2 && score.top[0] == score.token));
    });
}

#[test]
fn what_is_wrong_is_known_at_once() {
    let saved = Saved::tiny(6);
    in_session(false, || async {
        let engine = engine(saved.args(1)).await;
        let refused = |request| engine.generate(request).expect_err("it is refused");
        let error = refused(greedy(Prompt::Text("a".repeat(7 << 20).into()), 1));
        assert!(matches!(error, EngineError::PromptTooLong { max: 256, .. }), "{error:?}");
        let error = refused(greedy(Prompt::Tokens([99_999].into()), 1));
        assert!(matches!(error, EngineError::BadRequest { param: "prompt", .. }), "{error:?}");
        let error = engine.render_chat(&[ChatMessage::new(Role::User, "a".repeat(7 << 20))]).unwrap_err();
        assert!(matches!(error, EngineError::PromptTooLong { max: 256, .. }), "{error:?}");
        // Parameters are the stream's first item.
        let hot = Sampling { temperature: 3.0, ..GREEDY };
        let hot = GenerateRequest { sampling: hot, ..greedy(Prompt::Text("a".into()), 1) };
        let error = read(engine.generate(hot).unwrap()).await.unwrap_err();
        assert!(matches!(error, EngineError::BadRequest { param: "temperature", .. }), "{error:?}");
    });
}

#[test]
fn a_seed_decides_and_none_is_another_each_time() {
    let saved = Saved::tiny(6);
    in_session(false, || async {
        let engine = engine(saved.args(1)).await;
        let text = async |seed| {
            let sampling = Sampling { seed, ..Sampling::default() };
            let request = GenerateRequest { sampling, ..greedy(Prompt::Text("the thing".into()), 20) };
            let (chunks, _) = read(engine.generate(request).unwrap()).await.unwrap();
            chunks.into_iter().map(|chunk| chunk.text).collect::<String>()
        };
        assert_eq!(text(Some(5)).await, text(Some(5)).await);
        assert_ne!(text(Some(5)).await, text(Some(6)).await);
        assert_ne!(text(None).await, text(None).await);
    });
}

#[test]
fn a_full_queue_is_overload_and_a_reader_that_goes_frees_it() {
    let saved = Saved::patient();
    in_session(false, || async {
        let llm = Llm::spawn_with(LlmArgs { running_max: 1, waiting_max: 1, ..saved.args(1) }).await.unwrap();
        let described = llm.describe().await.unwrap();
        let engine = LlmEngine::new(llm, "tiny").await.unwrap();
        let LlmPrompt::Tokens(tokens) = request(1, 4, 1).prompt else { unreachable!("tests ask with tokens") };
        let ask = || {
            let hot = Sampling { temperature: 2.0, seed: Some(3), ..Sampling::default() };
            let prompt = Prompt::Tokens(tokens.clone().into());
            engine.generate(GenerateRequest { sampling: hot, ..GenerateRequest::new(prompt) })
        };
        let mut running = ask().unwrap();
        running.next().await.unwrap().unwrap();
        let mut waits = ask().unwrap();
        assert!(futures_util::poll!(waits.next()).is_pending());
        crate::until(&described, |[waiting, ..]| waiting == 1).await;
        assert_eq!(engine.load().queued, 1);
        let error = ask().expect_err("the queue is full");
        assert!(matches!(error, EngineError::Overloaded { .. }), "{error:?}");
        drop((running, waits));
        until_idle(&described).await;
    });
}

#[test]
fn a_dead_shard_is_one_error() {
    let saved = Saved::tiny(4);
    in_session(false, || async {
        let engine = engine(LlmArgs { fault: Some("shard:1@token=1".parse().unwrap()), ..saved.args(2) }).await;
        let ask = || greedy(Prompt::Text("the thing".into()), 3);
        let error = read(engine.generate(ask()).unwrap()).await.unwrap_err();
        assert!(matches!(error, EngineError::ShardFailed { .. }), "{error:?}");
        read(engine.generate(ask()).unwrap()).await.unwrap();
    });
}

/// Tokenizer and template are shared, not sent: behind the codec there is no `LlmEngine`, and it says so.
#[test]
fn it_stays_in_the_process_of_its_actor() {
    let saved = Saved::tiny(4);
    in_session(true, || async {
        let llm = Llm::spawn(saved.path()).await.unwrap();
        let error = LlmEngine::new(llm, "tiny").await.err().expect("it is elsewhere");
        assert!(matches!(error, CallError::NotStarted(mobula::NotStarted::LocalOnly { .. })), "{error:?}");
    });
}
