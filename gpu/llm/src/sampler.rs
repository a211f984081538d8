//! The next token of a sequence, from the logits of the last.
//!
//! The order is that of vLLM and Hugging Face: temperature, then the `top_k` best, then the fewest that hold `top_p` of
//! the probability, then those of at least `min_p` times the best one's. What is left is drawn by one random number, so
//! a seed and the logits determine the text.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::random::SplitMix64;
use crate::tokenizer::Token;

/// Alternatives per token at most: OpenAI's limit of `top_logprobs`.
pub const TOP_LOGPROBS_MAX: usize = 20;
/// OpenAI's limit; beyond it text is noise.
pub const TEMPERATURE_MAX: f32 = 2.0;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the best token always; 1 is the model's own distribution; at most [`TEMPERATURE_MAX`].
    pub temperature: f32,
    /// Only the best so many; 0 means all.
    pub top_k: usize,
    /// Only the fewest that hold this much probability, above 0 and at most 1.
    pub top_p: f32,
    /// Only those of at least this part of the best one's probability, from 0 to 1.
    pub min_p: f32,
    /// What the random numbers follow from.
    pub seed: u64,
}

impl Default for Sampling {
    /// The best token always.
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// A parameter out of its range, or logits that are no numbers.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter that means nothing.
    #[error("{param} is {value}, expected {expected}")]
    Parameter {
        /// Its name in OpenAI's API.
        param: &'static str,
        /// What was given.
        value: f32,
        /// What would be right.
        expected: &'static str,
    },
    /// NaN or infinity among the logits: the weights are damaged.
    #[error("the model computed logits that are not numbers: its weights are damaged")]
    NotANumber,
}

/// Chooses the tokens of one sequence.
///
/// ```
/// use mobula_llm::sampler::{Sampler, Sampling};
///
/// let logits = [0.0, 3.0, 1.0];
/// assert_eq!(Sampler::new(Sampling::default())?.sample(&logits)?, 1);
/// let warm = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
/// let (mut a, mut b) = (Sampler::new(warm)?, Sampler::new(warm)?);
/// assert!((0..100).all(|_| a.sample(&logits) == b.sample(&logits)));
/// # Ok::<(), mobula_llm::sampler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

impl Sampler {
    /// A sampler at its first token.
    ///
    /// # Errors
    /// [`Error::Parameter`] names the parameter that is out of range or not a number.
    pub fn new(sampling: Sampling) -> Result<Self, Error> {
        let check = |ok: bool, param, value, expected| {
            if ok { Ok(()) } else { Err(Error::Parameter { param, value, expected }) }
        };
        let Sampling { temperature, top_p, min_p, seed, .. } = sampling;
        check((0.0..=TEMPERATURE_MAX).contains(&temperature), "temperature", temperature, "0 to 2")?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "more than 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min_p", min_p, "0 to 1")?;
        Ok(Sampler { sampling, random: SplitMix64::new(seed) })
    }

    /// The next token. `logits`: `[vocabulary]`, not empty.
    ///
    /// # Errors
    /// [`Error::NotANumber`].
    pub fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        let best = best(logits)?;
        if self.sampling.temperature == 0.0 || self.sampling.top_k == 1 {
            return Ok(best);
        }
        let candidates = self.candidates(logits, logits[best as usize]);
        let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
        let mut left = self.random.next_unit() * total;
        for candidate in &candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Ok(candidate.token);
            }
        }
        // Rounding may leave a crumb of the total behind the last one; the best has the most right to it.
        Ok(best)
    }

    /// What may be drawn, with weights in proportion to the probabilities; the best one's weight is 1.
    fn candidates(&self, logits: &[f32], max: f32) -> Vec<Candidate> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let weight = |logit: f32| ((logit - max) / temperature).exp();
        let mut all: Vec<Candidate> =
            (0..).zip(logits).map(|(token, &logit)| Candidate { token, weight: weight(logit) }).collect();
        if top_k > 0 {
            keep_best(&mut all, top_k);
        }
        if top_p < 1.0 {
            keep_mass(&mut all, f64::from(top_p));
        }
        all.retain(|candidate| candidate.weight >= min_p);
        all
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: Token,
    weight: f32,
}

/// The heavier first; of equal ones the lower token, so that the order is one.
fn heavier(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// Keeps the `count` heaviest, sorted.
fn keep_best(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, heavier);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(heavier);
}

/// Keeps the fewest heaviest that hold `mass` of the whole, sorted.
///
/// A trained model's mass is in a few hundred tokens, so more and more of the best are looked at instead of sorting a
/// vocabulary, which takes milliseconds.
fn keep_mass(candidates: &mut Vec<Candidate>, mass: f64) {
    const FIRST: usize = 256;
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let mut count = FIRST;
    loop {
        let mut best = candidates.clone();
        keep_best(&mut best, count);
        let mut held = 0.0;
        let enough = best.iter().position(|c| {
            held += f64::from(c.weight);
            held >= mass * total
        });
        if enough.is_some() || best.len() == candidates.len() {
            best.truncate(enough.map_or(best.len(), |last| last + 1));
            *candidates = best;
            return;
        }
        count *= 8;
    }
}

