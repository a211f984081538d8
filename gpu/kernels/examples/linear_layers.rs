//! How fast the linear layers of SmolLM2-135M are on one core: `cargo run --release -p mobula-kernels --example
//! linear_layers`.
//!
//! 30 layers of Q4_1 and the Q8_0 head, 96 MB in shapes and formats, filled with noise, each read once per step as a
//! model does. Prints tokens per second for one token and for batches, on every path that this machine has: what the
//! whole model could reach if everything else were free. The head is multiplied for one token of a prompt.

use std::time::{Duration, Instant};

use mobula_kernels::{
    Activations, AttentionShape, Dtype, KvBlocks, Path, Scratch, Weights, attention, f16, matmul, rms_norm, swiglu,
};

const LAYERS: usize = 30;
const WIDTH: usize = 576;
const FEED_FORWARD: usize = 1536;
const VOCABULARY: usize = 49_152;
const SHAPE: AttentionShape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64 };

fn main() {
    let model = Model::new();
    println!("{} MB of weights", model.bytes() / 1_000_000);
    for path in Path::available() {
        for tokens in [1, 2, 4, 8, 32, 128] {
            // Eight sequences are decoded: each needs its logits. More tokens are a prompt: only the last does.
            let heads = if tokens <= 8 { tokens } else { 1 };
            let step = fastest(|| model.step(path, tokens, heads));
            let rate = tokens as f64 / step.as_secs_f64();
            println!("{path:>7} linear layers, {tokens:>3} tokens: {rate:>7.1} tokens/s  {step:>9.2?}");
        }
        for context in [128, 1024] {
            let time = fastest(|| attend(path, context));
            println!("{path:>7} attention over {context:>4} tokens, {LAYERS} layers: {time:>9.2?} a token");
        }
        let time = fastest(|| rest(path));
        println!("{path:>7} norms and gates, {LAYERS} layers: {time:>9.2?} a token");
    }
}

/// The fastest of several runs: what the code costs when nothing disturbs it.
fn fastest(mut run: impl FnMut()) -> Duration {
    let began = Instant::now();
    let mut best = Duration::MAX;
    while began.elapsed() < Duration::from_secs(2) || best == Duration::MAX {
        let began = Instant::now();
        run();
        best = best.min(began.elapsed());
    }
    best
}

/// The bytes of a matrix.
struct Matrix {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Matrix {
    fn new(dtype: Dtype, rows: usize, cols: usize) -> Self {
        let blocks = rows * cols / dtype.block_len();
        let scale = f16::from_f32(0.01).to_le_bytes();
        let codes = (0..blocks * dtype.block_bytes()).map(|i| ((i * 2_654_435_761) >> 13) as u8);
        let mut bytes: Vec<u8> = codes.collect();
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            block[..2].copy_from_slice(&scale);
            if dtype == Dtype::Q4_1 {
                block[2..4].copy_from_slice(&scale);
            }
        }
        Self { dtype, rows, cols, bytes }
    }

    fn view(&self) -> Weights<'_> {
        let stride = self.dtype.row_bytes(self.cols).expect("whole blocks");
        Weights::try_new(self.dtype, self.rows, self.cols, &self.bytes, stride).expect("made to fit")
    }
}

/// q, k, v, o, gate, up, down.
type Layer = [Matrix; 7];

struct Model {
    layers: Vec<Layer>,
    head: Matrix,
}

impl Model {
    fn new() -> Self {
        let kv = SHAPE.kv_heads * SHAPE.head_dim;
        let shapes = [
            (WIDTH, WIDTH),
            (kv, WIDTH),
            (kv, WIDTH),
            (WIDTH, WIDTH),
            (FEED_FORWARD, WIDTH),
            (FEED_FORWARD, WIDTH),
            (WIDTH, FEED_FORWARD),
        ];
        let layer = || shapes.map(|(rows, cols)| Matrix::new(Dtype::Q4_1, rows, cols));
        Self { layers: (0..LAYERS).map(|_| layer()).collect(), head: Matrix::new(Dtype::Q8_0, VOCABULARY, WIDTH) }
    }

    fn bytes(&self) -> usize {
        self.layers.iter().flatten().chain([&self.head]).map(|matrix| matrix.bytes.len()).sum()
    }

    /// Every linear layer for `tokens` tokens, the head for `heads` of them.
    fn step(&self, path: Path, tokens: usize, heads: usize) {
        let (mut x, mut scratch) = (Activations::new(), Scratch::new());
        let values: Vec<f32> = (0..tokens * FEED_FORWARD).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
        let mut out = vec![0.0; heads.max(1) * VOCABULARY + tokens * FEED_FORWARD];
        let mut multiply = |w: &Matrix, x: &Activations| {
            matmul(path, &w.view(), x, &mut scratch, &mut out[..x.tokens() * w.rows]);
        };
        for [q, k, v, o, gate, up, down] in &self.layers {
            x.set(path, &values[..tokens * WIDTH], WIDTH);
            [q, k, v].into_iter().for_each(|w| multiply(w, &x));
            x.set(path, &values[..tokens * WIDTH], WIDTH);
            multiply(o, &x);
            x.set(path, &values[..tokens * WIDTH], WIDTH);
            [gate, up].into_iter().for_each(|w| multiply(w, &x));
            x.set(path, &values, FEED_FORWARD);
            multiply(down, &x);
        }
        x.set(path, &values[..heads * WIDTH], WIDTH);
        multiply(&self.head, &x);
        std::hint::black_box(out);
    }
}

/// The attention of one token in all layers, each with a cache of its own.
fn attend(path: Path, context: usize) {
    const BLOCK_TOKENS: usize = 16;
    thread_local!(static CACHE: Vec<Vec<f16>> = {
        let elements = 1024 * SHAPE.kv_heads * SHAPE.head_dim;
        vec![vec![f16::from_f32(0.25); elements]; LAYERS * 2]
    });
    let q = vec![0.5; SHAPE.heads * SHAPE.head_dim];
    let (mut scratch, mut out) = (Scratch::new(), vec![0.0; q.len()]);
    CACHE.with(|cache| {
        for layer in cache.chunks(2) {
            let block_len = BLOCK_TOKENS * SHAPE.kv_heads * SHAPE.head_dim;
            let keys: Vec<&[f16]> = layer[0].chunks(block_len).collect();
            let values: Vec<&[f16]> = layer[1].chunks(block_len).collect();
            let kv = KvBlocks { keys: &keys, values: &values, block_tokens: BLOCK_TOKENS, len: context };
            attention(path, SHAPE, &q, &kv, &mut scratch, &mut out);
        }
    });
    std::hint::black_box(out);
}

/// What else a token needs in all layers.
fn rest(path: Path) {
    let (x, weight, mut out) = ([0.5; WIDTH], [1.0; WIDTH], [0.0; WIDTH]);
    let (mut gate, up) = ([0.5; FEED_FORWARD], [0.5; FEED_FORWARD]);
    for _ in 0..LAYERS {
        rms_norm(path, &x, &weight, 1e-5, &mut out);
        rms_norm(path, &out, &weight, 1e-5, &mut std::hint::black_box(x));
        swiglu(path, &mut gate, &up);
    }
    std::hint::black_box((out, gate));
}
