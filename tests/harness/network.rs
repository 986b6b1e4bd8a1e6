//! A network for tests: each host is a network namespace, and so is the switch that joins them.
//! Links can be cut and slowed. The network is completely inside these namespaces, which are
//! removed when the values here are dropped.
//!
//! Needs root, `ip`, `nft` and `tc`. This file does not know what runs on the hosts.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{self, Command},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};

use super::leave_out;

/// This variable is set if tests with a network must not be left out.
const REQUIRED: &str = "LOCKSTEP_NETWORK_REQUIRED";

/// The name of a switch is this prefix, the id of the process, and a number. A host has the name of
/// its switch and a number.
const PREFIX: &str = "lockstep-test";

/// The folder in which `ip` keeps the names.
const NAMES: &str = "/run/netns";

/// The name of a host's only interface.
const INTERFACE: &str = "eth0";

/// The rate and latency of a slow link, as flags of `tc`.
const SLOW: &str = "rate 50mbit burst 64kb latency 400ms";

/// A switch that joins hosts.
#[derive(Clone, Debug)]
pub(crate) struct Network(Arc<Switch>);

#[derive(Debug)]
struct Switch {
    namespace: Namespace,
    hosts: AtomicU32,
}

/// A host on a [`Network`].
#[derive(Clone, Debug)]
pub(crate) struct Host(Arc<Machine>);

#[derive(Debug)]
struct Machine {
    namespace: Namespace,
    address: Ipv4Addr,
    /// Dropped after the last host.
    _switch: Arc<Switch>,
}

/// A network namespace, which is removed when it is dropped.
#[derive(Debug)]
struct Namespace(String);

/// Which packets of a link are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Both,
    /// Packets that the host sends.
    Sent,
}

impl Network {
    /// A switch without hosts; none if the machine does not allow namespaces, with a note of the
    /// reason.
    pub(crate) fn new() -> Option<Self> {
        static PREPARED: OnceLock<()> = OnceLock::new();
        PREPARED.get_or_init(|| {
            sweep();
            // Inside the namespaces nothing can be fetched.
            data::fetch::ensure(
                &data::default_dir("mnist"),
                &images::named::mnist(),
                false,
                &|_| (),
            )
            .unwrap();
        });
        match Self::try_new() {
            Ok(network) => Some(network),
            Err(reason) => {
                leave_out(REQUIRED, "runs between hosts in network namespaces", &reason);
                None
            }
        }
    }

    fn try_new() -> Result<Self, String> {
        ["nft", "tc"].iter().try_for_each(|tool| run(&format!("{tool} -V")))?;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::new(format!("{PREFIX}-{}-{number}", process::id()))?;
        namespace.run("ip link add switch type bridge")?;
        namespace.run("ip link set switch up")?;
        Ok(Self(Arc::new(Switch { namespace, hosts: AtomicU32::new(0) })))
    }

    /// The name of the switch, with which the names of all its namespaces begin.
    pub(crate) fn name(&self) -> String {
        self.0.namespace.0.clone()
    }

    /// One more host.
    pub(crate) fn host(&self) -> Host {
        self.try_host().unwrap_or_else(|reason| panic!("a host cannot be made: {reason}"))
    }

    fn try_host(&self) -> Result<Host, String> {
        let Switch { namespace: switch, hosts } = &*self.0;
        let number = hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 0, 0).to_bits() + number);
        let namespace = Namespace::new(format!("{}-{number}", switch.0))?;
        let peer = format!("type veth peer name port{number} netns {}", switch.0);
        namespace.run(&format!("ip link add {INTERFACE} {peer}"))?;
        switch.run(&format!("ip link set port{number} master switch up"))?;
        namespace.run(&format!("ip addr add {address}/16 dev {INTERFACE}"))?;
        namespace.run("ip link set lo up")?;
        namespace.run(&format!("ip link set {INTERFACE} up"))?;
        namespace.run("nft add table ip links")?;
        for hook in ["input", "output"] {
            let chain = format!("{{ type filter hook {hook} priority 0 ; }}");
            namespace.run(&format!("nft add chain ip links {hook} {chain}"))?;
        }
        let switch = Arc::clone(&self.0);
        Ok(Host(Arc::new(Machine { namespace, address, _switch: switch })))
    }
}

