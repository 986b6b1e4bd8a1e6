//! What happens at the places of a process that was told to come to harm.

use std::{
    env,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rustix::process::{Signal, getpid, kill_process};

/// Says what is to happen where, as "NAME TIME ACTION".
const VARIABLE: &str = "LOCKSTEP_CRASH_POINT";

/// What happens at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The process kills itself: nothing is unwound, nothing flushed.
    Kill,
    /// The thread stands still for ever.
    Hang,
    /// The process stops itself, until somebody has it continue.
    Freeze,
    /// The thread panics.
    Panic,
    /// What is done there fails.
    Fail,
    /// The lowest bit of the first float is another.
    Flip,
}

/// The place where something is to happen, and what.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    name: String,
    /// The first time is 1.
    time: u64,
    action: Action,
}

impl Order {
    fn parse(text: &str) -> Option<Self> {
        let [name, time, action] = text.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let action = match action {
            "kill" => Action::Kill,
            "hang" => Action::Hang,
            "freeze" => Action::Freeze,
            "panic" => Action::Panic,
            "fail" => Action::Fail,
            "flip" => Action::Flip,
            _ => return None,
        };
        Some(Self { name: name.to_owned(), time: time.parse().ok()?, action })
    }

    /// The order of this process, if it has one.
    fn given() -> Option<&'static Self> {
        static ORDER: OnceLock<Option<Order>> = OnceLock::new();
        let read = || {
            let text = env::var(VARIABLE).ok()?;
            Some(Self::parse(&text).unwrap_or_else(|| panic!("{VARIABLE}={text:?} is no order")))
        };
        ORDER.get_or_init(read).as_ref()
    }
}

/// What is to happen now that the place was reached.
fn due(name: &str) -> Option<Action> {
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let order = Order::given().filter(|order| order.name == name)?;
    let time = TIMES.fetch_add(1, Ordering::Relaxed) + 1;
    (time == order.time).then_some(order.action)
}

/// Does what is to be done at the place.
pub fn reach(name: &str) {
    match due(name) {
        None => {}
        Some(Action::Kill) => {
            let _dead = kill_process(getpid(), Signal::KILL);
            stand_still();
        }
        Some(Action::Hang) => stand_still(),
        Some(Action::Freeze) => {
            let _woken = kill_process(getpid(), Signal::STOP);
        }
        Some(Action::Panic) => panic!("a panic that a test asked for at {name}"),
        Some(Action::Flip | Action::Fail) => panic!("nothing flips or fails at {name}"),
    }
}

/// Whether what is done at the place is to fail.
#[must_use]
pub fn fails(name: &str) -> bool {
    due(name) == Some(Action::Fail)
}

/// Flips a bit at the place, if that is to be done.
pub fn flip(name: &str, floats: &mut [f32]) {
    if due(name) == Some(Action::Flip)
        && let Some(first) = floats.first_mut()
    {
        *first = f32::from_bits(first.to_bits() ^ 1);
    }
}

fn stand_still() -> ! {
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let order = Order { name: "a.b".into(), time: 3, action: Action::Kill };
        assert_eq!(Order::parse("a.b 3 kill"), Some(order));
        for wrong in ["", "a", "a 3", "a x kill", "a 3 dance", "a 3 kill again"] {
            assert_eq!(Order::parse(wrong), None, "{wrong}");
        }
    }
}
