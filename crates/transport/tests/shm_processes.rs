//! Members in separate processes: one is killed or frozen, or all are killed, at any moment.
//!
//! A member is this test binary again, with its role in the environment.

#![cfg(target_os = "linux")]

#[path = "support/processes.rs"]
mod processes;
#[path = "support/stories.rs"]
#[allow(dead_code, reason = "other tests run the stories")]
mod stories;

use std::{
    env, fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use collective::{AllReduce as _, Control, Generation, Interrupted, Node, Rank};
use processes::{Member, listen, say};
use rustix::process::{Pid, Signal, kill_process};
use transport::{Group, shm::Segment};

const LENGTH: usize = 5_000;

/// The time within which the others notice a loss: far more than the 50 ms between two checks, because
/// the machine may be busy.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// How long members may take to start, or for some rounds.
const DEADLINE: Duration = Duration::from_secs(60);

/// The environment of a member: run, rank, members.
const ROLE: &str = "LOCKSTEP_TEST_MEMBER";

/// A member reports after every so many rounds.
const REPORT_ROUNDS: u64 = 50;

fn group(run: &str, rank: u32, members: u32) -> Group {
    let ranges: Vec<(u32, u32)> = (0..members).map(|rank| (rank, rank + 1)).collect();
    Group {
        run_id: run.into(),
        shares_state: false,
        generation: Generation(7),
        shards: members,
        length: LENGTH,
        rank: Rank(rank),
        peers: stories::peers(&ranges),
    }
}

#[test]
#[ignore = "a member's process, started by the other tests"]
fn member() {
    let Ok(role) = env::var(ROLE) else { return };
    let [run, rank, members] = role.split(' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    let group = group(run, rank.parse().unwrap(), members.parse().unwrap());
    let segment = if group.rank == Rank(0) {
        let (segment, rendezvous) = Segment::create(&group).unwrap();
        say(&format!("place {rendezvous}"));
        segment
    } else {
        Segment::open(&group, &listen().unwrap().parse().unwrap()).unwrap()
    };
    let mut shm = segment.into_all_reduce().unwrap();
    let abort = shm.abort_handle();
    thread::spawn(move || {
        if listen().as_deref() == Some("abort") {
            abort.abort();
        }
    });
    // A few gradients, used in turn.
    let expected_count = 4;
    let expected: Vec<Vec<f32>> = (0..expected_count)
        .map(|step| stories::tree_sum(Node::root(group.shards), step, LENGTH))
        .collect();
    for (step, expected) in (0..).zip(expected.iter().cycle()) {
        let gradient_of = step % expected_count;
        let contribution = stories::contribute(&mut shm, gradient_of, LENGTH, Control::default());
        match shm.all_reduce(stories::train(step), &contribution) {
            Ok(_) => assert!(stories::same_bits(shm.sum(), expected), "step {step}"),
            Err(Interrupted::Lost { rank, .. }) => return say(&format!("lost {rank}")),
            Err(other) => return say(&format!("ended {other}")),
        }
        if step % REPORT_ROUNDS == 0 {
            say(&format!("at {step}"));
        }
    }
}

/// A run whose members are all at work.
struct Run {
    name: String,
    members: Vec<Member>,
}

impl Run {
    fn start(test: &str, count: u32) -> Self {
        let name = format!("{test}-{}", std::process::id());
        let start = |rank| {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["member", "--exact", "--ignored", "--nocapture"]);
            Member::start(command.env(ROLE, format!("{name} {rank} {count}")))
        };
        let mut members: Vec<Member> = (0..count).map(start).collect();
        let place = members[0].recv("place", DEADLINE).expect("the leader creates a segment");
        for member in &mut members[1..] {
            member.tell(&place);
        }
        let run = Self { name, members };
        assert!(run.members.iter().all(|member| member.recv("at", DEADLINE).is_some()));
        run
    }

    /// The lost rank that each member but `gone` reports.
    fn losses(&self, gone: usize) -> Vec<Option<String>> {
        let others = self.members.iter().enumerate().filter(|(rank, _)| *rank != gone);
        others.map(|(_, member)| member.recv("lost", NOTICED_WITHIN)).collect()
    }

    /// Whether any process of this host has the run's segment mapped or open.
    fn has_traces(&self) -> bool {
        let name = format!("lockstep-{}", self.name);
        let mapped = |process: &fs::DirEntry| {
            let path = process.path();
            let maps = fs::read_to_string(path.join("maps")).unwrap_or_default();
            let open = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
            let mut targets = open.filter_map(|fd| fs::read_link(fd.path()).ok());
            maps.contains(&name) || targets.any(|to| to.to_string_lossy().contains(&name))
        };
        let named = |file: &fs::DirEntry| file.file_name().to_string_lossy().contains("lockstep");
        fs::read_dir("/proc").unwrap().flatten().any(|process| mapped(&process))
            || fs::read_dir("/dev/shm").unwrap().flatten().any(|file| named(&file))
    }

    fn assert_no_traces(mut self) {
        self.members.clear();
        let begun = Instant::now();
        while self.has_traces() {
            assert!(begun.elapsed() < DEADLINE, "the segment outlives its members");
            thread::yield_now();
        }
    }
}

#[test]
fn a_member_that_is_killed_is_named_by_all_others() {
    for victim in [0, 1, 3] {
        let mut run = Run::start("killed", 4);
        assert!(run.has_traces(), "this test knows where to look");
        run.members[victim].kill();
        assert_eq!(run.losses(victim), vec![Some(victim.to_string()); 3]);
        run.assert_no_traces();
    }
}

#[test]
fn a_member_that_is_frozen_is_not_lost_and_an_abort_frees_the_others() {
    let mut run = Run::start("frozen", 3);
    let pid = Pid::from_raw(run.members[1].pid().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // The others come to a halt: they report nothing for longer than several checks.
    const HALTED: Duration = Duration::from_millis(500);
    while run.members[0].recv("at", HALTED).is_some() {}
    run.members[2].tell("abort");
    for rank in [0, 2] {
        let ended = run.members[rank].recv("ended", NOTICED_WITHIN);
        assert_eq!(ended.as_deref(), Some("the generation was ended"));
    }
    kill_process(pid, Signal::CONT).unwrap();
    let ended = run.members[1].recv("ended", NOTICED_WITHIN);
    assert_eq!(ended.as_deref(), Some("the generation was ended"));
    run.assert_no_traces();
}

#[test]
fn nothing_is_left_when_all_are_killed() {
    let mut run = Run::start("all-killed", 3);
    run.members.iter_mut().for_each(Member::kill);
    run.assert_no_traces();
}

#[test]
fn nothing_is_left_of_a_leader_that_dies_before_anybody_came() {
    let name = format!("lonely-{}", std::process::id());
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["member", "--exact", "--ignored", "--nocapture"]);
    let leader = Member::start(command.env(ROLE, format!("{name} 0 2")));
    let place = leader.recv("place", DEADLINE).expect("the leader creates a segment");
    let mut run = Run { name: name.clone(), members: vec![leader] };
    run.members[0].kill();
    run.assert_no_traces();
    let refused = Segment::open(&group(&name, 1, 2), &place.parse().unwrap()).unwrap_err();
    assert!(refused.to_string().contains("cannot open"), "{refused}");
}
