//! The harness of the scenarios: fresh binaries, real processes in temporary folders, and waits for
//! conditions with a deadline.
//!
//! Start at [`Place`], a folder for one run, and [`Process`], one running program. Nothing here
//! knows what a scenario expects.

mod browser;
mod crowd;
mod fleet;
mod holding;
mod network;
mod objects;
mod place;
mod process;
mod raw;
mod reference;
mod slurm;

use std::{
    env, fs,
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) use browser::Browser;
pub(crate) use crowd::Crowd;
pub(crate) use fleet::{
    CRASH_POINT, Fleet, Task, armed_coordinator, armed_worker_in, board_of, coordinator,
    coordinator_at, coordinator_in, coordinator_of, coordinator_under, traced_coordinator, worker,
    worker_in, worker_under,
};
pub(crate) use holding::Holding;
pub(crate) use left_out::{note as note_left_out, note_unless as leave_out};
pub(crate) use network::{Host, Lost, Network, namespaces};
pub(crate) use objects::Objects;
pub(crate) use place::{Place, assert_same_tensors};
pub(crate) use process::{Exit, Process};
pub(crate) use raw::{Raw, hello};
pub(crate) use reference::{STEPS_PER_EPOCH, reference};
use rustix::process::Pid;
pub(crate) use slurm::{Cluster, Job};

/// A longer wait counts as a hang, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Time between two checks of a condition.
const POLL: Duration = Duration::from_millis(5);

/// Flags of a run of about a second. An epoch has 94 steps; its last step is short, and one of the
/// four shards has no images in it.
pub(crate) const SMALL: &str = "--shards 4 --batch-size 16 --train-images 6000 --test-images 200 \
                                --hidden-dim 64 --latent-dim 8 --seed 7";

/// The flag for runs with armed programs, which are different builds.
pub(crate) const MIXED_BUILDS: &str = "--allow-mixed-builds";

/// So many epochs that the run does not end during a test.
pub(crate) const ENDLESS: &str = "--epochs 100000";

/// The folder with this build's programs, which are built now if they are not fresh.
pub(crate) fn programs() -> &'static PathBuf {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| build("test-programs"))
}

/// The folder with the programs whose crash points are armed.
pub(crate) fn armed_programs() -> &'static PathBuf {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| build("armed-programs").join("examples"))
}

/// Builds programs that are not up to date, with an alias of .cargo/config.toml; returns the folder
/// of the profile.
fn build(alias: &str) -> PathBuf {
    let built = cargo(alias).current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(built.success(), "the programs cannot be built");
    profile_folder()
}

/// A command of cargo that builds, in the profile and the target folder of this build.
pub(crate) fn cargo(command: &str) -> Command {
    let folder = profile_folder();
    let of_tests =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let mut cargo = Command::new(env!("CARGO"));
    // Variables that describe the tests are removed: with them ring's build script would run again.
    cargo.env_clear();
    cargo.envs(std::env::vars_os().filter(|(name, _)| !of_tests(&name.to_string_lossy())));
    cargo.args([command, "--quiet", "--profile", profile()]);
    cargo.arg("--target-dir").arg(folder.parent().unwrap());
    cargo
}

/// The name of the profile of this build.
pub(crate) fn profile() -> &'static str {
    static PROFILE: OnceLock<String> = OnceLock::new();
    PROFILE.get_or_init(|| match profile_folder().file_name().unwrap().to_str().unwrap() {
        "debug" => "dev".to_owned(),
        name => name.to_owned(),
    })
}

/// The folder of this build's programs: a test executable is target/<profile>/deps/<name>.
pub(crate) fn profile_folder() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    me.ancestors().nth(2).unwrap().to_owned()
}

/// A port that no process uses, for a server that is started again on it. Neither this function nor
/// the kernel, whose ports for clients and for port 0 begin at 32,768, gives it to another test
/// meanwhile.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another process of tests most likely begins elsewhere.
    let begin = (std::process::id() % 500) as u16 * 40;
    let mut ports =
        std::iter::repeat_with(|| 12_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
    ports.by_ref().take(1_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// The address of a [`free_port`] on this machine.
pub(crate) fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Waits until `done` holds.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain: {what}");
        thread::sleep(POLL);
    }
}

/// All descendants of a process.
pub(crate) fn descendants(id: u32) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // "id (name) state parent ...": the name may contain any characters, so parsing begins
        // after it.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(&id.to_string()) {
            let child = entry.file_name().to_string_lossy().parse::<u32>().unwrap_or_default();
            found.extend(Pid::from_raw(child.cast_signed()));
            found.extend(descendants(child));
        }
    }
    found
}
