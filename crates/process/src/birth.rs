//! When a process began. The kernel reuses the number of a process that has ended, but number and birth
//! together identify a process for ever.

use std::fs;

/// The birth of the process with this number: the machine's boot id, and the clock ticks from the boot to
/// the start of the process, separated by a space. None if no such process runs (a zombie does not), or
/// if the system does not tell.
#[must_use]
pub fn birth(process: u32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // The name of the command in this file may contain any bytes.
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    let ticks = started(&String::from_utf8_lossy(&stat))?;
    Some(format!("{} {ticks}", boot.trim()))
}

/// The start time of a process that runs: field 22 of proc_pid_stat(5).
fn started(stat: &str) -> Option<u64> {
    // Field 2, the name, is in parentheses, and may itself contain parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_has_one_birth_and_none_once_it_has_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let born = birth(child.id());
        assert!(born.is_some());
        assert_eq!(birth(child.id()), born);
        child.kill().unwrap();
        // The process is a zombie until it is waited for.
        while birth(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(birth(child.id()), None);
    }

    #[test]
    fn the_name_of_a_command_cannot_mislead() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1234 20";
        assert_eq!(started(&format!("7 (a) Z 1 (b) S {rest}")), Some(1234));
        assert_eq!(started(&format!("7 (a) S 1 (b) Z {rest}")), None);
        assert_eq!(started("7 (a"), None);
    }
}
