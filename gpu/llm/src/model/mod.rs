//! Models: a file opened and understood, and the shards that compute it.
//!
//! | type | what it is |
//! |---|---|
//! | [`Model`] | the file with its sizes; makes tokenizer, template and shards |
//! | [`Shard`] | one rank's part of weights and cache, and its part of a step |
//! | [`Logits`] | a shard's part of the vocabulary for the rows of a step |

mod cache;
mod llama;

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
use crate::gguf::{self, Gguf};
use crate::split::{self, Part, Sizes};
use crate::template::{self, Template};
use crate::tokenizer::{self, Tokenizer};
pub use llama::{Shard, StepError};

/// A model file, opened and checked.
///
/// ```
/// use std::time::{Duration, Instant};
/// use mobula_llm::logic::{BlockId, Rows, SequenceId, SequencePlan, StepPlan};
/// use mobula_llm::{model::Model, tiny};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("tiny.gguf");
/// std::fs::write(&path, tiny::model(7))?;
/// let model = Model::open(&path)?;
/// let parts = model.split(1)?;
/// let mut shard = model.shard(&parts[0], mobula_kernels::Path::detect()?, 1)?;
///
/// let mut group = mobula_collective::join("doc of Model", 0, 1)?;
/// let tokens = model.tokenizer()?.encode("the");
/// let prompt = SequencePlan { id: SequenceId(0), tokens, start: 0, blocks: vec![BlockId(0)], rows: Rows::Last };
/// let plan = StepPlan { sequences: vec![prompt] };
/// let logits = shard.step(&plan, &mut group, Instant::now() + Duration::from_secs(10))?;
/// assert_eq!(logits.row(0).len(), model.config().vocabulary);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Model {
    file: Gguf,
    config: Config,
}

/// Why a model cannot be opened, cut or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is broken or lacks something.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The hyperparameters are unknown or impossible.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The model cannot be cut so.
    #[error(transparent)]
    Split(#[from] split::Error),
    /// The vocabulary is unknown or inconsistent.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// A tensor that this architecture does not have: ignoring it would give wrong answers.
    #[error("tensor {0:?} is no part of architecture llama as it is implemented")]
    UnknownTensor(String),
    /// Vocabulary and embedding differ.
    #[error("the tokenizer has {tokens} tokens, but token_embd.weight has {rows} rows")]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
}

impl Model {
    /// Maps a model file and checks that it can be run.
    ///
    /// # Errors
    /// [`Error`] names what is wrong with the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = Gguf::open(path)?;
        let config = Config::from_gguf(&file)?;
        llama::check_tensors(&file, &config)?;
        Ok(Model { file, config })
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file.
    pub fn file(&self) -> &Gguf {
        &self.file
    }

    /// The model's name in its metadata, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.file.string("general.name").ok()
    }

    /// The model's tokenizer, read anew.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`], and [`Error::Vocabulary`].
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let tokenizer = Tokenizer::from_gguf(&self.file)?;
        let (tokens, rows) = (tokenizer.vocabulary_len(), self.config.vocabulary);
        if tokens != rows {
            return Err(Error::Vocabulary { tokens, rows });
        }
        Ok(tokenizer)
    }

    /// The model's chat template, compiled anew.
    ///
    /// # Errors
    /// As [`Template::from_gguf`]; a model without one is no error of the model.
    pub fn template(&self, tokenizer: &Tokenizer) -> Result<Template, template::Error> {
        Template::from_gguf(&self.file, tokenizer)
    }

    /// Cuts the model into `shards` parts, by rank.
    ///
    /// # Errors
    /// [`Error::Split`] names why it cannot be cut so.
    pub fn split(&self, shards: usize) -> Result<Vec<Part>, Error> {
        Ok(split::split(&self.config, &self.sizes()?, shards)?)
    }

    /// Bytes of the matrices that are cut.
    ///
    /// # Errors
    /// When one is missing.
    pub fn sizes(&self) -> Result<Sizes, Error> {
        Ok(Sizes::of(&self.file, &self.config)?)
    }

    /// Loads one part, with room for `blocks` blocks of [`crate::logic::BLOCK_TOKENS`] tokens in its cache. Their memory
    /// is taken when they are first used; weights stay in the mapping.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn shard(&self, part: &Part, path: mobula_kernels::Path, blocks: usize) -> Result<Shard, Error> {
        Shard::load(&self.file, &self.config, part, path, blocks)
    }
}

/// A shard's part of the logits of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logits {
    /// Which tokens of the vocabulary.
    pub vocabulary: Range<usize>,
    /// `[rows, vocabulary.len()]`, rows in the plan's order.
    pub values: Vec<f32>,
}

impl Logits {
    /// This part's logits of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocabulary.len()..][..self.vocabulary.len()]
    }

    /// The logits of one row over the whole vocabulary, from all shards' parts in the order of ranks.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn whole_row(parts: &[Logits], row: usize) -> Vec<f32> {
        // Slice by slice: element by element it took longer than choosing the token.
        let mut whole = Vec::with_capacity(parts.iter().map(|part| part.vocabulary.len()).sum());
        parts.iter().for_each(|part| whole.extend_from_slice(part.row(row)));
        whole
    }
}
