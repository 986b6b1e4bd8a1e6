//! The threads that the program computes with.
//!
//! They are one [`Team`], whose members sleep when there is nothing to do. libtorch's own threads
//! would look for work all the time, which costs minutes on a machine that has other things to do,
//! so libtorch gets one thread, and whatever takes long is cut into parts here.

use std::{
    sync::{Arc, OnceLock},
    thread,
};

use model::Team;

/// The team of the program, with a thread for each core that it may use.
pub(crate) fn team() -> Arc<Team> {
    static TEAM: OnceLock<Arc<Team>> = OnceLock::new();
    let start = || {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Team::new(cores))
    };
    Arc::clone(TEAM.get_or_init(start))
}

/// Has libtorch compute with the calling thread alone; the team's threads do so already.
pub(crate) fn one_for_libtorch() {
    tch::set_num_threads(1);
}

/// Does `work` on each of the inputs, on all threads, and gives the results in their order.
pub(crate) fn map<T: Send, R: Send>(inputs: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = inputs.iter().map(|_| None).collect();
    let parts = inputs.into_iter().zip(results.iter_mut());
    team().each(parts, |(input, result)| *result = Some(work(input)));
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_order_of_their_inputs() {
        let squares = map((0..1000_u64).collect(), |x| x * x);
        assert!(squares.into_iter().zip(0..).all(|(square, x)| square == x * x));
    }

    /// libtorch's threads would spin; see the top of this file.
    #[test]
    fn libtorch_computes_with_the_thread_that_calls_it() {
        one_for_libtorch();
        assert_eq!(tch::get_num_threads(), 1);
        assert_eq!(map(vec![(); 64], |()| tch::get_num_threads()), [1; 64]);
    }
}
