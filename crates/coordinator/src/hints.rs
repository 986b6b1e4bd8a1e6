//! The commands that are printed for a person to type: how to resume a run, how to start its workers.

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    net::{SocketAddr, ToSocketAddrs as _, UdpSocket},
    path::Path,
};

use advice::CommandLine;
use clap::{Arg, ArgMatches, Args as _, Command, parser::ValueSource};
use membership::Outcome;
use secure::Address;

use crate::{
    args::{OperationArgs, TrainingArgs},
    journal,
    launch::Launch,
    program::Program,
};

/// Flags that a command to resume does not repeat: the run directory keeps them, or the command sets
/// them itself. The file of `--config` is left out too: its keys would take precedence over the run's
/// own values, and its other values are repeated as flags.
const NOT_REPEATED: [&str; 8] =
    ["workers", "shards", "run_dir", "resume", "resume_or_begin", "name", "note", "config"];

/// The variable that tells cargo where to build.
const TARGET: &str = "CARGO_TARGET_DIR";

/// For IPv4 and IPv6: the unspecified address, and an address reserved for documentation. The route
/// to the latter is the route to other hosts.
const FAR_AWAY: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];

/// The flags of this coordinator that its run directory does not keep. They are needed again to
/// resume the run in the same way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// The subcommand before the flags.
    subcommand: Option<&'static str>,
    flags: Vec<Flag>,
}

/// A flag, and the words to type for it.
#[derive(Clone, Debug)]
struct Flag {
    id: String,
    words: Vec<OsString>,
}

impl Given {
    pub(crate) fn new(program: &dyn Program, matches: &ArgMatches) -> Self {
        let kept = OperationArgs::augment_args(TrainingArgs::augment_args(Command::new("kept")));
        let kept = program.add_flags(kept);
        let kept: HashSet<&str> =
            kept.get_arguments().map(|arg| arg.get_id().as_str()).chain(NOT_REPEATED).collect();
        let command = crate::flags(program);
        let flags = command.get_arguments().filter(|arg| {
            let id = arg.get_id().as_str();
            let is_given = matches.value_source(id) == Some(ValueSource::CommandLine);
            is_given && !kept.contains(id)
        });
        let flag = |arg: &Arg| Flag { id: arg.get_id().to_string(), words: words(arg, matches) };
        Self { subcommand: program.subcommand(), flags: flags.map(flag).collect() }
    }

    /// The command that resumes the run in a directory.
    pub(crate) fn go_on(&self, run_dir: &Path) -> CommandLine {
        let line = CommandLine::this_program().args(self.subcommand);
        let line = line.arg("--resume").arg("--run-dir").arg(run_dir);
        line.args(self.flags.iter().flat_map(|flag| flag.words.clone()))
    }

    /// The same flags with another value of one flag.
    pub(crate) fn with(mut self, id: &str, value: impl ToString) -> Self {
        self.flags.retain(|flag| flag.id != id);
        let name = format!("--{}", id.replace('_', "-"));
        self.flags.push(Flag { id: id.into(), words: vec![name.into(), value.to_string().into()] });
        self
    }
}

/// What to do about a run that was stopped: resume it, or begin again if it has no run directory.
pub(crate) fn next(launch: &Launch, run_dir: Option<&Path>) -> String {
    match run_dir {
        Some(run_dir) => format!("go on with: {}", launch.given.go_on(run_dir)),
        None => format!("begin again with: {}", CommandLine::as_called()),
    }
}

/// What to do after an outcome other than success; none if the run would fail in the same way again,
/// because the outcome's own message then says what to do.
pub(crate) fn after(outcome: &Outcome, launch: &Launch, run_dir: Option<&Path>) -> Option<String> {
    let next = next(launch, run_dir);
    match outcome {
        Outcome::WorkerFailed { recurs: true, .. } => None,
        Outcome::WorkersMissing { present, flag, .. } => {
            let fewer = (*present > 0).then_some(run_dir).flatten();
            let fewer = fewer.map(|run_dir| launch.with_fewer(flag, *present).go_on(run_dir));
            let fewer = fewer.map(|line| format!("\nor with fewer: {line}")).unwrap_or_default();
            // Nothing follows a command on its line, so that the line can be pasted as it is.
            let start = match launch.spawn {
                Some(_) => "",
                None => "\nand start the workers when it says how",
            };
            Some(format!("{next}{fewer}{start}"))
        }
        _ => Some(next),
    }
}

/// How to get the worker's program, which was not found at its place.
pub(crate) fn get_worker(program: &Path) -> String {
    match build(program) {
        Some(line) => format!("build it with: {line}"),
        None => "put the one of the same release there".into(),
    }
}

/// The cargo command that builds a program at this place; none if the place is no folder of cargo's.
fn build(program: &Path) -> Option<CommandLine> {
    let folder = program.parent()?;
    if !folder.join(".fingerprint").is_dir() {
        return None;
    }
    let name = program.file_name()?;
    let line = CommandLine::program("cargo").args(["build", "--bin"]).arg(name);
    let line = match folder.file_name()?.to_str()? {
        "debug" => line,
        "release" => line.arg("--release"),
        profile => line.arg("--profile").arg(profile),
    };
    let target = folder.parent()?;
    let is_elsewhere = target.file_name()? != "target" && env::var_os(TARGET).is_none();
    Some(if is_elsewhere { line.arg("--target-dir").arg(target) } else { line })
}

