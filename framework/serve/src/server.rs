//! [`Server`]: binds a port and serves an engine until it is stopped.
//!
//! The HTTP workers live on threads of their own, so a server can be started from any async context: from `mobula::main`,
//! from a plain tokio runtime, from an actor. Only the engine is shared with them.
//!
//! Stopping has three steps: new requests get 503 while the port stays open, so that a balancer sees why; requests being
//! served end, within the time given; then connections close.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use actix_http::HttpService;
use actix_rt::net::TcpStream;
use actix_server::{ServerBuilder, ServerHandle};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use tokio::sync::{oneshot, watch};

use crate::connection::Clocked;
use crate::engine::Engine;
use crate::front::Front;
use crate::limits::Limits;
use crate::routes;
use crate::trust::{Trust, is_loopback_only};

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name or address to listen on. Default `127.0.0.1`; any other than loopback needs a key.
    pub host: String,
    /// The port; 0 lets the system choose. Default 8000.
    pub port: u16,
    /// Any of these is accepted as `Authorization: Bearer KEY`. None: everybody on this machine is.
    pub api_keys: Vec<String>,
    /// Threads that speak HTTP. Default: one per core and at most 4, because tokens are made elsewhere.
    pub workers: usize,
    /// The bounds.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: 8_000,
            api_keys: Vec::new(),
            workers: thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
            limits: Limits::default(),
        }
    }
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Tells what [`bind`](Server::bind) would refuse, without an engine: before a model is loaded for minutes.
    ///
    /// # Errors
    /// As [`bind`](Server::bind). Another program may still take the port in between.
    pub fn check(config: &Config) -> Result<(), BindError> {
        listen(config).map(drop)
    }

    /// Listens, and serves `engine` from then on.
    ///
    /// # Errors
    /// [`BindError`] when the port is taken, the host is not this machine's or would be open to others without a key.
    pub async fn bind(config: Config, engine: Arc<dyn Engine>) -> Result<RunningServer, BindError> {
        let listener = listen(&config)?;
        let addr = listener.local_addr().map_err(|source| BindError::Listen { addr: None, source })?;
        let trust = Trust::new(addr, &config.api_keys);
        let front = Arc::new(Front::new(engine, config.limits, trust));
        let (started, start) = oneshot::channel();
        let (running, stopped) = watch::channel(());
        let serve = {
            let front = front.clone();
            move || {
                let served = actix_rt::System::new().block_on(async {
                    let server = serve(listener, config.workers.clamp(1, WORKERS_MAX), front)?;
                    // Only a caller that gave up waiting does not take it, and then nobody is served.
                    let _ = started.send(server.handle());
                    server.await
                });
                if let Err(error) = served {
                    tracing::error!(%error, "the HTTP server ended");
                }
                drop(running);
            }
        };
        let thread = thread::Builder::new().name("mobula-http".into()).spawn(serve);
        thread.map_err(|source| BindError::Start { source })?;
        let handle = start.await.map_err(|_| BindError::Start { source: io::Error::other("see the log") })?;
        Ok(RunningServer { addr, front, handle, stopped })
    }
}

/// More HTTP threads than that help nobody.
const WORKERS_MAX: usize = 64;

/// A server that serves until it is stopped or dropped.
pub struct RunningServer {
    addr: SocketAddr,
    front: Arc<Front>,
    handle: ServerHandle,
    /// Closed when the server's thread has ended.
    stopped: watch::Receiver<()>,
}

impl RunningServer {
    /// Where it listens; the port that was chosen when 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a URL to paste.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops: refuses new requests, lets those being served end within `grace`, then closes what is left.
    ///
    /// # Cancel safety
    /// Dropping the future stops the server at once.
    pub async fn stop(mut self, grace: Duration) {
        self.front.is_stopping.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + grace;
        while self.front.metrics.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        // Those still there have had their time.
        drop(self.handle.stop(self.front.metrics.in_flight.load(Ordering::Relaxed) == 0));
        let _ = self.stopped.changed().await;
    }
}

/// How often a stopping server looks whether the last request has ended.
const DRAIN_POLL: Duration = Duration::from_millis(10);

