//! A Slurm cluster for tests: two nodes, which are hosts of a [`Network`] with their own names. The
//! controller is on the first node, and all files are in one temporary folder.
//!
//! Needs root and Debian's `slurm-wlm` and `munge`, whose services are not used. This file does not
//! know the jobs.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File, Permissions},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Pid;
use tempfile::TempDir;

use super::{DEADLINE, Host, Network, POLL, Place, Process, leave_out, programs};

/// The script that users submit.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/slurm/lockstep.sbatch");

/// This variable is set if tests with Slurm must not be left out.
const REQUIRED: &str = "LOCKSTEP_SLURM_REQUIRED";

/// Nodes distinguish the starts of a job by the second, and refuse starts up to the time of the
/// last requeue.
const REVOKED: Duration = Duration::from_millis(1500);

/// The length of munge's key.
const MUNGE_KEY_BYTES: u64 = 128;

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Dropped before the nodes and the folder.
    daemons: Vec<Process>,
    nodes: [Node; 2],
    folder: TempDir,
}

#[derive(Debug)]
struct Node {
    name: &'static str,
    host: Host,
}

/// A job that was submitted.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    cluster: &'a Cluster,
    id: String,
    output: PathBuf,
}

impl Cluster {
    /// A cluster with two idle nodes; none if the machine does not allow it, with a note of the
    /// reason.
    pub(crate) fn new() -> Option<Self> {
        let missing = ["munged", "slurmctld", "slurmd", "srun"]
            .into_iter()
            .find(|program| Command::new(program).arg("-V").output().is_err());
        let network = missing.is_none().then(Network::new).flatten();
        let Some(network) = network else {
            let reason = match missing {
                Some(program) => {
                    format!("there is no {program}; on Debian, install slurm-wlm and munge")
                }
                None => "there are no network namespaces".to_owned(),
            };
            leave_out(REQUIRED, "jobs of Slurm", &reason);
            return None;
        };
        let nodes = ["node1", "node2"].map(|name| Node { name, host: network.host() });
        let folder = tempfile::Builder::new().prefix("lockstep-slurm-").tempdir().unwrap();
        let mut cluster = Self { daemons: Vec::new(), nodes, folder };
        cluster.configure();
        cluster.start();
        Some(cluster)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self) {
        let mut key = Vec::new();
        File::open("/dev/urandom").unwrap().take(MUNGE_KEY_BYTES).read_to_end(&mut key).unwrap();
        fs::write(self.path("munge.key"), key).unwrap();
        fs::set_permissions(self.path("munge.key"), Permissions::from_mode(0o400)).unwrap();

        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for Node { name, host } in &self.nodes {
            writeln!(hosts, "{} {name}", host.address()).unwrap();
            fs::create_dir(self.path(&format!("spool-{name}"))).unwrap();
        }
        fs::write(self.path("hosts"), hosts).unwrap();
        fs::create_dir(self.path("state")).unwrap();
        // A sandbox may have no cgroups. This version of the plugin needs no mounted cgroups.
        fs::write(self.path("cgroup.conf"), "CgroupPlugin=cgroup/v1\n").unwrap();
        let folder = self.folder.path().display();
        let configuration = format!(
            "ClusterName=lockstep
SlurmctldHost=node1
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName=node[1-2] CPUs=4
PartitionName=all Nodes=ALL Default=YES
"
        );
        fs::write(self.path("slurm.conf"), configuration).unwrap();
    }

    fn start(&mut self) {
        let [first, _] = &self.nodes;
        let mut munged = self.on(first, "munged");
        // Without --force, munged requires a folder that others can enter.
        munged.args(["--foreground", "--force"]);
        for file in ["key-file", "socket", "pid-file", "log-file", "seed-file"] {
            let name = file.replace("key-file", "key").replace("-file", "");
            munged.arg(format!("--{file}={}", self.path(&format!("munge.{name}")).display()));
        }
        let mut munged = Process::start("munged", &mut munged);
        let socket = self.path("munge.socket");
        munged.wait_until("munge has a socket", || socket.exists());

        let mut controller = Process::start("slurmctld", self.on(first, "slurmctld").arg("-D"));
        let nodes = self.nodes.each_ref().map(|node| {
            let mut command = self.on(node, "slurmd");
            Process::start(node.name, command.args(["-D", "-N", node.name]))
        });
        let idle = || self.run("sinfo --noheader --Node --format=%T") == "idle\nidle\n";
        controller.wait_until("both nodes are idle", idle);
        self.daemons.extend([munged, controller].into_iter().chain(nodes));
    }

