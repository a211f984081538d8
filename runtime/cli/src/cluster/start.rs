//! `mobula start`: a node on this host, in the background or, with `--block`, here.
//!
//! In the background means: this command starts itself again as a session of its own, whose standard error is a file,
//! waits until that node says that it is ready, prints what it says and ends.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mobula_net::token::Token;
use mobula_node::daemon::{self, Node, NodeConfig, Part, config};
use mobula_wire::local::ToolQuestion;

use super::ask::base;
use super::{http, resources};
use crate::exit::{self, Usage};

/// Start a node of a cluster on this host.
///
/// A head makes a cluster of its own and prints the line by which others join it. A node in the background ends with
/// `mobula stop`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Begin a cluster, or go on with the one in the folder
    #[arg(long, conflicts_with_all = ["address", "token"])]
    head: bool,

    /// Join the cluster whose head is there
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "head")]
    address: Option<String>,

    /// What `mobula token create` printed on the head's host; `-` reads it from standard input
    #[arg(long, value_name = "TOKEN", env = "MOBULA_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// The UDP port for other hosts; another one per node of a host, 0 for any
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// The address of this host by which the others reach it
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,

    /// The port of the state over HTTP, on loopback; head only, 0 for none. Unless set 8265, if it is free
    #[arg(long, value_name = "PORT", requires = "head")]
    dashboard_port: Option<u16>,

    /// For how many seconds a program on another host that is attached here may be cut off before its job ends
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    driver_resume_s: u32,

    /// The part of this host's memory above which workers end, the one with the newest task that may run again first;
    /// 1 leaves it to the kernel
    #[arg(long, value_name = "PART", default_value_t = daemon::MEMORY_THRESHOLD, value_parser = part)]
    memory_threshold: f64,

    /// Memory that the processes of this host may share, as 4GiB or 500MB; it is taken as it is needed [default: 30 % of
    /// what the host has]
    #[arg(long, value_name = "BYTES", value_parser = resources::bytes)]
    object_store_memory: Option<u64>,

    /// What of it is made before it is asked for, so that a large value is put as fast as memory is copied; 0 for none,
    /// and never more than 1158MiB [default: 1158MiB, at most a quarter of --object-store-memory]
    #[arg(long, value_name = "BYTES", value_parser = resources::bytes_or_none)]
    object_store_ahead: Option<u64>,

    /// Where values are written when that memory is short: a folder for this node alone [default: `spill` in the node's
    /// own]
    #[arg(long, value_name = "DIR")]
    spill_dir: Option<PathBuf>,

    /// What may be written there at most, as 100GiB [default: what the disk holds]
    #[arg(long, value_name = "BYTES", value_parser = resources::bytes)]
    spill_bytes_max: Option<u64>,

    /// The folder that holds the folders of this host's nodes
    #[arg(long, value_name = "DIR", env = "MOBULA_DIR")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    resources: resources::Options,

    /// Stay in the foreground until a signal
    #[arg(long)]
    block: bool,

    /// The node of a `start` that waits for what this one prints
    #[arg(long, hide = true)]
    in_background: bool,
}

const EXAMPLES: &str = "\
Examples:
  mobula start --head                                           begin a cluster
  mobula start --address=10.0.0.1:6379 --token=<id.secret.pin>  join it from another host
  mobula start --address=127.0.0.1:6379 --port 6380             a second node on the head's host
";

/// A node is ready in less than 200 ms, on a busy machine in a second; whoever joins waits for the head.
const READY_MAX: Duration = Duration::from_secs(30);

/// Where the state is over HTTP, unless another port is given.
const DASHBOARD_PORT: u16 = 8265;

/// Threads of a node: readers of sockets share them. The head's store, the mesh and the doors are tasks.
const THREADS_MAX: usize = 4;
/// Threads for what blocks: hashing programs, reading logs, the store's fsync.
const BLOCKING_THREADS_MAX: usize = 5;

/// Starts the node.
pub(crate) fn run(args: &Args) -> Result<()> {
    let config = config(args)?;
    if args.block || args.in_background {
        return stay(args, config);
    }
    let token = match &config.part {
        Part::Member { token, .. } => token.as_ref().map(Token::to_string),
        Part::Head => None,
    };
    leave(&config.folder, token)
}

/// The words of this command without the token: what stands there, everyone on the host can read.
fn words_without_token() -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut is_value = false;
    for word in std::env::args_os().skip(1) {
        let is_token = std::mem::take(&mut is_value) || word.as_encoded_bytes().starts_with(b"--token=");
        is_value = word == "--token";
        if !is_token && !is_value {
            words.push(word);
        }
    }
    words
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse::<f64>().ok().filter(|part| *part > 0.0 && *part <= 1.0);
    part.ok_or_else(|| "expected a part of 1, as 0.9".to_owned())
}

fn config(args: &Args) -> Result<NodeConfig> {
    let port = args.port.unwrap_or(config::PORT);
    let base = base(args.dir.as_deref())?;
    let head = args.address.as_deref().map(resolve).transpose()?;
    let token = args.token.as_deref().map(read_token).transpose()?;
    let part = match head {
        None => Part::Head,
        Some(head) => Part::Member { head, token },
    };
    let ip = args.host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let bind = SocketAddr::from((if ip.is_loopback() { ip } else { unspecified(ip) }, port));
    let usual = NodeConfig::head(base.join(port.to_string()));
    let store_bytes = args.object_store_memory.unwrap_or(usual.store_bytes);
    Ok(NodeConfig {
        folder: base.join(port.to_string()),
        bind,
        advertise: args.host,
        part,
        resources: args.resources.resources(daemon::hardware::resources())?,
        labels: args.resources.labels()?,
        resume_max: Duration::from_secs(args.driver_resume_s.into()),
        memory_threshold: args.memory_threshold,
        store_bytes,
        store_ahead_bytes: args.object_store_ahead.unwrap_or(config::store_ahead_bytes(store_bytes)),
        spill_folder: args.spill_dir.as_deref().map(std::path::absolute).transpose()?,
        spill_bytes_max: args.spill_bytes_max,
        ..usual
    })
}

fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

fn resolve(address: &str) -> Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    let wrong =
        |why: &str| Usage(format!("--address {address}: {why}, expected host:port as `mobula start --head` printed"));
    if !address.contains(':') {
        return Err(wrong("it has no port").into());
    }
    let mut found = address.to_socket_addrs().map_err(|error| wrong(&error.to_string()))?;
    found.next().ok_or_else(|| wrong("the name has no address").into())
}

fn read_token(text: &str) -> Result<Token> {
    let mut line = String::new();
    let text = if text == "-" {
        std::io::stdin().lock().read_line(&mut line).context("read the token from standard input")?;
        &line
    } else {
        text
    };
    text.parse().map_err(|error| Usage(format!("--token: {error}")).into())
}

/// Starts this command again in the background, and waits until it is ready.
fn leave(folder: &Path, token: Option<String>) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("make {}", folder.display()))?;
    let log_path = folder.join("node.log");
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.with_context(|| format!("open {}", log_path.display()))?;
    let length = log.metadata().map_or(0, |meta| meta.len());
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(words_without_token()).arg("--in-background").stdout(Stdio::piped()).stderr(log);
    if token.is_some() {
        command.arg("--token=-").stdin(Stdio::piped());
    } else {
        command.stdin(Stdio::null());
    }
    let mut child = command.spawn().context("start the node")?;
    if let (Some(token), Some(mut stdin)) = (token, child.stdin.take()) {
        // One that ended before it read this has said why in its log.
        writeln!(stdin, "{token}").ok();
    }
    let stdout = child.stdout.take().context("read what the node says")?;
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.is_empty() {
                said.send(lines).ok();
                return;
            }
            lines.push(line);
        }
    });
    match heard.recv_timeout(READY_MAX) {
        Ok(lines) => {
            lines.iter().for_each(|line| anstream::println!("{line}"));
            Ok(())
        }
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            child.wait().context("wait for the node")?;
            let why = std::fs::read(&log_path).unwrap_or_default();
            let new = why.get(usize::try_from(length).unwrap_or(0)..).unwrap_or_default();
            let text = String::from_utf8_lossy(new);
            let last = text.lines().rev().find_map(|line| line.strip_prefix("error: ")).map(str::to_owned);
            Err(anyhow!(last.unwrap_or_else(|| format!("the node ended while it started: see {}", log_path.display()))))
        }
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            child.kill().ok();
            child.wait().ok();
            bail!("the node was not ready within {} s: see {}", READY_MAX.as_secs(), log_path.display())
        }
    }
}

/// Runs the node here until a signal, or until it is told to stop.
fn stay(args: &Args, config: NodeConfig) -> Result<()> {
    if args.in_background {
        rustix::process::setsid().context("leave the terminal")?;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.min(THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let port = if args.head { dashboard_port(args.dashboard_port)? } else { None };
        let mut signals = exit::Signals::listen()?;
        let mut node = signals.unless(async { Ok(Node::start(config).await?) }).await?;
        let http_addr = port.as_ref().map(http::Port::addr);
        let http = port.map(|port| http::serve(node.socket(), port)).transpose()?;
        announce(&node, args.head, http_addr).await?;
        let stopped = tokio::select! {
            signal = signals.next() => Some(signal),
            () = node.ended() => None,
        };
        if let Some(http) = http {
            http.stop(false).await;
        }
        if stopped.is_some() {
            node.stop().await;
        }
        Ok(())
    })
}

/// The port of the state over HTTP, taken before the node starts: one that was asked for must be had.
fn dashboard_port(asked: Option<u16>) -> Result<Option<http::Port>> {
    match (asked, http::Port::take(asked.unwrap_or(DASHBOARD_PORT))) {
        (Some(0), _) => Ok(None),
        (_, Ok(port)) => Ok(Some(port)),
        (None, Err(error)) => {
            tracing::warn!(port = DASHBOARD_PORT, %error, "no state over HTTP: choose a port with --dashboard-port");
            Ok(None)
        }
        (Some(port), Err(error)) => {
            bail!("--dashboard-port {port} cannot be had: {error}; choose another, or 0 for none")
        }
    }
}

/// Says that the node is ready: what a person wants to know, and an empty line.
async fn announce(node: &Node, is_head: bool, http: Option<SocketAddr>) -> Result<()> {
    let mut text = format!("node {} is ready at {}\n", node.id().0, node.addr());
    if is_head && node.addr().ip().is_loopback() {
        text.push_str("only this host reaches it: with --host, others are told another address\n");
    }
    if is_head {
        let question = ToolQuestion::TokenCreate { ttl_s: 0, role: "node".to_owned() };
        let answer = super::ask::Node::at(node.socket()).await?.ask(question).await?;
        let made: serde_json::Value = serde_json::from_str(&answer).context("read the token")?;
        let token = made["token"].as_str().context("read the token")?;
        text.push_str(&format!("join from another host:  mobula start --address={} --token={token}\n", node.addr()));
        text.push_str("run a program in it:     MOBULA_ADDRESS=local ./program\n");
    }
    if let Some(addr) = http {
        text.push_str(&format!("see its state:           curl http://{addr}/api/v0/status\n"));
    }
    text.push('\n');
    // Nobody reads any more when whoever started us has gone; the node goes on.
    std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()).ok();
    Ok(())
}
