//! Several workers on each of several hosts, which are network namespaces with their own addresses
//! and disks. Workers use shared memory inside a host and streams between hosts, and the bits are
//! those of one worker.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use checkpoint::{Checkpoint, Directory};
use rustix::process::Signal;

use crate::{
    harness::{
        CRASH_POINT, ENDLESS, Fleet, Host, Lost, MIXED_BUILDS, Network, Place, Process, SMALL,
        STEPS_PER_EPOCH, armed_programs, assert_same_tensors, coordinator_at, programs, reference,
    },
    stop::stopped_with_the_same_bits,
};

/// Flags of a run with the default network; the traffic is compared with the size of its gradient.
const DEFAULT_NETWORK: &str = "--shards 4 --batch-size 16 --train-images 6000 --test-images 200 \
                               --seed 7 --epochs 2";
const EPOCHS: u64 = 2;

/// Bytes of the default network's gradient.
const GRADIENT_BYTES: f64 = 4.0 * 973_624.0;

/// The largest allowed ratio of the bytes on a link to the bytes that an all-reduce must send.
const OVERHEAD_MAX: f64 = 1.05;

/// A host with a disk.
struct Site {
    host: Host,
    disk: PathBuf,
}

impl Site {
    fn new(network: &Network, place: &Place, name: &str) -> Self {
        let disk = place.path(name);
        fs::create_dir_all(disk.join("run")).unwrap();
        Self { host: network.host(), disk }
    }

    fn data(&self) -> PathBuf {
        self.disk.join("data")
    }

    /// Starts a worker that sees this host's disk in place of the run directory.
    fn worker_with_disk(&self, place: &Place, url: &str, flags: &str) -> Process {
        // Each process that is started on a host has its own mounts.
        let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        let mut command = self.host.command(Path::new("sh"));
        command.args(["-c", script, "sh"]).args([&self.disk.join("run"), &place.run_dir]);
        command.arg(programs().join("vae-worker")).args(["--insecure", "--coordinator", url]);
        command.arg("--data-dir").arg(self.data()).args(flags.split_whitespace());
        Process::start("worker", &mut command)
    }

    /// Starts a worker that shares the run directory with all others.
    fn worker(&self, url: &str, flags: &str) -> Process {
        let mut command = self.command(programs(), url);
        Process::start("worker", command.args(flags.split_whitespace()))
    }

    /// Starts such a worker that comes to harm at a crash point.
    fn armed_worker(&self, url: &str, order: &str) -> Process {
        let mut command = self.command(armed_programs(), url);
        Process::start("armed worker", command.env(CRASH_POINT, order))
    }

    fn command(&self, programs: &Path, url: &str) -> Command {
        let mut command = self.host.command(&programs.join("vae-worker"));
        command.args(["--insecure", "--threads", "1", "--coordinator", url]);
        command
    }

    /// The newest checkpoint on this host's disk.
    fn newest(&self) -> Checkpoint {
        let list = Directory::open(self.disk.join("run/checkpoints")).list().unwrap();
        checkpoint::read(&list.last().expect("there is a checkpoint").1).unwrap()
    }
}

/// A coordinator on its own host, without workers.
fn coordinate(host: &Host, place: &Place, listen: &str, flags: &str) -> Fleet {
    let mut command = host.command(&programs().join("vae-coordinator"));
    command.args(["--insecure", "--listen", listen, "--run-dir"]).arg(&place.run_dir);
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    let coordinator = Process::start("coordinator", &mut command).on(Some(host.clone()));
    Fleet::of(coordinator, None)
}

/// The last generation: its collective, and the number of its members.
fn exchanging(place: &Place) -> Option<(String, usize)> {
    let started = place.events("generation_started").pop()?;
    let collective = started["collective"].as_str().unwrap().to_owned();
    Some((collective, started["ranks"].as_array().unwrap().len()))
}

fn wait_for_exchange(fleet: &mut Fleet, place: &Place, collective: &str, members: usize) {
    let expected = Some((collective.to_owned(), members));
    let what = format!("{members} members exchange over {collective}");
    fleet.coordinator.wait_until(&what, || exchanging(place) == expected);
}

