//! async-openai's client against the server: what it sends is understood, and what comes back is what it expects.

use std::sync::Arc;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionRequestSystemMessage, ChatCompletionRequestUserMessage, ChatCompletionStreamOptions,
    CompletionFinishReason, CreateChatCompletionRequest, CreateChatCompletionRequestArgs, FinishReason, Role,
};
use async_openai::types::completions::CreateCompletionRequestArgs;
use futures_util::StreamExt;
use mobula_serve::{Config, EchoEngine, RunningServer, Server};

async fn start() -> (RunningServer, Client<OpenAIConfig>) {
    let config = Config { port: 0, api_keys: vec!["sk-test".into()], workers: 1, ..Config::default() };
    let server = Server::bind(config, Arc::new(EchoEngine::new("echo"))).await.unwrap();
    let client = client(&server, "sk-test");
    (server, client)
}

fn client(server: &RunningServer, key: &str) -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(format!("{}/v1", server.url())).with_api_key(key))
}

fn chat() -> CreateChatCompletionRequestArgs {
    let mut request = CreateChatCompletionRequestArgs::default();
    request.model("echo").messages([
        ChatCompletionRequestSystemMessage::from("Answer in one sentence.").into(),
        ChatCompletionRequestUserMessage::from("the quick brown fox").into(),
    ]);
    request
}

fn built(request: &CreateChatCompletionRequestArgs) -> CreateChatCompletionRequest {
    request.build().unwrap()
}

#[tokio::test]
async fn models() {
    let (_server, client) = start().await;
    let list = client.models().list().await.unwrap();
    assert_eq!(list.data.len(), 1);
    let model = client.models().retrieve("echo").await.unwrap();
    assert_eq!((model.id.as_str(), model.owned_by.as_str()), ("echo", "mobula"));
}

#[tokio::test]
async fn a_chat() {
    let (_server, client) = start().await;
    let request =
        built(chat().n(2u8).seed(5i64).temperature(0.0).max_completion_tokens(3u32).logprobs(true).top_logprobs(1u8));
    let response = client.chat().create(request).await.unwrap();
    assert_eq!(response.choices.len(), 2);
    for (index, choice) in response.choices.iter().enumerate() {
        assert_eq!(choice.index as usize, index);
        assert_eq!(choice.message.content.as_deref(), Some("the quick brown"));
        assert_eq!(choice.message.role, Role::Assistant);
        assert_eq!(choice.finish_reason, Some(FinishReason::Length));
        let logprobs = choice.logprobs.as_ref().unwrap().content.as_ref().unwrap();
        assert_eq!(logprobs.len(), 3);
        assert_eq!((logprobs[1].token.as_str(), logprobs[1].top_logprobs.len()), (" quick", 1));
    }
    let usage = response.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (4, 6, 10));
}

#[tokio::test]
async fn a_streamed_chat() {
    let (_server, client) = start().await;
    let options = ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None };
    let request = built(chat().stream_options(options).stop("fox"));
    let mut stream = client.chat().create_stream(request).await.unwrap();
    let (mut text, mut reason, mut usage) = (String::new(), None, None);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        for choice in &chunk.choices {
            text += choice.delta.content.as_deref().unwrap_or("");
            reason = reason.or(choice.finish_reason);
        }
        usage = chunk.usage.or(usage);
    }
    assert_eq!((text.as_str(), reason), ("the quick brown ", Some(FinishReason::Stop)));
    assert_eq!(usage.unwrap().completion_tokens, 4);
}

#[tokio::test]
async fn a_completion_whole_and_streamed() {
    let (_server, client) = start().await;
    let mut request = CreateCompletionRequestArgs::default();
    request.model("echo").prompt("a b c d").max_tokens(2u32).logprobs(1u8);
    let response = client.completions().create(request.build().unwrap()).await.unwrap();
    let choice = &response.choices[0];
    assert_eq!((choice.text.as_str(), choice.finish_reason), ("a b", Some(CompletionFinishReason::Length)));
    assert_eq!(choice.logprobs.as_ref().unwrap().text_offset, [0, 1]);

    let mut stream = client.completions().create_stream(request.build().unwrap()).await.unwrap();
    let mut text = String::new();
    while let Some(part) = stream.next().await {
        text += &part.unwrap().choices[0].text;
    }
    assert_eq!(text, "a b");
}

#[tokio::test]
async fn errors_are_read_as_openais() {
    let (server, client) = start().await;
    let refused = |result: Result<_, OpenAIError>| match result {
        Err(OpenAIError::ApiError(error)) => (error.status_code.as_u16(), error.api_error.param, error.api_error.code),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("this must be refused"),
    };
    let text = |text: &str| Some(text.to_owned());
    let unknown = client.chat().create(built(chat().model("gpt-4"))).await;
    assert_eq!(refused(unknown), (404, text("model"), text("model_not_found")));
    let hot = client.chat().create(built(chat().temperature(3.0))).await;
    assert_eq!(refused(hot), (400, text("temperature"), None));
    let penalty = client.chat().create(built(chat().presence_penalty(1.0))).await;
    assert_eq!(refused(penalty), (400, text("presence_penalty"), text("unsupported_parameter")));
    let wrong = super::client::client(&server, "sk-wrong").chat().create(built(&chat())).await;
    assert_eq!(refused(wrong), (401, None, text("invalid_api_key")));
}
