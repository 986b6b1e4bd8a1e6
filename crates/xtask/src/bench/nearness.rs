//! Whether two cores were near or far from each other during a measurement, according to the pings
//! before and after it.
//!
//! Does not know how a ping is taken (`ping.rs`), nor what a table looks like.

use super::rounds::Figures;
use super::statistics::Summary;
use super::subject::{Job, Quantity};
use super::table::number;

/// A ping of less than this many nanoseconds means that the cores share a cache. A ping between
/// cores of one complex takes 45 to 65 ns, between cores of two complexes 400 ns and more.
pub(super) const FAR_NANOSECONDS: f64 = 150.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distance {
    Near,
    Far,
}

impl Distance {
    pub(super) const BOTH: [Distance; 2] = [Distance::Near, Distance::Far];

    pub(super) fn name(self) -> &'static str {
        match self {
            Distance::Near => "near",
            Distance::Far => "far",
        }
    }

    fn of(ping: f64) -> Distance {
        if ping < FAR_NANOSECONDS { Distance::Near } else { Distance::Far }
    }
}

/// The distance according to both pings; none if one is unknown, or the cores moved in between.
fn during(before: Option<f64>, after: Option<f64>) -> Option<Distance> {
    let (before, after) = (Distance::of(before?), Distance::of(after?));
    (before == after).then_some(before)
}

/// The distance in each round of a job.
pub(super) fn of_rounds(figures: &Figures, job: Job) -> Vec<Option<Distance>> {
    let before = figures.of((job, Quantity::PingBefore));
    let after = figures.of((job, Quantity::PingAfter));
    before.into_iter().zip(after).map(|(before, after)| during(before, after)).collect()
}

/// The distances that occurred in any job and round.
pub(super) fn occurred(figures: &Figures) -> Vec<Distance> {
    let jobs = figures.jobs();
    let all: Vec<Distance> =
        jobs.iter().flat_map(|job| of_rounds(figures, *job)).flatten().collect();
    Distance::BOTH.into_iter().filter(|distance| all.contains(distance)).collect()
}

/// One sentence about all pings.
pub(super) fn describe(figures: &Figures) -> String {
    let is_ping = |quantity| matches!(quantity, Quantity::PingBefore | Quantity::PingAfter);
    let pings = figures.all().filter(|((_, quantity), _)| is_ping(*quantity));
    let pings: Vec<f64> = pings.flat_map(|(_, values)| values).flatten().collect();
    let Some(Summary { median, low, high }) = Summary::of(pings.iter().copied()) else {
        return "The ping between two cores is not known: it needs two cores, and the right to pin \
                threads to them."
            .to_owned();
    };
    let where_they_were = match occurred(figures)[..] {
        [Distance::Near] => "The cores were near in all measurements".to_owned(),
        [Distance::Far] => "The cores were far in all measurements".to_owned(),
        [] => "The cores moved during every measurement".to_owned(),
        _ => "The cores were near in some measurements and far in others".to_owned(),
    };
    format!(
        "{where_they_were}: a ping between them took {} ns ({} to {}; near is below {}).",
        number(median),
        number(low),
        number(high),
        number(FAR_NANOSECONDS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::subject::Transport;

    const JOB: Job = Job::Exchange(Transport::Shm);

    fn figures(before: &[f64], after: &[f64]) -> Figures {
        let mut figures = Figures::default();
        let values = |pings: &[f64]| pings.iter().copied().map(Some).collect();
        figures.restore((JOB, Quantity::PingBefore), values(before));
        figures.restore((JOB, Quantity::PingAfter), values(after));
        let seconds = before.iter().map(|_| Some(1.0)).collect();
        figures.restore((JOB, Quantity::Seconds), seconds);
        figures
    }

    #[test]
    fn a_round_is_near_or_far_if_both_pings_say_so() {
        for (before, after, expected) in [
            (Some(45.0), Some(149.0), Some(Distance::Near)),
            (Some(150.0), Some(405.0), Some(Distance::Far)),
            (Some(45.0), Some(405.0), None),
            (None, Some(45.0), None),
        ] {
            assert_eq!(during(before, after), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_occurred_is_told() {
        let both = figures(&[50.0, 400.0, 50.0], &[60.0, 410.0, 400.0]);
        assert_eq!(occurred(&both), Distance::BOTH);
        assert!(describe(&both).contains("near in some measurements and far in others"));
        let near = figures(&[50.0, 45.0], &[55.0, 65.0]);
        let expected = "The cores were near in all measurements: a ping between them took 52.5 ns \
                        (45.0 to 65.0; near is below 150).";
        assert_eq!(describe(&near), expected);
        assert!(describe(&figures(&[50.0], &[400.0])).contains("moved during every"));
        assert!(describe(&Figures::default()).contains("not known"));
    }

    #[test]
    fn figures_can_be_taken_of_one_distance_alone() {
        let both = figures(&[50.0, 400.0, 50.0], &[60.0, 410.0, 400.0]);
        let rounds = |distance| both.only(distance).of((JOB, Quantity::Seconds));
        assert_eq!(rounds(Distance::Near), [Some(1.0), None, None]);
        assert_eq!(rounds(Distance::Far), [None, Some(1.0), None]);
    }
}
