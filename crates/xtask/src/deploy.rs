//! `cargo xtask deploy`: checks the files in `deploy/`, as far as a machine without a cluster can.
//!
//! [`FILES`] lists the tool that checks each file, and a mistake for each file: the tool must
//! refuse a copy with the mistake, or the check is useless. `deploy/tools.rs` fetches the tools.
//! `tests/deploy.rs` tests that the programs accept the flags in the files.

mod tools;

use self::tools::Tools;
use crate::{child, interrupt, workspace};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Fail if tools of systemd or Prometheus are missing, instead of leaving their files out
    #[arg(long)]
    complete: bool,
}

/// The tool that checks a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    /// The linter of container files.
    Hadolint,
    /// The Compose specification, as a schema that comes with check-jsonschema.
    Compose,
    /// The schemas of Kubernetes' own kinds; unknown fields are refused.
    Kubernetes,
    /// A kind that is not Kubernetes' own, by the schema of its maintainers.
    Kind(&'static str),
    /// systemd's check of units.
    Units,
    /// systemd's check of users.
    Users,
    /// Prometheus' check of rules.
    Rules,
    /// Prometheus' check of the expressions of a dashboard.
    Expressions,
}

/// A file, its tool, and a mistake that the tool must find: a text of the file, and the wrong text.
struct Subject {
    file: &'static str,
    judge: Judge,
    mistake: (&'static str, &'static str),
}

const fn row(file: &'static str, judge: Judge, mistake: (&'static str, &'static str)) -> Subject {
    Subject { file, judge, mistake }
}

#[rustfmt::skip]
const FILES: &[Subject] = &[
    row("Containerfile", Judge::Hadolint, ("FROM debian:bookworm-slim", "FROM debian")),
    row("compose.yaml", Judge::Compose, ("healthcheck:", "healthchek:")),
    row("kubernetes/coordinator.yaml", Judge::Kubernetes, ("restartPolicy:", "restartpolicy:")),
    row("kubernetes/workers-job.yaml", Judge::Kubernetes, ("PerIndex: 20", "PerIndex: many")),
    row("kubernetes/workers-jobset.yaml", Judge::Kind("JobSet"), ("mountPath:", "mountpath:")),
    row("kubernetes/trainingruntime.yaml", Judge::Kind("TrainingRuntime"), ("torch:", "pytorch:")),
    row("kubernetes/workers-trainjob.yaml", Judge::Kind("TrainJob"), ("runtimeRef:", "runtime:")),
    row("systemd/lockstep-coordinator.service", Judge::Units, ("ProtectHome=", "ProtectHom=")),
    row("systemd/lockstep-worker@.service", Judge::Units, ("=on-failure", "=on-failur")),
    row("grafana/alerts.yaml", Judge::Rules, ("waiting_seconds > 120", "waiting_seconds >> 120")),
    row("grafana/lockstep.json", Judge::Expressions, ("rate(lockstep", "rate((lockstep")),
    row("systemd/lockstep.conf", Judge::Users, ("u lockstep", "x lockstep")),
];

/// The folder of the programs in the units.
const PROGRAMS: &str = "/opt/lockstep/bin";

impl Judge {
    fn name(self) -> &'static str {
        match self {
            Self::Hadolint => "hadolint",
            Self::Compose | Self::Kind(_) => "check-jsonschema",
            Self::Kubernetes => "kubernetes-validate",
            Self::Units => "systemd-analyze",
            Self::Users => "systemd-sysusers",
            Self::Rules | Self::Expressions => "promtool",
        }
    }

    /// The Debian package of the tool, if the tool comes from the operating system and not from our
    /// own folder.
    fn package(self) -> Option<&'static str> {
        match self {
            Self::Units | Self::Users => Some("systemd"),
            Self::Rules | Self::Expressions => Some("prometheus"),
            Self::Hadolint | Self::Compose | Self::Kubernetes | Self::Kind(_) => None,
        }
    }

    /// The command that checks `file`.
    fn command(self, tools: &Tools, file: &Path) -> Command {
        let mut command = match self {
            Self::Hadolint => tools.program("hadolint"),
            Self::Compose | Self::Kind(_) => tools.module("check_jsonschema"),
            Self::Kubernetes => tools.module("kubernetes_validate"),
            Self::Units | Self::Users | Self::Rules | Self::Expressions => {
                Command::new(self.name())
            }
        };
        match self {
            Self::Hadolint => command.arg("--failure-threshold=style"),
            Self::Compose => command.arg("--builtin-schema=vendor.compose-spec"),
            Self::Kind(kind) => command.arg("--schemafile").arg(tools.schema(kind)),
            Self::Kubernetes => command.arg("--strict"),
            // The man pages named in the units are not installed here.
            Self::Units => command.args(["--man=no", "verify"]),
            Self::Users => command.arg("--dry-run"),
            Self::Rules | Self::Expressions => command.args(["check", "rules"]),
        };
        command.arg(file);
        command
    }
}

