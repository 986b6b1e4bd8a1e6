//! The files in deploy/, tested without a cluster: the programs accept every flag in the files, and the
//! recipes lead to the same bits as any other run, with network namespaces in place of pods.

mod manifests;

use std::{
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;
use serde_json::Value;

use self::manifests::{documents, files, invocations};
use crate::{
    harness::{
        ENDLESS, Fleet, Host, Network, Place, Process, SMALL, assert_same_tensors, programs,
        reference,
    },
    stop::stopped_with_the_same_bits,
};

/// The file with the recipes.
const RECIPES: &str = "deploy/README.md";

/// Runs a program with a file of host names in place of /etc/hosts.
const WITH_NAMES: &str = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";

/// Whether the program accepts these words. `--help` succeeds only if all words before it are accepted.
fn is_taken(words: &[String]) -> bool {
    let mut command = Command::new(programs().join(&words[0]));
    command.args(&words[1..]).arg("--help").output().unwrap().status.success()
}

#[test]
fn the_programs_take_what_the_files_give_them() {
    let mut starting = Vec::new();
    for file in files() {
        let found = invocations(&file);
        for words in &found {
            assert!(is_taken(words), "{file}: {}", words.join(" "));
            let misspelt: Vec<String> =
                words.iter().map(|word| word.replace("--", "--un")).collect();
            assert!(misspelt == *words || !is_taken(&misspelt), "{file}: {words:?}");
        }
        if !found.is_empty() {
            starting.push(file);
        }
    }
    for expected in [
        RECIPES,
        "crates/lockstep/src/manual/use_it.md",
        "deploy/compose.yaml",
        "deploy/kubernetes/coordinator.yaml",
        "deploy/kubernetes/trainingruntime.yaml",
        "deploy/kubernetes/workers-job.yaml",
        "deploy/kubernetes/workers-jobset.yaml",
        "deploy/systemd/lockstep-coordinator.service",
        "deploy/systemd/lockstep-worker@.service",
    ] {
        assert!(starting.iter().any(|file| file == expected), "{expected}: {starting:?}");
    }
}

/// Hosts in place of pods or containers, with the names that the platform would give them.
struct Cluster {
    network: Network,
    place: Place,
    names: PathBuf,
    /// The hosts in the order of their creation; the coordinator's host is the first.
    hosts: Vec<Host>,
}

impl Cluster {
    fn new() -> Option<Self> {
        let network = Network::new()?;
        let place = Place::new();
        let names = place.path("hosts");
        fs::create_dir(place.path("tls")).unwrap();
        fs::create_dir(place.path("ca")).unwrap();
        fs::write(&names, "127.0.0.1 localhost\n").unwrap();
        Some(Self { network, place, names, hosts: Vec::new() })
    }

    /// Makes a host; returns its number.
    fn add_host(&mut self) -> usize {
        self.hosts.push(self.network.host());
        self.hosts.len() - 1
    }

    /// Gives a host a name, which all hosts can resolve.
    fn name(&self, host: usize, name: &str) {
        let mut names = File::options().append(true).open(&self.names).unwrap();
        writeln!(names, "{} {name}", self.hosts[host].address()).unwrap();
    }

    /// Starts the command of a container on a host, with local folders in place of the volumes.
    fn start(
        &self,
        host: usize,
        words: &[String],
        variables: &[(&str, String)],
        more: &str,
    ) -> Process {
        let mut command = self.hosts[host].command(Path::new("sh"));
        command.args(["-c", WITH_NAMES, "sh"]).arg(&self.names).arg(programs().join(&words[0]));
        command.args(words[1..].iter().map(|word| self.here(&expanded(word, variables))));
        command.args(more.split_whitespace()).current_dir(self.place.path(""));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Process::start(&words[0], &mut command).on(Some(self.hosts[host].clone()))
    }

    /// A word with local paths in place of the paths in a container.
    fn here(&self, word: &str) -> String {
        let path = |name: &str| self.place.path(name).display().to_string();
        let word = word.replace("/runs/mnist", &path("run")).replace("/etc/lockstep", &path("tls"));
        word.replace("/ca", &path("ca"))
    }

    /// Starts the coordinator on the first host, with a small run.
    fn coordinate(&mut self, words: &[String], name: &str, more: &str) -> Process {
        let host = self.add_host();
        self.name(host, name);
        let coordinator = self.start(host, words, &[], &format!("{SMALL} {more}"));
        coordinator.wait_for_line("Listening on https://0.0.0.0:50051");
        coordinator
    }
}

/// A word with its variables expanded as Kubernetes does it.
fn expanded(word: &str, variables: &[(&str, String)]) -> String {
    variables
        .iter()
        .fold(word.to_owned(), |word, (name, value)| word.replace(&format!("$({name})"), value))
}

/// The only command of a file that starts a coordinator or a worker.
fn starting(file: &str) -> Vec<String> {
    let is_start = |words: &[String]| words.get(1).is_some_and(|word| word.starts_with("--"));
    let mut found = invocations(file).into_iter().filter(|words| is_start(words));
    let only = found.next().expect(file);
    assert!(found.next().is_none(), "{file}");
    only
}

/// Runs the lines of deploy/README.md that make the certificates for this host.
fn issue(folder: &Path, host: &str) {
    let lines = invocations(RECIPES);
    let is_about = |words: &[String]| words.contains(&"certs".into());
    let makes =
        |words: &[String]| words.contains(&"init".into()) || words.contains(&host.to_owned());
    let lines: Vec<_> = lines.iter().filter(|words| is_about(words) && makes(words)).collect();
    assert!(lines.iter().any(|words| words.contains(&host.to_owned())), "{host}: {lines:?}");
    for words in lines {
        let mut command = Command::new(programs().join(&words[0]));
        let output = command.args(&words[1..]).current_dir(folder).output().unwrap();
        // The first line makes the authority; a second call fails, because it exists.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("is there already"), "{said}");
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A kind of workers in Kubernetes.
struct Kind {
    file: &'static str,
    /// The name that the kind's controller gives a pod, according to the file.
    pod: fn(&str, u32) -> String,
    /// The environment variables that the kind's controller sets.
    variables: fn(u32) -> Vec<(&'static str, String)>,
}

fn field<'a>(document: &'a Value, path: &str) -> &'a str {
    document.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {document}"))
}

/// The last document of a file.
fn last(file: &str) -> Value {
    documents(file).pop().unwrap()
}

const JOB: Kind = Kind {
    file: "deploy/kubernetes/workers-job.yaml",
    pod: |file, index| {
        let job = last(file);
        let (name, namespace) = (field(&job, "/metadata/name"), field(&job, "/metadata/namespace"));
        let subdomain = field(&job, "/spec/template/spec/subdomain");
        assert_eq!(subdomain, field(&documents(file)[0], "/metadata/name"), "the headless service");
        format!("{name}-{index}.{subdomain}.{namespace}.svc")
    },
    variables: |index| vec![("JOB_COMPLETION_INDEX", index.to_string())],
};

const JOBSET: Kind = Kind {
    file: "deploy/kubernetes/workers-jobset.yaml",
    pod: |file, index| {
        let set = last(file);
        let (name, namespace) = (field(&set, "/metadata/name"), field(&set, "/metadata/namespace"));
        let jobs = field(&set, "/spec/replicatedJobs/0/name");
        let subdomain = field(&set, "/spec/network/subdomain");
        format!("{name}-{jobs}-0-{index}.{subdomain}.{namespace}.svc")
    },
    variables: JOB.variables,
};

const TRAINJOB: Kind = Kind {
    file: "deploy/kubernetes/trainingruntime.yaml",
    pod: |file, index| {
        let (runtime, job) = (last(file), last("deploy/kubernetes/workers-trainjob.yaml"));
        let (name, namespace) = (field(&job, "/metadata/name"), field(&job, "/metadata/namespace"));
        assert_eq!(field(&job, "/spec/runtimeRef/name"), field(&runtime, "/metadata/name"));
        let jobs = field(&runtime, "/spec/template/spec/replicatedJobs/0/name");
        format!("{name}-{jobs}-0-{index}.{name}.{namespace}.svc")
    },
    variables: |index| {
        let master = "lockstep-workers-node-0-0.lockstep-workers".to_owned();
        let numbers = [
            ("PET_NNODES", 4),
            ("PET_NPROC_PER_NODE", 1),
            ("PET_NODE_RANK", index),
            ("JOB_COMPLETION_INDEX", index),
        ];
        let numbers = numbers.map(|(name, number)| (name, number.to_string())).into_iter();
        numbers.chain([("PET_MASTER_ADDR", master), ("PET_MASTER_PORT", "29500".into())]).collect()
    },
};

const COORDINATOR: &str = "deploy/kubernetes/coordinator.yaml";

/// A coordinator in a pod, with the secret that the recipe makes.
fn kubernetes(more: &str) -> Option<(Cluster, Fleet)> {
    let mut cluster = Cluster::new()?;
    issue(&cluster.place.path(""), "lockstep-coordinator");
    copy(&cluster.place.path("ca/lockstep-coordinator"), &cluster.place.path("tls"));
    let coordinator = cluster.coordinate(&starting(COORDINATOR), "lockstep-coordinator", more);
    let fleet = Fleet::at(coordinator, String::new(), None);
    Some((cluster, fleet))
}

impl Kind {
    fn worker(&self, cluster: &Cluster, index: u32) -> Process {
        let host = index as usize + 1;
        cluster.start(host, &starting(self.file), &(self.variables)(index), "--threads 1")
    }

    fn trains(&self) {
        let Some((mut cluster, mut fleet)) = kubernetes("--epochs 1") else { return };
        for index in 0..4 {
            let host = cluster.add_host();
            cluster.name(host, &(self.pod)(self.file, index));
            let worker = self.worker(&cluster, index);
            worker.wait_for_line(&format!("joined as rank {index}"));
            fleet.workers.push(worker);
        }
        fleet.completed();
        assert_same_tensors(&cluster.place.newest(), &reference(1));
    }
}

#[test]
fn a_jobset_trains() {
    JOBSET.trains();
}

#[test]
fn a_trainjob_trains() {
    TRAINJOB.trains();
}

/// The annotations for Prometheus name the board's port, and the service has a name that is in the
/// certificate.
#[test]
fn prometheus_finds_the_board_in_kubernetes() {
    let service = documents(COORDINATOR).into_iter().find(|document| document["kind"] == "Service");
    let service = service.unwrap();
    let board = "/spec/ports/1";
    assert_eq!(field(&service, &format!("{board}/name")), "board");
    let port = service.pointer(&format!("{board}/port")).unwrap().to_string();
    let annotations = "/metadata/annotations/prometheus.io~1";
    assert_eq!(field(&service, &format!("{annotations}port")), port);
    assert_eq!(field(&service, &format!("{annotations}scheme")), "https");
    assert_eq!(field(&service, &format!("{annotations}path")), "/metrics");
    assert!(starting(COORDINATOR).contains(&format!("--board=0.0.0.0:{port}")));
    let named = |words: &Vec<String>| words.contains(&field(&service, "/metadata/name").to_owned());
    assert!(
        invocations("deploy/README.md").iter().any(|words| words[1] == "certs" && named(words))
    );
}

/// The nodes of the coordinator and of a worker are drained, and the run continues in other pods.
#[test]
fn an_indexed_job_trains_and_survives_drained_nodes() {
    let Some((mut cluster, mut fleet)) = kubernetes(ENDLESS) else { return };
    for index in 0..4 {
        let host = cluster.add_host();
        let worker = JOB.worker(&cluster, index);
        // The cluster's name service is a little late.
        worker.wait_for_line("waiting until lockstep-workers-");
        cluster.name(host, &(JOB.pod)(JOB.file, index));
        fleet.workers.push(worker);
    }
    fleet.wait_for_progress(&cluster.place);
    let probes = invocations(COORDINATOR).into_iter().filter(|words| words[1] == "status");
    let probes: Vec<_> = probes.collect();
    assert_eq!(probes.len(), 3);
    for words in probes {
        assert!(cluster.start(0, &words, &[], "").wait().succeeded().text().contains("serving"));
    }

    fleet.workers[1].signal(Signal::TERM);
    // The exit status is no success, because the index must not count as completed.
    fleet.workers.remove(1).wait().exited_with(143);
    fleet.workers.insert(1, JOB.worker(&cluster, 1));
    fleet.workers[1].wait_for_line("training rank=1");
    fleet.wait_for_progress(&cluster.place);

    fleet.coordinator.signal(Signal::TERM);
    fleet.coordinator.wait().exited_with(143);
    let words = starting(COORDINATOR);
    fleet.coordinator = cluster.start(0, &words, &[], &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_event(&cluster.place, "adopted", 4);
    fleet.wait_for_progress(&cluster.place);
    stopped_with_the_same_bits(&cluster.place, fleet);
}

#[test]
fn compose_trains() {
    let Some(mut cluster) = Cluster::new() else { return };
    let compose = last("deploy/compose.yaml");
    let script = field(&compose, "/services/certs/command/2");
    let path = format!("{}:/usr/bin:/bin", programs().display());
    let made = Command::new("sh").args(["-euc", &cluster.here(script)]).env("PATH", path).output();
    assert!(made.unwrap().status.success());

    let words = |service: &str| -> Vec<String> {
        let words = compose.pointer(&format!("/services/{service}/command"));
        serde_json::from_value(words.unwrap().clone()).unwrap()
    };
    let coordinator = cluster.coordinate(&words("coordinator"), "coordinator", "--epochs 1");
    let mut fleet = Fleet::at(coordinator, String::new(), None);
    for rank in 0..4 {
        let service = format!("worker-{rank}");
        let host = cluster.add_host();
        cluster.name(host, &service);
        fleet.workers.push(cluster.start(host, &words(&service), &[], "--threads 1"));
    }
    fleet.completed();
    assert_same_tensors(&cluster.place.newest(), &reference(1));
}

/// The lines of deploy/README.md for two hosts, with another network address.
#[test]
fn two_hosts_by_hand() {
    let Some(mut cluster) = Cluster::new() else { return };
    let hosts = [cluster.add_host(), cluster.add_host()];
    let addresses = hosts.map(|host| cluster.hosts[host].address());
    assert_eq!(addresses, [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)]);
    let lines: Vec<Vec<String>> = invocations(RECIPES)
        .into_iter()
        .filter(|words| words.iter().any(|word| word.contains("10.0.0.")))
        .map(|words| words.iter().map(|word| word.replace("10.0.0.", "10.77.0.")).collect())
        .collect();
    let [first, second, coordinator, worker, other] = &lines[..] else { panic!("{lines:?}") };
    let init = ["vae-coordinator", "certs", "init", "--dir", "ca"].map(str::to_owned);
    for line in [&init[..], first, second] {
        cluster.start(0, line, &[], "").wait().succeeded();
    }
    // The copy that scp makes on the other host.
    let tls = cluster.place.path("10.77.0.2");
    fs::create_dir(&tls).unwrap();
    copy(&cluster.place.path("ca/10.77.0.2"), &tls);
    fs::remove_dir_all(cluster.place.path("ca/10.77.0.2")).unwrap();

    let run = format!("--run-dir {} {SMALL} --epochs 1", cluster.place.run_dir.display());
    let coordinator = cluster.start(0, coordinator, &[], &run);
    let mut fleet = Fleet::at(coordinator, String::new(), None);
    fleet.workers.push(cluster.start(0, worker, &[], "--threads 1"));
    fleet.workers.push(cluster.start(1, other, &[], "--threads 1"));
    fleet.completed();
    assert_same_tensors(&cluster.place.newest(), &reference(1));
}
