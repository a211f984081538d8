//! `mobula run`: one answer on the terminal, as it grows.

use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use mobula_serve::{ChatMessage, Engine, Event, GenerateRequest, Prompt, Role, Sampling};

use crate::exit::{self, Usage};
use crate::model::{self, Loaded, Model};

/// Answer one prompt on the terminal.
///
/// The prompt is put into the model's chat template, if it has one. Only the answer goes to standard output.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    load: model::Options,

    /// What to answer
    prompt: String,

    /// Continue the prompt as it stands, without the chat template
    #[arg(long)]
    raw: bool,

    /// Generate at most so many tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,

    /// 0 always takes the likeliest token; up to 2 takes ever more surprising ones
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,

    /// The same seed gives the same answer
    #[arg(long)]
    seed: Option<u64>,
}

const EXAMPLES: &str = "\
Examples:
  mobula run smollm2 \"Explain in one sentence what a compiler does.\"
  mobula run smollm2 --raw \"The capital of France is\" --max-tokens 8
  mobula run smollm2 \"Tell a story.\" --temperature 0.8 --seed 7
";

/// Prints the answer.
pub(crate) fn run(args: &Args) -> Result<()> {
    let model = Model::parse(&args.load.model)?;
    if !(0.0..=2.0).contains(&args.temperature) {
        return Err(Usage(format!("--temperature {}: expected a number from 0 to 2", args.temperature)).into());
    }
    exit::until_signal(answer(args, model))
}

async fn answer(args: &Args, model: Model) -> Result<()> {
    let Loaded { engine, no_template, session, .. } = model::load(model, args.load.tensor_parallel_size, None).await?;
    let prompt = match no_template {
        None if !args.raw => engine.render_chat(&[ChatMessage::new(Role::User, &*args.prompt)])?,
        no_template => {
            if let Some(why) = no_template.filter(|_| !args.raw) {
                anstream::eprintln!("continuing the prompt as it stands: {why}");
            }
            Prompt::Text((&*args.prompt).into())
        }
    };
    let sampling = Sampling { temperature: args.temperature, seed: args.seed, ..Sampling::default() };
    let max_tokens = Some(args.max_tokens);
    let mut events = engine.generate(GenerateRequest { sampling, max_tokens, ..GenerateRequest::new(prompt) })?;
    let mut page = Page::new();
    while let Some(event) = events.next().await {
        if let Event::Chunk(chunk) = event?
            && !page.show(&chunk.text)?
        {
            break;
        }
    }
    page.show("\n")?;
    drop(events);
    session.stop().await;
    Ok(())
}

/// Standard output, where an answer is shown piece by piece.
struct Page {
    output: std::io::Stdout,
    /// A model may say anything: what would steer a terminal is left out.
    is_terminal: bool,
}

impl Page {
    fn new() -> Page {
        let output = std::io::stdout();
        let is_terminal = output.is_terminal();
        Page { output, is_terminal }
    }

    /// Shows more; false when the reader has gone (as `| head` does), which is no error.
    fn show(&mut self, text: &str) -> Result<bool> {
        let text = if self.is_terminal { steerless(text) } else { text.to_owned() };
        match self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error).context("write the answer"),
        }
    }
}

fn steerless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_steered_by_an_answer() {
        assert_eq!(steerless("a\u{1b}[2Jb\n\tü\r\u{7}\u{9b}"), "a[2Jb\n\tü");
    }
}
