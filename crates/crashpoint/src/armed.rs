//! The crash points of a process that a test has told to fail.

use std::{
    env,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rustix::process::{Signal, getpid, kill_process};

/// The variable with the order of this process, as "NAME TIME ACTION".
const VARIABLE: &str = "LOCKSTEP_CRASH_POINT";

/// The action at a crash point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The process kills itself: no stack is unwound, and no output is flushed.
    Kill,
    /// The thread stops for ever.
    Hang,
    /// The process stops itself until it gets SIGCONT.
    Freeze,
    /// The thread panics.
    Panic,
    /// The operation at this point fails.
    Fail,
    /// The lowest bit of the first float is flipped.
    Flip,
}

/// A crash point, and the action there.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    name: String,
    /// How often the point is reached before the action happens; 1 for the first time.
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

/// Counts that the point was reached. Returns the action that is due now, if there is one.
fn due(name: &str) -> Option<Action> {
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let order = Order::given().filter(|order| order.name == name)?;
    let time = TIMES.fetch_add(1, Ordering::Relaxed) + 1;
    (time == order.time).then_some(order.action)
}

/// Performs the action that is due at this point.
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

/// Whether the operation at this point must fail now.
#[must_use]
pub fn fails(name: &str) -> bool {
    due(name) == Some(Action::Fail)
}

/// Flips a bit of the floats, if that is due at this point.
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