#[test]
fn two_hosts_of_two_workers_get_the_same_bits_and_send_no_more_than_they_must() {
    let Some(network) = Network::new() else { return };
    let plain = Place::new();
    let alone = format!("{DEFAULT_NETWORK} --workers 1 --spawn");
    coordinator_at(&plain, &alone).wait().succeeded();

    let place = Place::new();
    let control = network.host();
    let sites = ["east", "west"].map(|name| Site::new(&network, &place, name));
    let listen = SocketAddr::from((control.address(), 0)).to_string();
    let flags = format!("{DEFAULT_NETWORK} --workers 4");
    let mut fleet = coordinate(&control, &place, &listen, &flags);
    // The user has chosen the ranks so that no two neighbouring ranks are on one host.
    fleet.workers = (0..4)
        .map(|rank| {
            let flags = format!("--rank {rank} --threads 1");
            sites[rank % 2].worker_with_disk(&place, &fleet.url, &flags)
        })
        .collect();
    fleet.completed();

    assert_eq!(exchanging(&place), Some(("two-level".into(), 4)));
    // Rank 0 is on the first host.
    assert_same_tensors(&sites[0].newest(), &plain.newest());
    assert_eq!(place.digest(), plain.digest());
    assert_eq!(place.checkpoints(), [] as [PathBuf; 0], "each host has a disk of its own");
    for site in &sites {
        for file in &images::named::mnist().files {
            data::verify(&site.data().join(&file.name), file).unwrap();
        }
        // 2 (H - 1) / H for each of H = 2 hosts.
        let steps = (EPOCHS * STEPS_PER_EPOCH) as f64;
        let times = site.host.sent_bytes() as f64 / (steps * GRADIENT_BYTES);
        assert!((1.0..OVERHEAD_MAX).contains(&times), "{times} times what has to be sent");
    }
}

/// A run in the middle of training, with these numbers of workers on two hosts.
fn in_the_middle(network: &Network, place: &Place, workers: [usize; 2]) -> (Fleet, [Site; 2]) {
    let control = network.host();
    let sites = ["east", "west"].map(|name| Site::new(network, place, name));
    let listen = SocketAddr::from((control.address(), 0)).to_string();
    let count: usize = workers.iter().sum();
    let flags =
        format!("{SMALL} {ENDLESS} {MIXED_BUILDS} --workers {count} --dead-after-seconds 2");
    let mut fleet = coordinate(&control, place, &listen, &flags);
    for (site, workers) in sites.iter().zip(workers) {
        (0..workers).for_each(|_| fleet.workers.push(site.worker(&fleet.url, "")));
    }
    wait_for_exchange(&mut fleet, place, "two-level", count);
    fleet.wait_for_progress(place);
    (fleet, sites)
}

#[test]
fn three_workers_on_one_host_and_one_on_the_other() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();
    let (fleet, _sites) = in_the_middle(&network, &place, [3, 1]);
    stopped_with_the_same_bits(&place, fleet);
}

/// All workers of one host are killed at once, the workers of the other host continue, and new
/// workers join.
#[test]
fn a_host_dies_and_is_replaced() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();
    let (mut fleet, sites) = in_the_middle(&network, &place, [2, 2]);
    for (first, site) in [(2, &sites[1]), (0, &sites[0])] {
        let dead: Vec<Process> = fleet.workers.drain(first..first + 2).collect();
        dead.iter().for_each(|worker| worker.signal(Signal::KILL));
        wait_for_exchange(&mut fleet, &place, "shm", 2);
        // The remaining workers are the first two now, and the new workers are the last two.
        fleet.workers.extend((0..2).map(|_| site.worker(&fleet.url, "")));
        wait_for_exchange(&mut fleet, &place, "two-level", 4);
        fleet.wait_for_progress(&place);
    }
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn one_member_of_a_host_dies_and_the_lanes_are_dealt_anew() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();
    let (mut fleet, sites) = in_the_middle(&network, &place, [2, 2]);
    fleet.workers.remove(1).signal(Signal::KILL);
    wait_for_exchange(&mut fleet, &place, "two-level", 3);
    fleet.workers.push(sites[0].worker(&fleet.url, ""));
    wait_for_exchange(&mut fleet, &place, "two-level", 4);
    stopped_with_the_same_bits(&place, fleet);
}

