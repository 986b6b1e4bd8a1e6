//! The journal: what a restarted coordinator must know of the previous one. A line is on the disk
//! before the coordinator acts upon it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use collective::{Digest, Generation, Rank};
use membership::Past;
use secure::Key;
use serde::{Deserialize, Serialize};

use crate::files;

/// A worker's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Name of its host.
    pub(crate) host: String,
    /// The process number on that host.
    pub(crate) id: u32,
    /// When the process began, because process numbers are reused; none if the system did not tell,
    /// and in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) birth: Option<String>,
}

impl Process {
    /// The process that has this number on this host now.
    pub(crate) fn here(id: u32) -> Self {
        Self { host: host(), id, birth: process::birth(id) }
    }

    /// Whether both are the same process.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let births = self.birth.as_ref().zip(other.birth.as_ref());
        (&self.host, self.id) == (&other.host, other.id)
            && births.is_none_or(|(ours, theirs)| ours == theirs)
    }

    /// Whether the process, on this host, still runs. If its birth is not known, the process with
    /// its number must be a worker.
    pub(crate) fn runs_here(&self) -> bool {
        match &self.birth {
            Some(birth) => process::birth(self.id).as_ref() == Some(birth),
            None => is_worker(self.id),
        }
    }
}

/// A member of a generation, as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) rank: u32,
    pub(crate) process: Process,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A coordinator listens here.
    Listening(SocketAddr),
    /// A process was started in a slot.
    Spawned {
        slot: u32,
        process: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        birth: Option<String>,
    },
    /// A generation is about to start: its number is used.
    Generation { number: u64, members: Vec<Member> },
    /// The key from which the secrets of generations are derived, as hexadecimal text.
    Key(String),
    /// The digest of the probe's gradient, which every worker must reproduce, as hexadecimal text.
    Probe(String),
    /// The run directory has held a checkpoint.
    Checkpoint,
    /// The run has ended under its coordinator's control.
    Ended,
}

/// The content of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) generation: Generation,
    members: Vec<Member>,
    listening: Option<SocketAddr>,
    /// Whether a coordinator listened and then began no generation.
    gathering: bool,
    spawned: BTreeMap<u32, Process>,
    key: Option<Key>,
    probe: Option<Digest>,
    has_checkpoint: bool,
}

impl History {
    /// Reads a journal; an invalid line is ignored.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = files::read(path)?;
        let mut history = Self::default();
        for entry in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            history.take_in(entry);
        }
        Ok(history)
    }

    fn take_in(&mut self, entry: Entry) {
        match entry {
            Entry::Listening(address) => {
                (self.listening, self.gathering) = (Some(address), true);
            }
            Entry::Spawned { slot, process: id, birth } => {
                self.spawned.insert(slot, Process { host: host(), id, birth });
            }
            Entry::Generation { number, members } if Generation(number) > self.generation => {
                (self.generation, self.members) = (Generation(number), members);
                self.gathering = false;
            }
            Entry::Generation { .. } => {}
            Entry::Key(key) => self.key = Key::from_hex(&key),
            Entry::Probe(probe) => self.probe = probe.parse().ok(),
            Entry::Checkpoint => self.has_checkpoint = true,
            // The generation's number stays used, and the probe and the checkpoint stay; no process is
            // left.
            Entry::Ended => {
                let Self { generation, probe, has_checkpoint, .. } = *self;
                *self = Self { generation, probe, has_checkpoint, ..Self::default() };
            }
        }
    }

    /// The address at which workers of the previous coordinator look for it, if there may be any.
    pub(crate) fn listening(&self) -> Option<SocketAddr> {
        let any = !self.past().members.is_empty() || !self.children().is_empty();
        // Workers that joined before the first generation are in no other entry.
        self.listening.filter(|_| any || self.gathering)
    }

    /// The digest of the probe's gradient, which every worker must reproduce; none until a worker
    /// has reported one.
    pub(crate) fn probe(&self) -> Option<Digest> {
        self.probe
    }

    /// Whether the run directory has held a checkpoint.
    pub(crate) fn has_checkpoint(&self) -> bool {
        self.has_checkpoint
    }

    /// The key from which the secrets of generations are derived. The previous coordinator's key is
    /// used again, so that this coordinator can check the proofs of the previous one; if there is
    /// none, a new key is made and noted.
    pub(crate) fn key(&self, journal: &mut Journal) -> Result<Key> {
        if let Some(key) = self.key {
            return Ok(key);
        }
        let key = Key::random();
        journal.note(&Entry::Key(key.to_hex()))?;
        Ok(key)
    }

    /// The processes that `--spawn` started on this machine and that still run, by slot.
    pub(crate) fn children(&self) -> BTreeMap<u32, Process> {
        let is_child = |process: &Process| {
            // Without a birth, the number could belong to another coordinator's worker by now.
            process.runs_here() && (process.birth.is_some() || self.has_called(process.id))
        };
        let running = self.spawned.iter().filter(|(_, process)| is_child(process));
        running.map(|(slot, process)| (*slot, process.clone())).collect()
    }

    /// Whether a process was told to join the coordinator that wrote this journal.
    fn has_called(&self, process: u32) -> bool {
        let Some(address) = self.listening else { return false };
        let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        let port = format!(":{}", address.port());
        arguments.any(|argument| argument == b"--coordinator")
            && arguments.next().is_some_and(|url| url.ends_with(port.as_bytes()))
    }

    /// The members that may still compute, for the engine. Members on other hosts always count,
    /// because this host cannot check them.
    pub(crate) fn past(&self) -> Past {
        let here = host();
        let may_live = |member: &&Member| member.process.host != here || member.process.runs_here();
        let members: BTreeSet<Rank> =
            self.members.iter().filter(may_live).map(|member| Rank(member.rank)).collect();
        Past { generation: self.generation, members }
    }
}

