//! Rotary position embedding (arXiv:2104.09864): each pair of a head's dimensions turns by an angle that grows with the
//! token's position.
//!
//! A few hundred rotations per token and layer: one plain implementation serves every path.

/// Which dimensions of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// `2i` and `2i + 1`: GGUF files of architecture `llama`, whose Q and K are stored permuted.
    Adjacent,
    /// `i` and `i + dims / 2`: qwen, gemma, phi, and safetensors.
    Half,
}

/// The angles of one model: how fast each pair turns.
///
/// ```
/// use mobula_kernels::{Pairing, Rotary};
///
/// let rotary = Rotary::new(2, 10_000.0, Pairing::Adjacent);
/// let mut head = [1.0, 0.0];
/// rotary.turn(&rotary.angles(1), &mut head, 2);
/// assert_eq!(head, [1f32.cos(), 1f32.sin()]);
/// ```
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[dims / 2]`, radians per position.
    frequencies: Vec<f64>,
    pairing: Pairing,
}

/// The cosine and sine of every pair at one position: made once per token, used by all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Angles(Vec<(f32, f32)>);

impl Rotary {
    /// The first `dims` dimensions of a head turn, pair `i` by `base^(-2i / dims)` radians per position.
    ///
    /// # Panics
    ///
    /// If `dims` is odd.
    pub fn new(dims: usize, base: f32, pairing: Pairing) -> Self {
        assert!(dims.is_multiple_of(2), "rotary: {dims} dimensions are no pairs");
        let frequency = |pair: usize| f64::from(base).powf(-2.0 * pair as f64 / dims as f64);
        Self { frequencies: (0..dims / 2).map(frequency).collect(), pairing }
    }

    /// Divides the speed of pair `i` by `factors[i]`: the tensor `rope_freqs.weight` of Llama 3.1 and later.
    ///
    /// # Panics
    ///
    /// If there is not one factor per pair.
    pub fn with_factors(mut self, factors: &[f32]) -> Self {
        assert_eq!(factors.len(), self.frequencies.len(), "rotary: one factor per pair");
        for (frequency, factor) in self.frequencies.iter_mut().zip(factors) {
            *frequency /= f64::from(*factor);
        }
        self
    }

    /// The angles of the token at `position`.
    pub fn angles(&self, position: usize) -> Angles {
        let turn = |frequency: &f64| (position as f64 * frequency).sin_cos();
        Angles(self.frequencies.iter().map(turn).map(|(sin, cos)| (cos as f32, sin as f32)).collect())
    }

    /// Turns every head of one token: `x: [heads, head_dim]`.
    ///
    /// # Panics
    ///
    /// If `x` is not whole heads, or a head has fewer dimensions than turn.
    pub fn turn(&self, angles: &Angles, x: &mut [f32], head_dim: usize) {
        let pairs = angles.0.len();
        assert!(
            head_dim >= pairs * 2 && head_dim > 0 && x.len().is_multiple_of(head_dim),
            "rotary: {} values are no heads of {head_dim} with {pairs} pairs",
            x.len()
        );
        for head in x.chunks_exact_mut(head_dim) {
            let head = &mut head[..pairs * 2];
            match self.pairing {
                Pairing::Adjacent => {
                    for ([a, b], angle) in head.as_chunks_mut::<2>().0.iter_mut().zip(&angles.0) {
                        (*a, *b) = turned(*a, *b, *angle);
                    }
                }
                Pairing::Half => {
                    let (first, second) = head.split_at_mut(pairs);
                    for ((a, b), angle) in first.iter_mut().zip(second).zip(&angles.0) {
                        (*a, *b) = turned(*a, *b, *angle);
                    }
                }
            }
        }
    }
}

fn turned(a: f32, b: f32, (cos, sin): (f32, f32)) -> (f32, f32) {
    (a * cos - b * sin, a * sin + b * cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_chosen_as_told_and_the_rest_stays() {
        let check = |pairing, expected: [f32; 5]| {
            let rotary = Rotary::new(4, 10_000.0, pairing);
            let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
            rotary.turn(&rotary.angles(7), &mut head, 5);
            for (found, expected) in head.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{head:?}");
            }
        };
        // The second pair turns by 10000^(-1/2) radians per position.
        let (fast, slow) = (7f32.sin_cos(), 0.07f32.sin_cos());
        let pair = |(sin, cos): (f32, f32), a: f32, b: f32| [a * cos - b * sin, a * sin + b * cos];
        let ([a, b], [c, d]) = (pair(fast, 1.0, 2.0), pair(slow, 3.0, 4.0));
        check(Pairing::Adjacent, [a, b, c, d, 5.0]);
        let ([a, c], [b, d]) = (pair(fast, 1.0, 3.0), pair(slow, 2.0, 4.0));
        check(Pairing::Half, [a, b, c, d, 5.0]);
    }

    #[test]
    fn every_head_turns_alike() {
        let rotary = Rotary::new(8, 500_000.0, Pairing::Half).with_factors(&[1.0, 1.0, 8.0, 8.0]);
        let mut heads: Vec<f32> = (0..8).map(|i| i as f32).collect::<Vec<_>>().repeat(3);
        rotary.turn(&rotary.angles(123_456), &mut heads, 8);
        assert_eq!(heads[..8], heads[8..16]);
        assert_eq!(heads[..8], heads[16..]);
    }

    #[test]
    fn the_first_position_does_not_turn() {
        let rotary = Rotary::new(64, 10_000.0, Pairing::Adjacent);
        let mut head: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let before = head.clone();
        rotary.turn(&rotary.angles(0), &mut head, 64);
        assert_eq!(head, before);
    }
}
