//! Tests all orders in which members can go on, give up, die, sleep and wake, on a model of the shared
//! state: the arrivals, two buffers, and the position of each member.
//!
//! Every operation of a member is a step of the model, and any member can make the next step. A member
//! that makes no more steps is dead; a member that makes its next step late was frozen. In every
//! reachable situation, each member's state must be complete. The inside of the barrier is not
//! modelled: a member leaves the barrier once all have arrived, or gives up before.
//!
//! A reader that is not a member (`takeover.rs`) may copy a state, one segment in each of its steps,
//! and then accept the copy or not.

use std::collections::HashSet;

/// Steps of training until a member has finished.
const STEPS: u8 = 3;

/// A segment that is being written.
const TORN: u8 = u8::MAX;

/// A segment that was never written.
const EMPTY: u8 = u8::MAX - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Before the state is brought in, and at the barrier after it.
    Fill,
    Filled,
    /// Before this member contributes, and at the barrier after it.
    Contribute,
    Contributed,
    /// With other hosts: before the member has written its part of the sum, and at the barrier after it.
    Sum,
    Summed,
    /// Before the member writes its segment, while it writes, and at the barrier after it.
    Update,
    Updating,
    Updated,
    /// The member has given up, or has done all steps.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    at: At,
    arrivals: u8,
    /// The step of the member's state in the segment; none before the state was brought in.
    holds: Option<u8>,
}

/// A process that copies the state of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reader {
    step: u8,
    /// The number of copied segments, and whether all of them were of the step.
    copied: u8,
    is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    members: Vec<Member>,
    /// For each buffer and member, the step of the segment.
    segments: [Vec<u8>; 2],
    reader: Option<Reader>,
    /// Whether there are other hosts, and therefore a sum.
    has_sum: bool,
}

/// How members behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Right,
    /// Members write the next state without waiting for the others' contributions.
    Impatient,
    /// Members accept the next state without waiting for the others' segments.
    Hasty,
    /// A reader accepts a copy although all members have arrived once too often.
    Trusting,
}

impl World {
    fn new(members: usize, has_sum: bool) -> Self {
        let member = Member { at: At::Fill, arrivals: 0, holds: None };
        Self {
            members: vec![member; members],
            segments: [vec![EMPTY; members], vec![EMPTY; members]],
            reader: None,
            has_sum,
        }
    }

    /// Whether the members' states are complete, and also the reader's copy, if the reader accepts it.
    fn is_sound(&self, rule: Rule) -> bool {
        let is_copied = |reader: &Reader| usize::from(reader.copied) == self.members.len();
        let is_taken = |reader: &Reader| {
            // State 0 is complete after the first arrival, and each step has two or three arrivals.
            let had_at = 1 + (2 + u8::from(self.has_sum)) * reader.step;
            let until = had_at + 3 + u8::from(rule == Rule::Trusting);
            self.members.iter().any(|member| member.arrivals < until)
        };
        let reader = self.reader.filter(is_copied).filter(is_taken);
        reader.is_none_or(|reader| reader.is_whole)
            && self.members.iter().filter_map(|member| member.holds).all(|step| {
                self.segments[usize::from(step % 2)].iter().all(|segment| *segment == step)
            })
    }

    /// The next situations if the reader makes a step. It can begin with any member's state.
    fn after_reading(&self) -> Vec<Self> {
        let read = |reader| Self { reader: Some(reader), ..self.clone() };
        let Some(Reader { step, copied, is_whole }) = self.reader else {
            let steps = self.members.iter().filter_map(|member| member.holds);
            return steps.map(|step| read(Reader { step, copied: 0, is_whole: true })).collect();
        };
        let segment = self.segments[usize::from(step % 2)].get(usize::from(copied));
        let copied = segment.map(|segment| {
            read(Reader { step, copied: copied + 1, is_whole: is_whole && *segment == step })
        });
        copied.into_iter().collect()
    }

    fn all_arrived(&self, me: usize) -> bool {
        let arrivals = self.members[me].arrivals;
        self.members.iter().all(|member| member.arrivals >= arrivals)
    }

    /// The next situations if the member `me` makes a step.
    fn after(&self, me: usize, rule: Rule) -> Vec<Self> {
        let Member { at, holds, .. } = self.members[me];
        let step = holds.unwrap_or_default();
        let go = |at| {
            let mut world = self.clone();
            world.members[me].at = at;
            world
        };
        let arrive = |at| {
            let mut world = go(at);
            world.members[me].arrivals += 1;
            world
        };
        let write = |at, step: u8, value| {
            let mut world = go(at);
            world.segments[usize::from(step % 2)][me] = value;
            world
        };
        let take = |step| {
            let mut world = go(if step == STEPS { At::Over } else { At::Contribute });
            world.members[me].holds = Some(step);
            world
        };
        let leave = |impatient, world| {
            if impatient || self.all_arrived(me) { vec![world] } else { vec![go(At::Over)] }
        };
        match at {
            At::Over => vec![],
            At::Fill => {
                let mut world = write(At::Filled, 0, 0);
                world.members[me].arrivals += 1;
                vec![world]
            }
            At::Filled => leave(false, take(0)),
            At::Contribute => vec![arrive(At::Contributed)],
            At::Contributed if self.has_sum => leave(false, go(At::Sum)),
            At::Contributed => leave(rule == Rule::Impatient, go(At::Update)),
            At::Sum => vec![arrive(At::Summed)],
            At::Summed => leave(false, go(At::Update)),
            At::Update => vec![write(At::Updating, step + 1, TORN)],
            At::Updating => {
                let mut world = write(At::Updated, step + 1, step + 1);
                world.members[me].arrivals += 1;
                vec![world]
            }
            At::Updated => leave(rule == Rule::Hasty, take(step + 1)),
        }
    }
}

/// The number of reachable situations; none if one of them is unsound.
fn situations(members: usize, has_sum: bool, rule: Rule) -> Option<usize> {
    let mut seen = HashSet::from([World::new(members, has_sum)]);
    let mut open: Vec<World> = seen.iter().cloned().collect();
    while let Some(world) = open.pop() {
        if !world.is_sound(rule) {
            return None;
        }
        let of_members = (0..members).flat_map(|me| world.after(me, rule));
        for next in of_members.chain(world.after_reading()) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    Some(seen.len())
}

#[test]
fn states_and_copies_are_whole_in_every_order_of_events() {
    for (members, has_sum) in [(2, false), (2, true), (3, false), (3, true)] {
        let situations = situations(members, has_sum, Rule::Right).expect("a torn state");
        assert!(situations > 1000, "{situations} situations of {members} members");
    }
}

#[test]
fn the_model_notices_members_that_do_not_wait_and_readers_that_trust_too_long() {
    for rule in [Rule::Impatient, Rule::Hasty, Rule::Trusting] {
        assert_eq!(situations(2, false, rule), None, "{rule:?}");
    }
}
