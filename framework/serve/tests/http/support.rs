//! A server to test, engines to put behind it, and a client that can misbehave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_serve::{
    ChatMessage, Chunk, Config, EchoEngine, Engine, EngineError, EngineLoad, Event, Finish, FinishReason,
    GenerateRequest, Limits, ModelInfo, Prompt, RunningServer, ScoredToken, Server, TokenLogprob, TokenSender,
    TokenStream, Usage,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

/// Longer than any step of a test takes on a busy machine: only a test that hangs meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a free port that echoes.
pub(crate) async fn echo(limits: Limits) -> RunningServer {
    serve(Arc::new(EchoEngine::new("echo")), limits).await
}

pub(crate) async fn serve(engine: Arc<dyn Engine>, limits: Limits) -> RunningServer {
    let config = Config { port: 0, workers: 1, limits, ..Config::default() };
    Server::bind(config, engine).await.expect("a free port of loopback can be bound")
}

/// An engine whose every sequence is handed to the test, which says what it answers.
pub(crate) struct Manual {
    model: ModelInfo,
    calls: mpsc::UnboundedSender<Call>,
    received: Mutex<mpsc::UnboundedReceiver<Call>>,
    refusal: Option<EngineError>,
}

/// One sequence: what was asked, and where the answer goes.
pub(crate) struct Call {
    pub(crate) request: GenerateRequest,
    pub(crate) answer: TokenSender,
}

impl Manual {
    pub(crate) fn new() -> Arc<Self> {
        Self::make(None)
    }

    /// An engine that takes no sequence.
    pub(crate) fn refusing(error: EngineError) -> Arc<Self> {
        Self::make(Some(error))
    }

    fn make(refusal: Option<EngineError>) -> Arc<Self> {
        let (calls, received) = mpsc::unbounded_channel();
        let model = ModelInfo {
            id: "manual".into(),
            created: 1,
            owned_by: "tests".into(),
            context_len: 1_024,
            token_bytes_max: 16,
        };
        Arc::new(Self { model, calls, received: Mutex::new(received), refusal })
    }

    /// The next sequence that the server asks for.
    pub(crate) async fn call(&self) -> Call {
        let call = async { self.received.lock().await.recv().await };
        within(call).await.expect("the engine holds a sender itself")
    }
}

impl Engine for Manual {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Prompt, EngineError> {
        let turns = messages.iter().map(|message| format!("{}: {}\n", message.role.as_str(), message.content));
        Ok(Prompt::Rendered(turns.collect::<String>().into()))
    }

    fn generate(&self, request: GenerateRequest) -> Result<TokenStream, EngineError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let (answer, stream) = TokenStream::channel();
        self.calls.send(Call { request, answer }).expect("the engine holds the receiver itself");
        Ok(stream)
    }

    fn load(&self) -> EngineLoad {
        EngineLoad { queued: 1, running: 2, kv_blocks_used: 3, kv_blocks_total: 4 }
    }
}

impl Call {
    /// Says more, each byte's token with it when they are asked for.
    pub(crate) fn say(&self, text: &str) {
        let scored = |byte: u8| ScoredToken { id: byte.into(), bytes: vec![byte], logprob: -0.25 };
        let token = |byte: u8| TokenLogprob {
            token: scored(byte),
            top: vec![scored(byte); self.request.logprobs.unwrap_or(0).min(1) as usize],
        };
        let tokens = if self.request.logprobs.is_some() { text.bytes().map(token).collect() } else { Vec::new() };
        self.answer.send(Ok(Event::Chunk(Chunk { text: text.into(), tokens }))).expect("somebody reads");
    }

    pub(crate) fn finish(self, reason: FinishReason, prompt_tokens: u32, completion_tokens: u32) {
        let usage = Usage { prompt_tokens, completion_tokens };
        self.answer.send(Ok(Event::Finish(Finish { reason, usage }))).expect("somebody reads");
    }