/// A flag as it is typed, with its values.
pub(crate) fn words(arg: &Arg, matches: &ArgMatches) -> Vec<OsString> {
    let name = format!("--{}", arg.get_long().unwrap_or_default());
    if !arg.get_action().takes_values() {
        return vec![name.into()];
    }
    let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
    let values: Vec<OsString> = match arg.get_value_delimiter() {
        Some(delimiter) => {
            let values: Vec<_> = values.map(OsString::from).collect();
            vec![values.join(delimiter.to_string().as_ref())]
        }
        None => values.map(OsString::from).collect(),
    };
    values.into_iter().flat_map(|value| [name.clone().into(), value]).collect()
}

/// The command that starts a worker of the run on this host.
pub(crate) fn worker(launch: &Launch, listening: SocketAddr) -> CommandLine {
    let url = format!("{}://{}", launch.security.scheme(), place(launch, listening));
    let line = match launch.foreign_task() {
        // The program that has described the task; its path is not known here.
        Some(task) => CommandLine::program(task).arg("worker"),
        None => launch.program.worker().line(),
    };
    let line = line.arg("--coordinator").arg(url);
    let line = line.args(launch.worker_arguments.clone());
    if launch.is_data_dir_given {
        return line.arg("--data-dir").arg(&launch.data_dir);
    }
    line
}

/// The address that workers connect to: that of `--advertise` if given, else a name or address that
/// resolves to the listening one and that is in the certificate, if there is a certificate.
fn place(launch: &Launch, listening: SocketAddr) -> String {
    let port = listening.port();
    if let Some(address) = launch.advertise.as_ref().and_then(|host| host.port(port)) {
        return address.to_string();
    }
    let is_any = listening.ip().is_unspecified();
    let leads_here = |host: &str| {
        let mut found = (host, port).to_socket_addrs().into_iter().flatten();
        let is_here = |found: SocketAddr| match is_any {
            true => found.is_ipv4() || listening.is_ipv6(),
            false => found.ip() == listening.ip(),
        };
        found.any(is_here)
    };
    let numbered = (!is_any).then(|| listening.ip().to_string());
    let far_away = || FAR_AWAY.iter().filter_map(|(any, far)| own_address(any, far));
    let names = || [journal::host(), "localhost".into(), "127.0.0.1".into(), "::1".into()];
    let mut candidates = numbered.into_iter().chain(far_away()).chain(names());
    let found = candidates.find_map(|host| {
        let address = Address::on(&host, port).ok()?;
        let is_in_certificate = launch.security.check_name(&address).is_ok();
        (is_in_certificate && leads_here(&host)).then(|| address.to_string())
    });
    found.unwrap_or_else(|| listening.to_string())
}

/// The address of this host on the route to other hosts. Nothing is sent: connecting a datagram
/// socket only looks up the route.
fn own_address(any: &str, far: &str) -> Option<String> {
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(far).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::Plain;

    fn go_on(flags: &[&str]) -> String {
        let line = ["vae-coordinator"].iter().chain(flags);
        let given = Given::new(&Plain, &crate::command(&Plain).try_get_matches_from(line).unwrap());
        let line = given.go_on(Path::new("/runs/a b")).to_string();
        line.split_once(" --resume ").unwrap().1.to_owned()
    }

    #[test]
    fn what_the_run_does_not_keep_is_said_again() {
        assert_eq!(go_on(&[]), "--run-dir '/runs/a b'");
        let kept = ["--epochs", "7", "--workers=2", "--run-dir", "other", "--collective", "grpc"];
        assert_eq!(go_on(&kept), "--run-dir '/runs/a b'");
        let flags = [
            "--spawn",
            "--worker-device=cuda:0,cpu",
            "--worker-device=auto",
            "--tls-dir",
            "it's mine",
            "--listen=localhost:0",
            "--min-workers",
            "2",
            "--dead-after-seconds=1.5",
            "--allow-mixed-devices",
        ];
        let again = "--run-dir '/runs/a b' --min-workers 2 --listen localhost:0 --spawn \
                     --worker-device cuda:0,cpu,auto --tls-dir 'it'\\''s mine' \
                     --dead-after-seconds 1.5 --allow-mixed-devices";
        assert_eq!(go_on(&flags), again);
        assert_eq!(go_on(&["--resume"]), "--run-dir '/runs/a b'");
    }

    /// The file's epochs are not those of the run.
    #[test]
    fn what_a_file_says_is_said_as_flags() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "epochs = 1\nworkers = 2\nspawn = true\nmin-workers = 2\n").unwrap();
        let path = file.path().to_str().unwrap();
        let line = ["vae-coordinator", "--config", path, "--epochs", "9", "--min-workers", "1"];
        let line = line.map(OsString::from).to_vec();
        let matches = manual::config_file::parse(crate::command(&Plain), line).unwrap();
        let line = Given::new(&Plain, &matches).go_on(Path::new("/run")).to_string();
        assert!(line.ends_with(" --resume --run-dir /run --min-workers 1 --spawn"), "{line}");
    }

    #[test]
    fn a_flag_is_replaced() {
        let line = ["vae-coordinator", "--min-workers", "2", "--spawn"];
        let given = Given::new(&Plain, &crate::command(&Plain).try_get_matches_from(line).unwrap());
        let line = given.with("min_workers", 1).go_on(Path::new("/run")).to_string();
        assert!(line.ends_with(" --run-dir /run --spawn --min-workers 1"), "{line}");
    }
}