/// The best token, of equal ones the lowest.
///
/// In lanes, which the compiler makes vectors of: one after the other, a vocabulary took as long as a layer.
fn best(logits: &[f32]) -> Result<Token, Error> {
    const LANES: usize = 16;
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            max[lane] = if chunk[lane] > max[lane] { chunk[lane] } else { max[lane] };
            nan[lane] |= chunk[lane].is_nan();
        }
    }
    let max = max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if nan.contains(&true) || rest.iter().any(|logit| logit.is_nan()) || !max.is_finite() {
        return Err(Error::NotANumber);
    }
    let best = logits.iter().position(|&logit| logit == max).expect("the maximum is one of them");
    Ok(best as Token)
}

/// Natural logarithms of the model's own probabilities, before temperature and truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// That of the chosen token.
    pub chosen: f32,
    /// The best tokens and theirs, best first.
    pub top: Vec<(Token, f32)>,
}

impl Logprobs {
    /// For the token chosen from `logits`, and the `top` best, at most [`TOP_LOGPROBS_MAX`].
    ///
    /// # Panics
    /// If `token` is none of the logits'.
    pub fn new(logits: &[f32], token: Token, top: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
        let normaliser = f64::from(max) + sum.ln();
        let logprob = |logit: f32| (f64::from(logit) - normaliser) as f32;
        let mut best: Vec<Candidate> = (0..).zip(logits).map(|(token, &weight)| Candidate { token, weight }).collect();
        keep_best(&mut best, top.min(TOP_LOGPROBS_MAX));
        Logprobs {
            chosen: logprob(logits[token as usize]),
            top: best.into_iter().map(|c| (c.token, logprob(c.weight))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 4.0, 2.0, 3.0, f32::NEG_INFINITY];

    fn tokens_of(sampling: Sampling) -> Vec<Token> {
        let sampler = Sampler::new(sampling).unwrap();
        let mut tokens: Vec<Token> = sampler.candidates(&LOGITS, 4.0).iter().map(|c| c.token).collect();
        tokens.sort_unstable();
        tokens
    }

    const WARM: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 1 };

    #[test]
    fn truncation_keeps_the_best() {
        // Probabilities without the last: 0.032, 0.644, 0.087, 0.237.
        assert_eq!(tokens_of(WARM), [0, 1, 2, 3, 4]);
        assert_eq!(tokens_of(Sampling { top_k: 2, ..WARM }), [1, 3]);
        assert_eq!(tokens_of(Sampling { top_p: 0.64, ..WARM }), [1]);
        assert_eq!(tokens_of(Sampling { top_p: 0.65, ..WARM }), [1, 3]);
        assert_eq!(tokens_of(Sampling { top_p: 0.9, ..WARM }), [1, 2, 3]);
        assert_eq!(tokens_of(Sampling { min_p: 0.1, ..WARM }), [1, 2, 3]);
        assert_eq!(tokens_of(Sampling { top_k: 3, top_p: 0.9, min_p: 0.2, ..WARM }), [1, 3]);
        assert_eq!(tokens_of(Sampling { top_p: 0.65, temperature: 2.0, ..WARM }), [1, 3], "hotter is flatter");
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = Sampler::new(WARM).unwrap();
        let mut counts = [0u32; 5];
        for _ in 0..100_000 {
            counts[sampler.sample(&LOGITS).unwrap() as usize] += 1;
        }
        for (count, probability) in counts.into_iter().zip([0.0321, 0.6439, 0.0871, 0.2369, 0.0]) {
            assert!((f64::from(count) / 1e5 - probability).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn a_seed_decides() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..WARM }).unwrap();
            (0..64).map(|_| sampler.sample(&LOGITS).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn the_best_is_the_lowest_of_equals() {
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(sampler.sample(&[1.0, 2.0, 2.0]), Ok(1));
        for temperature in [1e-30, f32::MIN_POSITIVE] {
            let mut cold = Sampler::new(Sampling { temperature, ..WARM }).unwrap();
            assert_eq!(cold.sample(&LOGITS), Ok(1));
        }
    }

    #[test]
    fn a_large_flat_vocabulary_keeps_its_mass() {
        let logits = vec![0.0; 10_000];
        let sampler = Sampler::new(Sampling { top_p: 0.5, ..WARM }).unwrap();
        assert_eq!(sampler.candidates(&logits, 0.0).len(), 5_000);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |sampling| Sampler::new(sampling).unwrap_err().to_string();
        assert_eq!(refused(Sampling { temperature: f32::INFINITY, ..WARM }), "temperature is inf, expected 0 to 2");
        assert_eq!(refused(Sampling { temperature: -0.5, ..WARM }), "temperature is -0.5, expected 0 to 2");
        assert_eq!(refused(Sampling { top_p: 0.0, ..WARM }), "top_p is 0, expected more than 0 and at most 1");
        assert_eq!(refused(Sampling { min_p: f32::NAN, ..WARM }), "min_p is NaN, expected 0 to 1");
        for broken in [&[0.0, f32::NAN][..], &[f32::NEG_INFINITY], &[f32::INFINITY, 0.0], &[]] {
            assert_eq!(Sampler::new(WARM).unwrap().sample(broken), Err(Error::NotANumber));
        }
    }

    #[test]
    fn logprobs_are_of_the_model() {
        let logprobs = Logprobs::new(&LOGITS, 3, 2);
        assert!((logprobs.chosen - 0.2369f32.ln()).abs() < 1e-3);
        assert_eq!(logprobs.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(logprobs.top[1].1, logprobs.chosen);
        let all: f32 = Logprobs::new(&LOGITS, 0, 20).top.iter().map(|(_, l)| l.exp()).sum();
        assert!((all - 1.0).abs() < 1e-5);
    }
}
