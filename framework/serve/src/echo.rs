//! [`EchoEngine`]: an engine without a model. It answers with the words of its prompt, at once, so that what a benchmark
//! or a test of the HTTP front measures is the front alone. It does not sample: temperature and seed change nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::stream;

use crate::engine::{
    ChatMessage, Chunk, Engine, EngineError, EngineLoad, Event, Finish, FinishReason, GenerateRequest, ModelInfo,
    Prompt, ScoredToken, TokenLogprob, Usage,
};
use crate::stream::TokenStream;

/// Answers with the prompt's words, each of them one token with the space before it. A chat is answered with the words
/// of its last message.
#[derive(Debug)]
pub struct EchoEngine {
    model: ModelInfo,
}

impl EchoEngine {
    /// An engine whose model is called `id`, with a context of 8,192 words of at most 64 bytes.
    pub fn new(id: impl Into<String>) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (id, owned_by) = (id.into(), "mobula".to_owned());
        Self { model: ModelInfo { id, created, owned_by, context_len: 8_192, token_bytes_max: 64 } }
    }
}

impl Engine for EchoEngine {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Prompt, EngineError> {
        Ok(Prompt::Rendered(messages.last().map_or("", |message| &message.content).into()))
    }

    fn generate(&self, request: GenerateRequest) -> Result<TokenStream, EngineError> {
        let prompt = match &request.prompt {
            Prompt::Rendered(text) | Prompt::Text(text) => text.clone(),
            Prompt::Tokens(ids) => ids.iter().map(|id| format!("{id} ")).collect::<String>().into(),
        };
        let prompt_len = prompt.split_whitespace().count();
        let room = (self.model.context_len as usize).saturating_sub(prompt_len);
        if room == 0 {
            return Err(EngineError::PromptTooLong { tokens: prompt_len, max: self.model.context_len as usize });
        }
        let max = request.max_tokens.map_or(room, |max| room.min(max as usize));

        let mut events = Vec::with_capacity(prompt_len.min(max) + 1);
        let mut reason = FinishReason::Stop;
        let mut completion_tokens = 0;
        for word in prompt.split_whitespace() {
            if completion_tokens as usize == max {
                reason = FinishReason::Length;
                break;
            }
            completion_tokens += 1;
            let text = if completion_tokens == 1 { word.to_owned() } else { format!(" {word}") };
            let stop = request.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let text = &text[..stop.unwrap_or(text.len())];
            events.push(Ok(Event::Chunk(chunk(text, completion_tokens, request.logprobs))));
            if stop.is_some() {
                break;
            }
        }
        let usage = Usage { prompt_tokens: prompt_len as u32, completion_tokens };
        events.push(Ok(Event::Finish(Finish { reason, usage })));
        Ok(TokenStream::new(stream::iter(events)))
    }

    fn load(&self) -> EngineLoad {
        EngineLoad::default()
    }
}

/// A word is certain, so its log probability is 0 and the only one there is.
fn chunk(text: &str, id: u32, logprobs: Option<u8>) -> Chunk {
    let certain = |top: u8| {
        let token = ScoredToken { id, bytes: text.as_bytes().to_vec(), logprob: 0.0 };
        TokenLogprob { top: vec![token.clone(); top.min(1) as usize], token }
    };
    Chunk { text: text.to_owned(), tokens: logprobs.map(certain).into_iter().collect() }
}