/// Checks every file, and tests every check with a mistake. Returns the exit status.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    let tools = tools::ensure()?;
    let folder = workspace::root().join("deploy");
    let mut all_good = true;
    for Subject { file, judge, mistake } in FILES {
        ensure!(!interrupt::seen(), "interrupted");
        let name = judge.name();
        if let Some(package) = judge.package()
            && Command::new(name).arg("--version").output().is_err()
        {
            ensure!(
                !options.complete,
                "{name} is not here: install it (Debian and Ubuntu: apt-get install {package})"
            );
            stdout::say!("{file:40} left out: {name} is not here");
            continue;
        }
        let text = fs::read_to_string(folder.join(file))
            .with_context(|| format!("cannot read deploy/{file}"))?;
        let wrong = spoiled(file, &text, *mistake)?;
        if let Some(complaint) = objection(*judge, &tools, file, &text)? {
            stdout::say!("{file:40} refused by {name}:\n{}", complaint.trim_end());
        } else if objection(*judge, &tools, file, &wrong)?.is_none() {
            let (right, wrong) = mistake;
            stdout::say!("{file:40} not checked: {name} accepts {wrong:?} in place of {right:?}");
        } else {
            stdout::say!("{file:40} good, says {name}");
            continue;
        }
        all_good = false;
    }
    Ok(if all_good { child::SUCCESS } else { 1 })
}

/// The text with a mistake.
fn spoiled(file: &str, text: &str, (right, wrong): (&str, &str)) -> anyhow::Result<String> {
    ensure!(text.contains(right), "deploy/{file} does not contain {right:?}: name another mistake");
    Ok(text.replacen(right, wrong, 1))
}

/// The tool's complaint about a file of this name with this text; none if it is good.
fn objection(
    judge: Judge,
    tools: &Tools,
    file: &str,
    text: &str,
) -> anyhow::Result<Option<String>> {
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    // The copy is in a folder without other units, and keeps the file's name.
    let name = Path::new(file).file_name().unwrap_or_default();
    let path = scratch.path().join(name);
    let text = match judge {
        Judge::Units => with_programs(text, &scratch)?,
        Judge::Expressions => as_rules(text)?,
        _ => text.to_owned(),
    };
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let unit = path.display().to_string().replace("@.", "@1.");
    let mut command = judge.command(tools, Path::new(&unit));
    let output = command.output().with_context(|| format!("cannot start {}", judge.name()))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // systemd-analyze warns of unknown settings, but its exit status is success.
    let is_good = output.status.success() && (judge != Judge::Units || errors.is_empty());
    Ok((!is_good).then(|| String::from_utf8_lossy(&output.stdout).into_owned() + &errors))
}

/// A dashboard's expressions as rules, because Prometheus' tool reads only rules.
fn as_rules(dashboard: &str) -> anyhow::Result<String> {
    let dashboard = serde_json::from_str(dashboard).context("a dashboard is JSON")?;
    let mut found = Vec::new();
    collect_expressions(&dashboard, &mut found);
    ensure!(!found.is_empty(), "a dashboard without expressions");
    let rule =
        |(index, expr): (usize, &&str)| json!({ "record": format!("of:{index}"), "expr": expr });
    let rules: Vec<_> = found.iter().enumerate().map(rule).collect();
    Ok(json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string())
}

fn collect_expressions<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str));
            fields.values().for_each(|value| collect_expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_expressions(value, found)),
        _ => {}
    }
}

/// A unit's text with scripts in place of the programs, which are not installed here.
fn with_programs(text: &str, scratch: &TempDir) -> anyhow::Result<String> {
    for program in ["vae-coordinator", "vae-worker"] {
        let path = scratch.path().join(program);
        fs::write(&path, "#!/bin/sh\n")
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(text.replace(PROGRAMS, &scratch.path().display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::entries;

    /// Files and folders in `deploy/` that are not checked here.
    const OTHERS: [&str; 4] =
        ["Containerfile.dockerignore", "README.md", "requirements.txt", "slurm"];

    #[test]
    fn every_file_is_checked_and_has_room_for_a_mistake() {
        let folder = workspace::root().join("deploy");
        let mut pending = vec![folder.clone()];
        while let Some(path) = pending.pop() {
            let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
            if OTHERS.contains(&name) {
                continue;
            }
            if path.is_dir() {
                pending.extend(entries(&path).unwrap());
                continue;
            }
            let Subject { mistake, .. } =
                FILES.iter().find(|subject| subject.file == name).expect(name);
            spoiled(name, &fs::read_to_string(&path).unwrap(), *mistake).unwrap();
        }
    }
}