/// The name of this host.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the process with this number is a running worker on this host.
fn is_worker(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // "id (name) state ...": the name may hold anything.
    let name_and_state = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    name_and_state.is_some_and(|(name, state)| {
        name.starts_with("vae-worker") && !state.trim_start().starts_with(['Z', 'X'])
    })
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let file = files::append_lines(&path)?;
        // The journal holds the run's key.
        disk::convenience::keep_private(&file, &path)
            .with_context(|| format!("cannot keep {} from others", path.display()))?;
        Ok(Self { file, path })
    }

    /// Writes a line and waits until it is on the disk.
    pub(crate) fn note(&mut self, entry: &Entry) -> Result<()> {
        let written = history::append_line(&mut self.file, entry).and_then(|()| {
            crashpoint::reach!("journal.written");
            disk::sync_data(&self.file, &self.path)
        });
        crashpoint::reach!("journal.synced");
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn history(lines: &[&str]) -> History {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        fs::write(&path, lines.join("\n")).unwrap();
        History::read(&path).unwrap()
    }

    fn member(rank: u32, host: &str, id: u32) -> Member {
        Member { rank, process: Process { host: host.into(), id, birth: None } }
    }

    #[test]
    fn what_was_noted_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = Journal::open(path.clone()).unwrap();
        let address: SocketAddr = "127.0.0.1:50051".parse().unwrap();
        journal.note(&Entry::Listening(address)).unwrap();
        let members = vec![member(0, "elsewhere", 7), member(1, &host(), u32::MAX)];
        journal.note(&Entry::Generation { number: 3, members }).unwrap();
        let history = History::read(&path).unwrap();
        assert_eq!(history.listening(), Some(address));
        // Only the worker on the other host may still be there.
        let members = BTreeSet::from([Rank(0)]);
        assert_eq!(history.past(), Past { generation: Generation(3), members });

        let key = history.key(&mut journal).unwrap();
        let history = History::read(&path).unwrap();
        assert_eq!(history.key(&mut journal).unwrap(), key, "the next one finds it");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else does");

        assert!(!history.has_checkpoint());
        journal.note(&Entry::Checkpoint).unwrap();
        journal.note(&Entry::Ended).unwrap();
        let history = History::read(&path).unwrap();
        assert!(history.has_checkpoint(), "the end changes nothing about it");
        assert_eq!(history.past(), Past { generation: Generation(3), members: BTreeSet::new() });
        assert_eq!(history.listening(), None);
    }

    #[test]
    fn a_line_that_is_none_says_nothing() {
        let history = history(&["{\"generation\":", "null", "[]", "{\"ended\":1}", "\u{0}"]);
        assert_eq!(history, History::default());
    }

    /// Workers may have joined that are in no generation yet.
    #[test]
    fn who_listened_before_the_first_generation_is_still_looked_for() {
        let listening = "{\"listening\":\"127.0.0.1:7\"}";
        let address = "127.0.0.1:7".parse().ok();
        assert_eq!(history(&[listening]).listening(), address);
        let nobody = "{\"generation\":{\"number\":1,\"members\":[]}}";
        assert_eq!(history(&[listening, nobody]).listening(), None);
        assert_eq!(history(&[listening, nobody, listening]).listening(), address);
    }

    #[test]
    fn a_number_that_another_process_has_by_now_is_no_child() {
        let me = Process::here(std::process::id());
        let birth = me.birth.clone().unwrap();
        let spawned = |birth: &str| {
            let birth = Some(birth.to_owned()).filter(|birth| !birth.is_empty());
            let entry = Entry::Spawned { slot: 0, process: me.id, birth };
            history(&[&serde_json::to_string(&entry).unwrap()]).children()
        };
        assert_eq!(spawned(&birth), BTreeMap::from([(0, me.clone())]));
        let another_start = format!("{birth}7");
        let another_boot = birth.replacen(|c: char| c.is_ascii_hexdigit(), "x", 1);
        for another in [&another_start, &another_boot] {
            assert_eq!(spawned(another), BTreeMap::new(), "{another}");
        }
        // As earlier versions wrote it: this process is no worker.
        assert_eq!(spawned(""), BTreeMap::new());
    }

    #[test]
    fn a_member_whose_number_another_process_has_by_now_is_not_waited_for() {
        let me = Process::here(std::process::id());
        let past = |process: Process| {
            let member = Member { rank: 4, process };
            let entry = Entry::Generation { number: 1, members: vec![member] };
            history(&[&serde_json::to_string(&entry).unwrap()]).past().members
        };
        assert_eq!(past(me.clone()), BTreeSet::from([Rank(4)]));
        assert_eq!(past(Process { birth: Some("another".into()), ..me }), BTreeSet::new());
    }
}
