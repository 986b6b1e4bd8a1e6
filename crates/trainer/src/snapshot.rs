//! A state that is kept while training goes on: for a checkpoint, or for another worker.
//!
//! Training does not stop for a copy. A state in this process's memory stays where it is, and the next
//! update writes to other memory. A state in shared memory stays unchanged for one more step. During this
//! step the holder of the snapshot can copy the state on its own thread; else the trainer copies it.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use collective::{STATE_VECTORS, StateVectors};
use model::{State, StateView};

/// A state of a replica.
#[derive(Clone)]
pub struct Snapshot(Arc<Kept>);

struct Kept {
    step: u64,
    state: OnceLock<Arc<State>>,
    /// The state in shared memory, until it is copied.
    shared: Mutex<Option<Arc<dyn StateVectors>>>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("step", &self.step()).finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(crate) fn own(state: Arc<State>) -> Self {
        let step = state.step;
        Self(Arc::new(Kept { step, state: state.into(), shared: Mutex::default() }))
    }

    pub(crate) fn shared(step: u64, vectors: Arc<dyn StateVectors>) -> Self {
        let shared = Mutex::new(Some(vectors));
        Self(Arc::new(Kept { step, state: OnceLock::new(), shared }))
    }

    /// Updates that the state has seen.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.0.step
    }

    /// The state. A state in shared memory is copied at the first call.
    pub fn state(&self) -> &Arc<State> {
        let Kept { step, state, shared } = &*self.0;
        state.get_or_init(|| {
            let shared = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
            let shared = shared.expect("taken once, by the one that copies it");
            let [parameters, exp_avg, exp_avg_sq] = shared.vectors();
            Arc::new(StateView { step: *step, parameters, exp_avg, exp_avg_sq }.to_state())
        })
    }

    /// Whether the snapshot has another holder beside the caller.
    pub(crate) fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl StateVectors for Snapshot {
    fn vectors(&self) -> [&[f32]; STATE_VECTORS] {
        self.state().vectors()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn vectors() -> Arc<[Vec<f32>; STATE_VECTORS]> {
        Arc::new([1.0, 2.0, 3.0].map(|value| vec![value; 1000]))
    }

    #[test]
    fn a_state_in_shared_memory_is_copied_once_and_then_released() {
        let shared = vectors();
        let snapshot = Snapshot::shared(7, shared.clone());
        let copies = thread::scope(|scope| {
            let copy = || scope.spawn(|| Arc::as_ptr(snapshot.state()) as usize);
            [copy(), copy(), copy()].map(|copy| copy.join().unwrap())
        });
        assert!(copies.iter().all(|copy| *copy == copies[0]));
        assert_eq!(Arc::strong_count(&shared), 1, "the shared memory can be written to");
        assert_eq!((snapshot.state().step, snapshot.vectors()), (7, shared.vectors()));
    }

    #[test]
    fn a_state_of_this_process_is_not_copied() {
        let [parameters, exp_avg, exp_avg_sq] = Arc::unwrap_or_clone(vectors());
        let state = Arc::new(State { step: 9, parameters, exp_avg, exp_avg_sq });
        let snapshot = Snapshot::own(Arc::clone(&state));
        assert!(Arc::ptr_eq(snapshot.state(), &state) && snapshot.step() == 9);
        assert!(!snapshot.is_wanted());
        let _other = snapshot.clone();
        assert!(snapshot.is_wanted());
    }
}
