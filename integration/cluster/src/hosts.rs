//! Hosts made of network namespaces, joined by a bridge in a namespace of its own.
//!
//! ```text
//!  host 0            switch              host 1
//!  eth0 10.77.0.1 ── p0 ─ br0 ─ p1 ── eth0 10.77.0.2
//! ```
//!
//! A namespace has no name: it lives as long as the process that holds it, which ends when its standard input does. So
//! nothing stays behind of a test that was killed. A direction is cut by a wrong hardware address: frames go out and
//! nobody takes them, as on a cable that was pulled, and no error comes back to the sender.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::traces;

/// Hosts and the network between them.
pub struct Network {
    switch: Holder,
    hosts: Vec<Host>,
}

/// One host: a network namespace with `lo`, and `eth0` towards the others.
pub struct Host {
    number: usize,
    holder: Holder,
    /// Identity of its namespace, by which its processes are known.
    namespace: String,
}

impl Network {
    /// Makes `count` hosts that reach one another. `None` where namespaces cannot be made, which is said.
    ///
    /// # Errors
    ///
    /// The same where the environment says `CI`; else something that should work did not.
    pub fn of(count: usize) -> Result<Option<Self>> {
        if let Err(error) = possible() {
            if std::env::var_os("CI").is_some() {
                return Err(error.context("this test may not be skipped where CI is set"));
            }
            skipped(&format!("network namespaces cannot be made here: {error:#}"));
            return Ok(None);
        }
        let network = Self { switch: Holder::start()?, hosts: (0..count).map(Host::start).collect::<Result<_>>()? };
        network.wire()?;
        Ok(Some(network))
    }

    /// The host of this number.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    fn wire(&self) -> Result<()> {
        let mut script = "link add br0 type bridge\nlink set br0 up\n".to_owned();
        for Host { number, holder, .. } in &self.hosts {
            script += &format!(
                "link add p{number} type veth peer name eth0 netns {}\nlink set p{number} master br0 up\n",
                holder.child.id()
            );
        }
        self.switch.ip(&script).context("make the switch")?;
        for host in &self.hosts {
            let script = format!(
                "link set lo up\nlink set eth0 address {} up\naddr add {}/24 dev eth0\n",
                hardware(host.number),
                host.ip()
            );
            host.holder.ip(&script).with_context(|| format!("make host {}", host.number))?;
        }
        self.heal()
    }

    /// What `from` sends does not arrive at `to` any more; the other direction is as it was.
    ///
    /// # Errors
    ///
    /// The kernel did not do it.
    pub fn cut_one_way(&self, from: usize, to: usize) -> Result<()> {
        self.aim(from, to, "02:00:00:00:ff:ff")
    }

    /// Nothing passes between those on `side` and the others.
    ///
    /// # Errors
    ///
    /// The kernel did not do it.
    pub fn cut(&self, side: &[usize]) -> Result<()> {
        for from in 0..self.hosts.len() {
            for to in (0..self.hosts.len()).filter(|to| side.contains(to) != side.contains(&from)) {
                self.cut_one_way(from, to)?;
            }
        }
        Ok(())
    }

    /// Everything passes again.
    ///
    /// # Errors
    ///
    /// The kernel did not do it.
    pub fn heal(&self) -> Result<()> {
        for from in 0..self.hosts.len() {
            for to in (0..self.hosts.len()).filter(|to| *to != from) {
                self.aim(from, to, &hardware(to))?;
            }
        }
        Ok(())
    }

    /// Says to which hardware address `from` sends what is for `to`.
    fn aim(&self, from: usize, to: usize, hardware: &str) -> Result<()> {
        let ip = self.hosts[to].ip();
        let script = format!("neigh replace {ip} lladdr {hardware} dev eth0 nud permanent\n");
        self.hosts[from].holder.ip(&script).with_context(|| format!("aim host {from} at host {to}"))
    }
}

/// Says that something cannot be tried here. Not by `println!`, which is kept from sight when the test passes.
pub fn skipped(why: &str) {
    // A closed output has no reader to tell.
    writeln!(std::io::stdout(), "skipped: {why}").ok();
}

