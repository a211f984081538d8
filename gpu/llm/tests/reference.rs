//! The demo model against llama.cpp: tokenizer and template.
//!
//! Without the model file (`mobula pull smollm2`) these tests say that they were skipped; where `CI` is set they fail.

use std::time::SystemTime;

use mobula_llm::catalogue;
use mobula_llm::model::Model;
use mobula_llm::template::{ChatMessage, Role};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    raw: Vec<Continuation>,
    chat: Vec<Continuation>,
}

#[derive(Deserialize)]
struct Continuation {
    prompt: String,
    rendered: Option<String>,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    text: String,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("data/smollm2.json")).expect("the reference is valid")
}

/// The demo model, or a word on why there is nothing to test.
fn model() -> Option<Model> {
    let Some(path) = catalogue::cached("smollm2") else {
        assert!(std::env::var_os("CI").is_none(), "CI must pull the demo model: mobula pull smollm2");
        println!("skipped: the demo model is not there, `mobula pull smollm2` fetches it");
        return None;
    };
    Some(Model::open(path).expect("the demo model opens"))
}

#[test]
fn tokens_and_templates_are_the_references() {
    let Some(model) = model() else { return };
    let tokenizer = model.tokenizer().unwrap();
    let template = model.template(&tokenizer).unwrap();
    let Reference { raw, chat } = reference();
    for case in &raw {
        assert_eq!(tokenizer.encode_prompt(&case.prompt), case.prompt_ids, "{:?}", case.prompt);
    }
    for case in &chat {
        let messages = [ChatMessage::new(Role::User, case.prompt.as_str())];
        let rendered = template.render(&messages, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(Some(rendered.text()), case.rendered);
        assert_eq!(tokenizer.encode_rendered(&rendered), case.prompt_ids, "{:?}", case.prompt);
    }
    for case in raw.iter().chain(&chat) {
        // The reference writes control tokens out.
        let text: String = case.greedy_ids.iter().map(|&token| tokenizer.text_of(token)).collect();
        assert_eq!(text, case.text);
    }
    assert_eq!((raw.len(), chat.len()), (5, 3));
}
