//! All orders in which members can go on, give up, die, sleep and wake, tried on a model of the
//! shared state: the arrivals, two buffers, and where each member is.
//!
//! Every operation of a member is a step of the model, and every set of members can be the one that
//! goes on next; a member that never does is dead, one that does later was frozen. In every situation
//! that can be reached, each member's state must be whole. What the barrier itself does is not
//! modelled: a member leaves it once all have arrived, or gives up before.
//!
//! Besides the members there may be a reader that is no member (`takeover.rs`): it copies a state, one
//! segment in each of its steps, and takes the copy for whole or not.

use std::collections::HashSet;

/// Steps until a member has done enough.
const STEPS: u8 = 3;

/// A segment that is being written.
const TORN: u8 = u8::MAX;

/// A segment that was never written.
const EMPTY: u8 = u8::MAX - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Before the state is brought in, and at the barrier after that.
    Fill,
    Filled,
    /// Before this member contributes, and at the barrier after that.
    Contribute,
    Contributed,
    /// With other hosts: before it has written its part of the sum, and at the barrier after that.
    Sum,
    Summed,
    /// Before it writes its segment, while it does, and at the barrier after that.
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
    /// The step of the state that it has in the segment; none before one was brought in.
    holds: Option<u8>,
}

/// One that copies the state of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reader {
    step: u8,
    /// Segments that it has copied, and whether all of them were of the step.
    copied: u8,
    is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    members: Vec<Member>,
    /// By buffer and member: the step that the segment is of.
    segments: [Vec<u8>; 2],
    reader: Option<Reader>,
    /// Whether there are other hosts, and so a sum.
    has_sum: bool,
}

/// How members behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Right,
    /// They write the next state without waiting for the others' contributions.
    Impatient,
    /// They take the next state for theirs without waiting for the others' segments.
    Hasty,
    /// A reader takes a copy for whole although all have arrived once too often.
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

    /// Whether the states that members have are whole, and the copy that a reader has made, if it
    /// takes it for whole.
    fn is_sound(&self, rule: Rule) -> bool {
        let is_copied = |reader: &Reader| usize::from(reader.copied) == self.members.len();
        let is_taken = |reader: &Reader| {
            // State 0 is there after the first arrival, and each step has two, or three.
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

    /// What can be next if the reader goes on: it begins with any member's state.
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

    /// What can be next if the member `me` goes on.
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

/// How many situations can be reached; none if one of them is unsound.
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
