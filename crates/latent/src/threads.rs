//! The threads of the program.
//!
//! They form one [`Team`], whose members sleep when idle. libtorch's own threads would spin while they wait
//! for work, which costs minutes on a machine that runs other programs too. So libtorch gets one
//! thread, and long computations are divided into parts here.

use std::{
    sync::{Arc, OnceLock},
    thread,
};

use model::Team;

/// The team of the program, with one thread for each available core.
pub(crate) fn team() -> Arc<Team> {
    static TEAM: OnceLock<Arc<Team>> = OnceLock::new();
    let start = || {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Team::new(cores))
    };
    Arc::clone(TEAM.get_or_init(start))
}

/// Makes libtorch compute on the calling thread only; [`map`] does so on the team's threads.
pub(crate) fn one_for_libtorch() {
    tch::set_num_threads(1);
}

/// Runs `work` on each input, on all threads, and returns the results in the order of the inputs.
pub(crate) fn map<T: Send, R: Send>(inputs: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = inputs.iter().map(|_| None).collect();
    let parts = inputs.into_iter().zip(results.iter_mut());
    team().each(parts, |(input, result)| {
        one_for_libtorch();
        *result = Some(work(input));
    });
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

    /// libtorch's threads would spin; see the module's docs.
    #[test]
    fn libtorch_computes_with_the_thread_that_calls_it() {
        one_for_libtorch();
        assert_eq!(tch::get_num_threads(), 1);
        assert_eq!(map(vec![(); 64], |()| tch::get_num_threads()), [1; 64]);
    }
}
