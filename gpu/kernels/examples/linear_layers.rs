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
            let mut step = Step::new(path, tokens, heads);
            let step = fastest(LAYERS + 1, |part| step.run(&model, part));
            let rate = tokens as f64 / step.as_secs_f64();
            println!("{path:>7} linear layers, {tokens:>3} tokens: {rate:>7.1} tokens/s  {step:>9.2?}");
        }
        for context in [128, 1024] {
            let mut cache = Cache::new(context);
            let time = fastest(LAYERS, |layer| cache.attend(path, layer));
            println!("{path:>7} attention over {context:>4} tokens, {LAYERS} layers: {time:>9.2?} a token");
        }
        let time = fastest(LAYERS, |_| norms_and_gate(path));
        println!("{path:>7} norms and gates, {LAYERS} layers: {time:>9.2?} a token");
    }
}

/// The time of `parts` run in turn, each at its fastest of several turns: what the code costs when nothing disturbs it.
fn fastest(parts: usize, mut run: impl FnMut(usize)) -> Duration {
    let began = Instant::now();
    let mut best = vec![Duration::MAX; parts];
    while began.elapsed() < Duration::from_secs(2) || best[0] == Duration::MAX {
        for (part, best) in best.iter_mut().enumerate() {
            let began = Instant::now();
            run(part);
            *best = began.elapsed().min(*best);
        }
    }
    best.into_iter().sum()
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
}

/// The buffers of a step.
struct Step {
    path: Path,
    tokens: usize,
    heads: usize,
    values: Vec<f32>,
    x: Activations,
    out: Vec<f32>,
}

impl Step {
    /// A step of `tokens` tokens, of which `heads` get logits.
    fn new(path: Path, tokens: usize, heads: usize) -> Self {
        let values = (0..tokens * FEED_FORWARD).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
        let out = vec![0.0; (heads * VOCABULARY).max(tokens * FEED_FORWARD)];
        Self { path, tokens, heads, values, x: Activations::new(), out }
    }

    /// A layer, or after the last the head.
    fn run(&mut self, model: &Model, part: usize) {
        let Some([q, k, v, o, gate, up, down]) = model.layers.get(part) else {
            return self.multiply(self.heads, [&model.head]);
        };
        self.multiply(self.tokens, [q, k, v]);
        self.multiply(self.tokens, [o]);
        self.multiply(self.tokens, [gate, up]);
        self.multiply(self.tokens, [down]);
    }

    fn multiply<const N: usize>(&mut self, tokens: usize, matrices: [&Matrix; N]) {
        let cols = matrices[0].cols;
        self.x.set(self.path, &self.values[..tokens * cols], cols);
        for w in matrices {
            matmul(self.path, &w.view(), &self.x, &mut self.out[..tokens * w.rows]);
        }
    }
}

/// The keys and values of one sequence in all layers.
struct Cache {
    layers: Vec<[Vec<f16>; 2]>,
    context: usize,
    scratch: Scratch,
}

impl Cache {
    fn new(context: usize) -> Self {
        let elements = context * SHAPE.kv_heads * SHAPE.head_dim;
        let layer = || [vec![f16::from_f32(0.25); elements], vec![f16::from_f32(0.5); elements]];
        Self { layers: (0..LAYERS).map(|_| layer()).collect(), context, scratch: Scratch::new() }
    }

    fn attend(&mut self, path: Path, layer: usize) {
        const BLOCK_TOKENS: usize = 16;
        let block_len = BLOCK_TOKENS * SHAPE.kv_heads * SHAPE.head_dim;
        let [keys, values] = self.layers[layer].each_ref().map(|cache| cache.chunks(block_len).collect::<Vec<_>>());
        let kv = KvBlocks { keys: &keys, values: &values, block_tokens: BLOCK_TOKENS, len: self.context };
        let mut out = [0.0; WIDTH];
        attention(path, SHAPE, &[0.5; WIDTH], &kv, &mut self.scratch, &mut out);
        std::hint::black_box(out);
    }
}

/// What else a layer does to a token.
fn norms_and_gate(path: Path) {
    let (x, weight, mut out) = (std::hint::black_box([0.5; WIDTH]), [1.0; WIDTH], [0.0; WIDTH]);
    let (mut gate, up) = ([0.5; FEED_FORWARD], std::hint::black_box([0.5; FEED_FORWARD]));
    rms_norm(path, &x, &weight, 1e-5, &mut out);
    rms_norm(path, &x, &weight, 1e-5, std::hint::black_box(&mut out));
    swiglu(path, &mut gate, &up);
    std::hint::black_box((out, gate));
}