impl Drop for RunningServer {
    fn drop(&mut self) {
        // The order is sent by the call itself; its future only waits.
        drop(self.handle.stop(false));
    }
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("port {} is in use on {}; stop the program that has it, or choose another port (0 takes a free one)", addr.port(), addr.ip())]
    PortInUse {
        /// The address that is taken.
        addr: SocketAddr,
    },
    /// The server would be open to others.
    #[error("{host} can be reached from other machines; give an API key, or listen on 127.0.0.1")]
    KeyNeeded {
        /// The host that was asked for.
        host: String,
    },
    /// A key that no header can carry, or that is none.
    #[error("API key {index} is empty or has characters other than visible ASCII")]
    BadKey {
        /// Its place in [`Config::api_keys`].
        index: usize,
    },
    /// The host is unknown.
    #[error("cannot find the host {host:?}: {source}")]
    UnknownHost {
        /// The host that was asked for.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot listen{}: {source}", addr.map(|addr| format!(" on {addr}")).unwrap_or_default())]
    Listen {
        /// The address that was asked for.
        addr: Option<SocketAddr>,
        /// What the system said.
        source: io::Error,
    },
    /// The server's thread did not start.
    #[error("cannot start the HTTP server: {source}")]
    Start {
        /// What the system said.
        source: io::Error,
    },
}

fn listen(config: &Config) -> Result<TcpListener, BindError> {
    let is_bad = |key: &String| key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(index) = config.api_keys.iter().position(is_bad) {
        return Err(BindError::BadKey { index });
    }
    let addrs = resolve(&config.host, config.port)?;
    if config.api_keys.is_empty() && !addrs.iter().all(|addr| is_loopback_only(addr.ip())) {
        return Err(BindError::KeyNeeded { host: config.host.clone() });
    }
    let addr = addrs[0];
    let listener = TcpListener::bind(addr).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortInUse { addr },
        _ => BindError::Listen { addr: Some(addr), source },
    })
}

/// At least one address.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, BindError> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let unknown = |source| BindError::UnknownHost { host: host.to_owned(), source };
    let addrs: Vec<_> = (host, port).to_socket_addrs().map_err(unknown)?.collect();
    match addrs.is_empty() {
        true => Err(unknown(io::Error::other("it has no address"))),
        false => Ok(addrs),
    }
}

fn serve(listener: TcpListener, workers: usize, front: Arc<Front>) -> io::Result<actix_server::Server> {
    let limits = front.limits.clone();
    let server = ServerBuilder::new()
        .workers(workers)
        .max_concurrent_connections(limits.connections_max.div_ceil(workers))
        .shutdown_timeout(SHUTDOWN_TIMEOUT.as_secs())
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    let server = server.listen("http", listener, move || {
        let stopping = stopping.clone();
        let (limits, metrics) = (limits.clone(), front.metrics.clone());
        let app = routes::app(front.clone()).into_factory().map_err(|error| error.error_response());
        let http = HttpService::build()
            .keep_alive(limits.keep_alive_timeout)
            .client_request_timeout(limits.head_timeout + CLOCK_LAG)
            .client_disconnect_timeout(LINGER)
            // A client that closes its side has gone: its request is dropped, and so its sequences.
            .h1_allow_half_closed(false)
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .on_connect_ext(|io: &Clocked, data| {
                data.insert(io.phase());
            })
            .h1(map_config(app, |()| AppConfig::default()));
        fn_service(move |io: TcpStream| {
            let peer = io.peer_addr().ok();
            // Tokens are small and must not wait for each other.
            let _ = io.set_nodelay(true);
            let clocked = Clocked::new(io, &limits, metrics.clone());
            async move { Ok((clocked, peer)) }
        })
        .and_then(http)
    })?;
    Ok(server.run())
}

/// actix takes the time from a clock that it reads twice a second, so its deadlines come up to that much too early.
const CLOCK_LAG: Duration = Duration::from_millis(500);
/// How long what a client still sends is read after its refusal, so that it can read why.
const LINGER: Duration = Duration::from_secs(2);
/// How long connections have to close once no request is being served.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