    pub(crate) fn fail(self, error: EngineError) {
        self.answer.send(Err(error)).expect("somebody reads");
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("this takes far less than 20 s")
}

/// A connection that sends whatever it is told.
pub(crate) struct Raw {
    pub(crate) io: TcpStream,
    /// Read and not yet taken.
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(server: &RunningServer) -> Self {
        let io = TcpStream::connect(server.addr()).await.expect("the server listens");
        Self { io, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.io.write_all(bytes.as_ref())).await.expect("the server reads");
    }

    /// Sends as much as the server takes; an answer may come before the end, with the connection closed on the rest.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within(self.io.write_all(bytes.as_ref())).await;
    }

    /// One whole request with a JSON body.
    pub(crate) async fn post(&mut self, path: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(head).await;
        self.try_send(body).await;
    }

    pub(crate) async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    }

    /// Reads one response: its head, and a body by length or in chunks.
    pub(crate) async fn response(&mut self) -> Response {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await).expect("heads are ASCII").to_ascii_lowercase();
        let status = head[9..12].parse().expect("a status has three digits");
        let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let body = if let Some(length) = value("content-length:") {
            self.exactly(length.parse().expect("a length is a number")).await
        } else if value("transfer-encoding:") == Some("chunked") {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk().await {
                body.extend(chunk);
            }
            body
        } else {
            Vec::new()
        };
        Response { status, head, body }
    }

    /// The head of a streamed response.
    pub(crate) async fn head(&mut self) -> String {
        String::from_utf8(self.until(b"\r\n\r\n").await).expect("heads are ASCII").to_ascii_lowercase()
    }

    /// One chunk of a streamed response; `None` is its regular end.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = String::from_utf8(self.until(b"\r\n").await).expect("a size is ASCII");
        let size = usize::from_str_radix(size.trim(), 16).expect("a size is hexadecimal");
        let mut chunk = self.exactly(size + 2).await;
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    /// Whether the server closes the connection, within `time`, having sent what it had to.
    pub(crate) async fn is_closed_within(&mut self, time: Duration) -> bool {
        let mut rest = [0; 65_536];
        let closed = async { while !matches!(self.io.read(&mut rest).await, Ok(0) | Err(_)) {} };
        tokio::time::timeout(time, closed).await.is_ok()
    }

    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return self.buffer.drain(..at + end.len()).collect();
            }
            self.fill().await;
        }
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            self.fill().await;
        }
        self.buffer.drain(..count).collect()
    }

    async fn fill(&mut self) {
        let read = within(self.io.read_buf(&mut self.buffer)).await.expect("the connection is whole");
        assert!(read > 0, "the server closed after {:?}", String::from_utf8_lossy(&self.buffer));
    }
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {text}", self.status))
    }

    pub(crate) fn has_header(&self, line: &str) -> bool {
        self.head.lines().any(|header| header == line)
    }
}

/// The data of each event of a stream.
pub(crate) fn events(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8(body.to_vec()).expect("a stream is UTF-8");
    let (events, rest) = text.rsplit_once("\n\n").expect("an event ends with an empty line");
    assert_eq!(rest, "");
    events.split("\n\n").map(|event| event.strip_prefix("data: ").expect("every event is data").to_owned()).collect()
}

/// One request on a connection of its own.
pub(crate) async fn post(server: &RunningServer, path: &str, body: impl AsRef<[u8]>) -> Response {
    let mut raw = Raw::connect(server).await;
    raw.post(path, body).await;
    raw.response().await
}

/// The value of a line of `/metrics`.
async fn metric(server: &RunningServer, name: &str) -> f64 {
    let mut raw = Raw::connect(server).await;
    raw.get("/metrics").await;
    let text = String::from_utf8(raw.response().await.body).expect("metrics are text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).parse().expect("a metric is a number")
}

/// Waits until a line of `/metrics` has a value: what a connection's end changes is not told to anybody else.
pub(crate) async fn until_metric(server: &RunningServer, name: &str, expected: f64) {
    let since = Instant::now();
    while metric(server, name).await != expected {
        assert!(since.elapsed() < PATIENCE, "{name} never became {expected}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