/// Members on either host come to harm while they write the next state, whose sums come from both hosts.
#[test]
fn members_come_to_harm_in_the_middle_of_an_update_between_hosts() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();
    let (mut fleet, sites) = in_the_middle(&network, &place, [2, 2]);
    for (site, order) in [
        (1, "trainer.updating 300 kill"),
        (0, "all-reduce.shm.added 3 kill"),
        (1, "all-reduce.shm.brought-in 1 kill"),
    ] {
        fleet.workers.pop().unwrap().signal(Signal::KILL);
        wait_for_exchange(&mut fleet, &place, "two-level", 3);
        sites[site].armed_worker(&fleet.url, order).wait().killed();
        let begun = place.events("generation_started").len();
        fleet.workers.push(sites[site].worker(&fleet.url, ""));
        fleet.wait_for_event(&place, "generation_started", begun + 1);
        wait_for_exchange(&mut fleet, &place, "two-level", 4);
        fleet.wait_for_progress(&place);
    }
    fleet.workers.pop().unwrap().signal(Signal::KILL);
    wait_for_exchange(&mut fleet, &place, "two-level", 3);
    let lost = place.events("lost").len();
    fleet.workers.push(sites[1].armed_worker(&fleet.url, "trainer.updating 300 freeze"));
    fleet.wait_for_event(&place, "lost", lost + 1);
    wait_for_exchange(&mut fleet, &place, "two-level", 3);
    fleet.wait_for_progress(&place);
    fleet.workers[3].signal(Signal::CONT);
    wait_for_exchange(&mut fleet, &place, "two-level", 4);
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn a_host_is_cut_off_and_comes_back() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();
    let (mut fleet, sites) = in_the_middle(&network, &place, [2, 2]);
    sites[1].host.cut_off(Lost::Both);
    wait_for_exchange(&mut fleet, &place, "shm", 2);
    fleet.wait_for_progress(&place);
    sites[1].host.heal();
    wait_for_exchange(&mut fleet, &place, "two-level", 4);
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn hosts_with_addresses_of_the_sixth_version() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();
    let hosts = [(); 3].map(|()| network.host());
    for (host, number) in hosts.iter().zip(1..) {
        host.add_address(&format!("fd77::{number}/64"));
        // Only IPv6 works between the hosts.
        host.cut_off(Lost::Both);
    }
    let [control, east, west] = hosts;
    let flags = format!("{SMALL} --workers 3 --epochs 1");
    let mut fleet = coordinate(&control, &place, "[fd77::1]:0", &flags);
    assert!(fleet.url.starts_with("http://[fd77::1]:"), "{}", fleet.url);
    for host in [&east, &east, &west] {
        let site = Site { host: host.clone(), disk: place.path("") };
        fleet.workers.push(site.worker(&fleet.url, ""));
    }
    fleet.completed();
    assert_eq!(exchanging(&place), Some(("two-level".into(), 3)));
    assert_same_tensors(&place.newest(), &reference(1));
}

/// The workers reach the coordinator over one network, and each other only over another network, as
/// on hosts with a separate link for data.
#[test]
fn hosts_with_several_addresses_say_which_to_use() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();
    let control = network.host();
    let sites = ["east", "west"].map(|name| Site::new(&network, &place, name));
    let flags = format!("{SMALL} --workers 2 --epochs 1 --advertise {}", control.address());
    let mut fleet = coordinate(&control, &place, "0.0.0.0:0", &flags);
    sites[0].host.cut_from(&sites[1].host);
    for (site, number) in sites.iter().zip(1..) {
        let address = format!("10.78.0.{number}");
        site.host.add_address(&format!("{address}/16"));
        fleet.workers.push(site.worker(&fleet.url, &format!("--advertise {address}")));
    }
    fleet.completed();
    assert_eq!(exchanging(&place), Some(("grpc".into(), 2)));
    assert_same_tensors(&place.newest(), &reference(1));
}