    /// A command on a node, with the node's own host name, and with the names of all nodes.
    fn on(&self, node: &Node, program: &str) -> Command {
        let script = "echo \"$1\" > /proc/sys/kernel/hostname && mount --bind \"$2\" /etc/hosts \
                      && shift 2 && exec \"$@\"";
        let mut command = node.host.command(Path::new("unshare"));
        command.args(["--uts", "sh", "-c", script, "sh", node.name]).arg(self.path("hosts"));
        command.arg(program).env("SLURM_CONF", self.path("slurm.conf"));
        command
    }

    /// Submits the script of deploy/, to run in `place` on both nodes, with two workers on each.
    pub(crate) fn submit(&self, place: &Place, flags: &str) -> Job<'_> {
        self.submit_task(None, place, flags)
    }

    /// [`Cluster::submit`] with a program in place of `vae-coordinator` and `vae-worker`.
    pub(crate) fn submit_task(&self, program: Option<&str>, place: &Place, flags: &str) -> Job<'_> {
        let output = place.path("job.log");
        let mut command = self.on(&self.nodes[0], "sbatch");
        command.args(["--parsable", "--nodes=2", "--ntasks-per-node=2", "--output"]).arg(&output);
        command.arg(SCRIPT).args(flags.split_whitespace()).current_dir(place.path(""));
        let mut path = programs().clone().into_os_string();
        path.push(":");
        path.push(programs().join("examples"));
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path).env("LOCKSTEP_RUN_DIR", &place.run_dir);
        command.envs(program.map(|program| ("LOCKSTEP_PROGRAM", program)));
        let id = Process::start("sbatch", &mut command).wait().succeeded().text();
        Job { cluster: self, id: id.trim().to_owned(), output }
    }

    /// The processes of a program on all nodes.
    pub(crate) fn processes(&self, program: &str) -> Vec<Pid> {
        let all = self.nodes.iter().flat_map(|node| node.host.processes());
        let name = |id: &Pid| fs::read_to_string(format!("/proc/{}/comm", id.as_raw_nonzero()));
        all.filter(|id| name(id).is_ok_and(|name| name.trim() == program)).collect()
    }

    /// Runs a command on the first node, its words separated by blanks; returns its output.
    fn run(&self, command: &str) -> String {
        let mut words = command.split_whitespace();
        let mut program = self.on(&self.nodes[0], words.next().unwrap());
        let output = program.args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Job<'_> {
    /// Runs a command with the job's id as its last argument.
    pub(crate) fn tell(&self, command: &str) {
        self.cluster.run(&format!("{command} {}", self.id));
    }

    /// Starts a requeued job without the two minutes that Slurm waits.
    pub(crate) fn start_now(&self) {
        let begun = Instant::now();
        let has_passed = || begun.elapsed() > REVOKED;
        self.wait_until("the nodes can tell the next start from the last one", has_passed);
        self.cluster.run(&format!("scontrol update JobId={} StartTime=now", self.id));
    }

    /// Whether Slurm's description of the job contains this word, such as `JobState=RUNNING`.
    pub(crate) fn is(&self, what: &str) -> bool {
        self.known().split_whitespace().any(|word| word == what)
    }

    fn known(&self) -> String {
        self.cluster.run(&format!("scontrol --oneliner show job {}", self.id))
    }

    /// The output of all processes of the job.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until `done` holds.
    pub(crate) fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            let late = begun.elapsed() > DEADLINE;
            assert!(!late, "waited in vain: {what}\n{}\n{}", self.known(), self.log());
            thread::sleep(POLL);
        }
    }
}