/// Namespaces take root; the rest is Debian's `iproute2` and `util-linux`, which has `unshare`, `nsenter`, `setpriv`.
fn possible() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "they take root");
    for tool in ["ip", "unshare", "nsenter", "setpriv"] {
        let found = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(found.is_ok(), "`{tool}` is missing: install iproute2 and util-linux");
    }
    Holder::start().context("make one").map(drop)
}

fn hardware(number: usize) -> String {
    format!("02:00:00:00:00:{:02x}", number + 1)
}

impl Host {
    fn start(number: usize) -> Result<Self> {
        let holder = Holder::start()?;
        let namespace = traces::network_namespace(holder.child.id()).context("read a new namespace's identity")?;
        Ok(Self { number, holder, namespace })
    }

    /// Its place among the hosts.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its address on the network.
    pub fn ip(&self) -> IpAddr {
        let last = u8::try_from(self.number + 1).expect("a network has at most 254 hosts");
        Ipv4Addr::new(10, 77, 0, last).into()
    }

    /// A command that will run `program` on this host, as the process that is started: with this pid, and killed when
    /// the thread that starts it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.child.id().to_string(), "--net", "--"]);
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// Runs `work` on a thread that is on this host: what sockets it opens are this host's.
    ///
    /// # Errors
    ///
    /// The thread could not go there; else what `work` says.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.holder.child.id()))?;
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
                use std::os::fd::AsFd;
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).context("enter the host's namespace")?;
                work()
            });
            there.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    }

    /// Answers every datagram to a closed port from now on. Else a host does so six times at once and then once a second,
    /// which is enough for one killed process, and not for one after the other.
    ///
    /// # Errors
    ///
    /// The kernel did not do it.
    pub fn answer_always(&self) -> Result<()> {
        self.run(|| Ok(std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?))
    }

    /// Processes on this host, but the one that holds it.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = traces::pids_in(&self.namespace);
        pids.retain(|pid| *pid != self.holder.child.id());
        pids
    }

    /// Its sockets that others could speak to.
    ///
    /// # Errors
    ///
    /// `/proc` could not be read.
    pub fn listening(&self) -> Result<Vec<traces::Socket>> {
        traces::listening(self.holder.child.id())
    }

    /// Bytes that it has sent to the others, of all processes.
    ///
    /// # Errors
    ///
    /// `/proc` could not be read.
    pub fn sent_bytes(&self) -> Result<u64> {
        traces::sent_bytes(self.holder.child.id(), "eth0")
    }

    /// How many bytes have come to it.
    ///
    /// # Errors
    ///
    /// `/proc` could not be read.
    pub fn received_bytes(&self) -> Result<u64> {
        traces::received_bytes(self.holder.child.id(), "eth0")
    }

    /// All its sockets, also those that only a process's end has left behind.
    ///
    /// # Errors
    ///
    /// `/proc` could not be read.
    pub fn sockets(&self) -> Result<Vec<traces::Socket>> {
        traces::sockets(self.holder.child.id())
    }
}

impl Drop for Host {
    /// Whatever a test that failed has left here ends with the host.
    fn drop(&mut self) {
        for pid in self.pids() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL).ok());
        }
    }
}

/// A process that does nothing but hold a namespace.
struct Holder {
    child: Child,
}

impl Holder {
    fn start() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", "echo ready; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().context("run unshare")?;
        let mut line = String::new();
        let out = child.stdout.take().context("unshare has an output")?;
        BufReader::new(out).read_line(&mut line)?;
        if line != "ready\n" {
            let said = child.wait_with_output()?;
            bail!("unshare: {}", String::from_utf8_lossy(&said.stderr).trim());
        }
        Ok(Self { child })
    }

    /// Runs a batch of `ip` in the namespace.
    fn ip(&self, script: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.child.id().to_string(), "--net", "--", "ip", "-batch", "-"]);
        let mut ip = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("run nsenter")?;
        ip.stdin.take().context("ip has an input")?.write_all(script.as_bytes())?;
        let done = ip.wait_with_output()?;
        ensure!(done.status.success(), "ip: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
