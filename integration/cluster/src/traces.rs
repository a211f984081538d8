//! What is seen of processes from outside, by reading `/proc`: which are on a host, their sockets, descriptors, memory.
//!
//! A host's processes are known by its network namespace, which a child cannot leave by accident: those that user code
//! started are found like all others.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The identity of the network namespace of a process; `None` when there is no such process any more.
pub fn network_namespace(pid: u32) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/ns/net")).ok()?.to_string_lossy().into_owned())
}

/// Processes in the namespace of this identity. One that has ended and was not waited for yet has none any more.
pub fn pids_in(namespace: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| network_namespace(*pid).as_deref() == Some(namespace)).collect()
}

/// How a process was called, for people.
pub fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned()
}

/// The process that started it.
pub fn parent(pid: u32) -> Option<u32> {
    status_field(pid, "PPid:")?.parse().ok()
}

/// Its resident memory in bytes that is no file's: what it has taken for its data.
pub fn anonymous_bytes(pid: u32) -> Option<u64> {
    let kilobytes: u64 = status_field(pid, "RssAnon:")?.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Its resident memory in bytes.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let kilobytes: u64 = status_field(pid, "VmRSS:")?.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// What its open descriptors are.
pub fn descriptors(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// The time that its threads were on a CPU, in seconds.
pub fn cpu_s(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    // The file is of the first thread; the sum over all of them stands in `task`.
    text.as_ref()?;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Some(nanoseconds.sum::<u64>() as f64 / 1e9)
}

fn status_field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

/// Bytes that were sent by a network device of the host of a process.
///
/// # Errors
///
/// `/proc` could not be read, or has no such device.
pub fn sent_bytes(pid: u32, device: &str) -> Result<u64> {
    // Eight columns are of what was received.
    counted(pid, device, 8)
}

/// How many bytes have come in by `device` in the network namespace of `pid`.
///
/// # Errors
///
/// `/proc` could not be read, or has no such device.
pub fn received_bytes(pid: u32, device: &str) -> Result<u64> {
    counted(pid, device, 0)
}

fn counted(pid: u32, device: &str, column: usize) -> Result<u64> {
    let path = format!("/proc/{pid}/net/dev");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let count = line.and_then(|line| line.split_whitespace().nth(column));
    count.with_context(|| format!("{path} has no `{device}`"))?.parse().with_context(|| format!("read {path}"))
}

/// A socket as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// Bound to a UDP port.
    Udp {
        /// Whether it hears only this host itself.
        is_loopback: bool,
        /// The port.
        port: u16,
    },
    /// Bound to a TCP port.
    Tcp {
        /// Whether it hears only this host itself.
        is_loopback: bool,
        /// The port.
        port: u16,
    },
    /// A Unix socket with a name: a path, or `@` and an abstract one.
    Unix {
        /// The name.
        name: String,
    },
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whom = |is_loopback: &bool| if *is_loopback { "itself" } else { "everybody" };
        match self {
            Self::Udp { is_loopback, port } => write!(f, "UDP {port} for {}", whom(is_loopback)),
            Self::Tcp { is_loopback, port } => write!(f, "TCP {port} for {}", whom(is_loopback)),
            Self::Unix { name } => write!(f, "Unix {name}"),
        }
    }
}

/// Sockets of the namespace of `pid` that wait for others to speak first: TCP and Unix ones that listen, and UDP ones
/// that are not connected. Each once, sorted.
///
/// # Errors
///
/// `/proc` could not be read.
pub fn listening(pid: u32) -> Result<Vec<Socket>> {
    read_all(pid, Which::Listening)
}

/// All sockets of the namespace of `pid` with a port or a name; each once, sorted.
///
/// # Errors
///
/// `/proc` could not be read.
pub fn sockets(pid: u32) -> Result<Vec<Socket>> {
    read_all(pid, Which::All)
}

#[derive(Clone, Copy, PartialEq)]
enum Which {
    Listening,
    All,
}

fn read_all(pid: u32, which: Which) -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (file, is_tcp) in [("udp", false), ("udp6", false), ("tcp", true), ("tcp6", true)] {
        let path = format!("/proc/{pid}/net/{file}");
        // A kernel without IPv6 has no such file.
        let Ok(table) = fs::read_to_string(&path) else { continue };
        sockets.extend(table.lines().skip(1).filter_map(|line| inet(line, is_tcp, which)));
    }
    let path = format!("/proc/{pid}/net/unix");
    let table = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    sockets.extend(table.lines().skip(1).filter_map(|line| unix(line, which)));
    sockets.sort();
    sockets.dedup();
    Ok(sockets)
}

/// A line such as `0: 0100007F:1F90 00000000:0000 0A …`: number, own address, the other's, state. The kernel's
/// tcp_states.h says that 0A listens; a UDP socket that is not connected has 07.
fn inet(line: &str, is_tcp: bool, which: Which) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.rsplit_once(':')?;
    let state = words.nth(1)?;
    let listens = state == if is_tcp { "0A" } else { "07" };
    if which == Which::Listening && !listens {
        return None;
    }
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each group of four bytes is in the machine's order: 127.0.0.0/8 ends in 7F, ::1 in 01000000.
    let is_loopback =
        if address.len() == 8 { address.ends_with("7F") } else { address == "00000000000000000000000001000000" };
    Some(if is_tcp { Socket::Tcp { is_loopback, port } } else { Socket::Udp { is_loopback, port } })
}

/// A line such as `0000: 00000002 00000000 00010000 0001 01 21 /path`: the fourth word has the bit of a listening one.
fn unix(line: &str, which: Which) -> Option<Socket> {
    const LISTENS: u32 = 1 << 16;
    let words: Vec<&str> = line.split_whitespace().collect();
    let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
    if which == Which::Listening && flags & LISTENS == 0 {
        return None;
    }
    Some(Socket::Unix { name: (*words.get(7)?).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let udp = "  310: 00000000:18EB 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0";
        assert_eq!(inet(udp, false, Which::Listening), Some(Socket::Udp { is_loopback: false, port: 6379 }));
        let tcp = "   0: 0100007F:2049 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0";
        assert_eq!(inet(tcp, true, Which::Listening), Some(Socket::Tcp { is_loopback: true, port: 8265 }));
        let spoken = "   1: 0100007F:2049 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0";
        assert_eq!(inet(spoken, true, Which::Listening), None);
        assert!(inet(spoken, true, Which::All).is_some());
        let named = "0000000000000000: 00000002 00000000 00010000 0001 01 4711 /tmp/n/node.sock";
        let name = "/tmp/n/node.sock".to_owned();
        assert_eq!(unix(named, Which::Listening), Some(Socket::Unix { name }));
        assert_eq!(unix("0000000000000000: 00000003 00000000 00000000 0001 03 4711", Which::All), None);
    }

    #[test]
    fn a_process_sees_itself() {
        let pid = std::process::id();
        let namespace = network_namespace(pid).unwrap();
        assert!(pids_in(&namespace).contains(&pid));
        assert!(rss_bytes(pid).unwrap() > 0 && !descriptors(pid).is_empty() && parent(pid).is_some());
        assert!(cpu_s(pid).unwrap() >= 0.0 && !command_line(pid).is_empty());
    }
}
