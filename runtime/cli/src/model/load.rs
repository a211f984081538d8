//! A model loaded: the session, the actor [`Llm`] in it, and the same as an [`LlmEngine`].
//!
//! Standard error hears what is loaded, that it goes on, and under which ids the shards are supervised.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use mobula::{ActorRef, Session};
use mobula_llm::engine::LlmArgs;
use mobula_llm::{Fault, Llm, LlmEngine, catalogue};

use super::{Model, pull};

/// How a model is to be loaded: what `serve` and `run` share.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A name of the catalogue (smollm2), fetched first if it is not there, or the path of a .gguf file
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,

    /// Cut the model into N shards, each an actor with a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tensor_parallel_size: u16,
}

/// A model that is ready to answer.
pub(crate) struct Loaded {
    /// By which name clients call it.
    pub(crate) name: String,
    pub(crate) engine: LlmEngine,
    /// Why there is no chat template, if there is none.
    pub(crate) no_template: Option<String>,
    /// Ends the actors when it is stopped or dropped.
    pub(crate) session: Session,
}

/// How often a log hears that loading goes on.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long the shards may take to end. They look for it between two steps, and a step of a small model is short.
const SHARDS_PATIENCE: Duration = Duration::from_secs(2);

/// Loads a model, after fetching it if need be; `fault` lets a shard fail on purpose.
pub(crate) async fn load(model: Model, shards: u16, fault: Option<Fault>) -> Result<Loaded> {
    let (name, path) = match model {
        Model::Named(entry) => (entry.name.to_owned(), fetched(entry).await?),
        Model::File(path) => (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path),
    };
    let bytes = path.metadata().with_context(|| format!("read {}", path.display()))?.len();
    anstream::eprintln!("loading {} ({}) into {}", path.display(), HumanBytes(bytes), counted(shards));
    let start = Instant::now();
    // The actors open it again, but what is wrong with a file is told in its own words, before there are any.
    let opened = mobula_llm::model::Model::open(&path).and_then(|model| model.split(usize::from(shards)).map(drop));
    opened.with_context(|| format!("cannot load {}", path.display()))?;
    // The shards share the memory of this process, also where a node runs on this host.
    let config = mobula::Config::default().address("embedded").patience(SHARDS_PATIENCE);
    let session = mobula::init_with(config).await?;
    let args = LlmArgs { shards: usize::from(shards), fault, ..LlmArgs::new(&path) };
    let llm = told(start, Llm::spawn_with(args).name(&name)).await;
    let llm = llm.map_err(|error| anyhow::anyhow!("cannot load {}: {error}", path.display()))?;
    let description = llm.describe().await?;
    let no_template = description.template.as_ref().err().cloned();
    anstream::eprintln!(
        "loaded in {:.2} s, context of {} tokens: {}",
        start.elapsed().as_secs_f64(),
        description.context,
        supervised(&llm).await?
    );
    let engine = LlmEngine::new(llm, &name).await?;
    Ok(Loaded { name, engine, no_template, session })
}

/// The file of a catalogue's entry, which is fetched if it is not there.
async fn fetched(entry: &'static catalogue::Entry) -> Result<PathBuf> {
    if let Some(path) = catalogue::cached(entry.name) {
        return Ok(path);
    }
    anstream::eprintln!("{} is not here yet: fetching it, {} once", entry.name, HumanBytes(entry.bytes));
    pull(entry).await
}

/// Waits for `work` and says from time to time that it goes on.
async fn told<W: IntoFuture>(start: Instant, work: W) -> W::Output {
    let mut work = std::pin::pin!(work.into_future());
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(TOLD_EVERY) => anstream::eprintln!("still loading after {} s", start.elapsed().as_secs()),
        }
    }
}

/// The shards by name and id, as the supervision tree has them.
async fn supervised(llm: &ActorRef<Llm>) -> Result<String> {
    let shards = llm.shards().await?;
    Ok(shards.iter().map(|(name, id)| format!("{name} is {id}")).collect::<Vec<_>>().join(", "))
}

fn counted(shards: u16) -> String {
    if shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") }
}