impl Host {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// A command that runs `program` on this host, in the process that is started for it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0.namespace.0]).arg(program);
        command
    }

    /// Cuts this host off from all others.
    pub(crate) fn cut_off(&self, lost: Lost) {
        self.drop_packets(lost, &format!("iifname {INTERFACE}"), &format!("oifname {INTERFACE}"));
    }

    /// Cuts the link with another host.
    pub(crate) fn cut_from(&self, other: &Self) {
        let other = other.address();
        self.drop_packets(Lost::Both, &format!("ip saddr {other}"), &format!("ip daddr {other}"));
    }

    fn drop_packets(&self, lost: Lost, received: &str, sent: &str) {
        self.run(&format!("nft add rule ip links output {sent} drop"));
        if lost == Lost::Both {
            self.run(&format!("nft add rule ip links input {received} drop"));
        }
    }

    /// Connects this host again.
    pub(crate) fn heal(&self) {
        self.run("nft flush table ip links");
    }

    /// Slows down the packets that this host sends.
    pub(crate) fn slow_down(&self) {
        self.run(&format!("tc qdisc add dev {INTERFACE} root tbf {SLOW}"));
    }

    /// Ends the slowdown.
    pub(crate) fn speed_up(&self) {
        self.run(&format!("tc qdisc del dev {INTERFACE} root"));
    }

    /// Gives this host one more address, such as `fd77::1/64`.
    pub(crate) fn add_address(&self, address: &str) {
        let at_once = if address.contains(':') { "nodad" } else { "" };
        self.run(&format!("ip addr add {address} dev {INTERFACE} {at_once}"));
    }

    /// Bytes that this host has sent over its link.
    pub(crate) fn sent_bytes(&self) -> u64 {
        let counter = format!("/sys/class/net/{INTERFACE}/statistics/tx_bytes");
        let output = self.command(Path::new("cat")).arg(counter).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    /// The processes on this host.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        self.0.namespace.processes()
    }

    fn run(&self, command: &str) {
        self.0.namespace.run(command).unwrap_or_else(|reason| panic!("{reason}"));
    }
}

impl Namespace {
    fn new(name: String) -> Result<Self, String> {
        run(&format!("ip netns add {name}"))?;
        Ok(Self(name))
    }

    /// Runs a command inside, its words separated by blanks.
    fn run(&self, command: &str) -> Result<(), String> {
        run(&format!("ip netns exec {} {command}", self.0))
    }

    fn processes(&self) -> Vec<Pid> {
        let output = Command::new("ip").args(["netns", "pids", &self.0]).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let ids = String::from_utf8_lossy(&text);
        ids.lines().filter_map(|id| Pid::from_raw(id.trim().parse().ok()?)).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Programs may have left processes behind.
        for process in self.processes() {
            let _gone = kill_process(process, Signal::KILL);
        }
        let _gone = run(&format!("ip netns del {}", self.0));
    }
}

/// The namespaces of all tests.
pub(crate) fn namespaces() -> Vec<String> {
    let names = fs::read_dir(NAMES).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

/// Removes the namespaces of tests that were killed.
fn sweep() {
    for name in namespaces() {
        let process = name.trim_start_matches(PREFIX).trim_matches('-').split('-').next();
        if !process.is_some_and(|process| Path::new("/proc").join(process).exists()) {
            drop(Namespace(name));
        }
    }
}

/// Runs a command, its words separated by blanks.
fn run(command: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output();
    let output = output.map_err(|error| format!("`{command}`: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("`{command}` failed: {}", said.trim());
    output.status.success().then_some(()).ok_or_else(failed)
}
