//! The machine on which the figures were measured.

use crate::{libtorch, workspace};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::thread;

/// A load above this means that other programs run, so the figures are not reliable.
const LOAD_MAX: f64 = 0.5;

/// The properties of the machine on which figures depend.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    cpu: String,
    memory_gb: f64,
    kernel: String,
    rustc: String,
    python: String,
    revision: String,
    /// Runnable processes in the last minute, on average, before the first measurement.
    load: f64,
}

/// The cores that this process may use.
pub(super) fn cores() -> u32 {
    thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

impl Machine {
    pub(super) fn here() -> Machine {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let load = read("/proc/loadavg").split_whitespace().next().and_then(|s| s.parse().ok());
        let root = workspace::root().display().to_string();
        Machine {
            cpu: cpu_in(&read("/proc/cpuinfo")),
            memory_gb: memory_gb_in(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: said("rustc", &["--version"]),
            python: said("python3", &["--version"]),
            revision: said("git", &["-C", &root, "describe", "--always", "--dirty"]),
            load: load.unwrap_or(0.0),
        }
    }

    /// Two lines for a person.
    pub(super) fn describe(&self) -> String {
        let Machine { cpu, memory_gb, kernel, rustc, python, revision, load } = self;
        let busy = if *load > LOAD_MAX {
            format!(
                "\nThe load is {load}: other programs are running, so the figures are not reliable."
            )
        } else {
            String::new()
        };
        format!(
            "{cpu}, {} cores, {memory_gb:.0} GB, Linux {kernel}\n\
             Lockstep {revision}, {rustc}; PyTorch and libtorch {}, {python}{busy}",
            cores(),
            libtorch::VERSION
        )
    }

    /// The CPU and the number of cores.
    pub(super) fn brief(&self) -> String {
        format!("{}, {} cores", self.cpu, cores())
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": cores(),
            "memory_gb": self.memory_gb,
            "kernel": self.kernel,
            "rustc": self.rustc,
            "python": self.python,
            "torch": libtorch::VERSION,
            "revision": self.revision,
            "load_before": self.load,
        })
    }
}

fn cpu_in(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().map(str::trim) == Some(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| "unknown CPU".to_owned());
    // Some machines hide the name of the model; family and model then identify the CPU.
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}

fn memory_gb_in(meminfo: &str) -> f64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0 / 1e9
}

/// The output of a program, or "unknown" if it fails or cannot be started.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let output = output.filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_named() {
        let cpuinfo = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n";
        assert_eq!(cpu_in(cpuinfo), "AMD EPYC (family 25, model 17)");
        assert_eq!(cpu_in(""), "unknown CPU");
    }

    #[test]
    fn memory_is_in_gigabytes() {
        assert_eq!(memory_gb_in("MemTotal:       1953125 kB\nMemFree: 1 kB\n"), 2.0);
        assert_eq!(memory_gb_in(""), 0.0);
    }
}
