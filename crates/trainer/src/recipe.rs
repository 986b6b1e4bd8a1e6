//! The learning rate's schedule, and the bound of the gradient's norm. The learning rate is a function of
//! the step alone. It is computed without the C library's functions, which may differ between hosts.

use config::{LearningRateSchedule, Training};
use data::Schedule;
use model::{Isa, Team, norm::sum_of_squares};

/// The stages of the IWAE paper (Burda, Grosse and Salakhutdinov 2016): stage i has 3^i epochs, and its
/// factor of the learning rate is 10^(-i/7).
const IWAE_STAGES: [(u64, f64); 8] = [
    (1, 1.0),
    (3, 0.719_685_673_001_152),
    (9, 0.517_947_467_923_121_2),
    (27, 0.372_759_372_031_494_06),
    (81, 0.268_269_579_527_972_6),
    (243, 0.193_069_772_888_325),
    (729, 0.138_949_549_437_313_77),
    (2187, 0.1),
];

/// Floats that a thread scales at a time.
const PART: usize = 1 << 14;

/// A turn of a full circle, in the units of [`model::math::sin_cos_turn`].
const TURN: f64 = 4_294_967_296.0;

/// The learning rate's schedule, and the bound of the gradient's norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// How the learning rate changes.
    pub learning_rate_schedule: LearningRateSchedule,
    /// The largest norm of the mean gradient; none for no bound.
    pub grad_clip: Option<f64>,
}

impl Recipe {
    /// A constant learning rate, and no bound of the gradient.
    pub const PLAIN: Self =
        Self { learning_rate_schedule: LearningRateSchedule::Constant, grad_clip: None };

    /// The recipe of a run's configuration.
    #[must_use]
    pub const fn of(training: &Training) -> Self {
        Self {
            learning_rate_schedule: training.learning_rate_schedule,
            grad_clip: training.grad_clip,
        }
    }

    /// The factor of the learning rate in the step that follows `step` completed ones, of
    /// `steps` in the run.
    #[must_use]
    pub(crate) fn rate(&self, schedule: &Schedule, step: u64, steps: u64) -> f64 {
        match self.learning_rate_schedule {
            LearningRateSchedule::Constant => 1.0,
            LearningRateSchedule::Iwae => iwae(schedule.locate(step).epoch),
            LearningRateSchedule::Cosine => {
                let half_turn = 0.5 * TURN * (step as f64 / steps.max(1) as f64).min(1.0);
                let (_, cosine) = model::math::sin_cos_turn(half_turn as u32);
                0.5 * (1.0 + f64::from(cosine))
            }
        }
    }

    /// The summed gradient, scaled down if its mean over `examples` is longer than the allowed norm. A
    /// scaled gradient is in `memory`.
    pub(crate) fn clipped<'a>(
        &self,
        sum: &'a [f32],
        examples: u32,
        team: &Team,
        memory: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let Some(allowed) = self.grad_clip else { return sum };
        let norm = sum_of_squares(Isa::best(), team, sum).sqrt() / f64::from(examples);
        // A NaN gradient is left as it is: the loss shows it.
        if norm.is_nan() || norm <= allowed {
            return sum;
        }
        let factor = (allowed / norm) as f32;
        memory.resize(sum.len(), 0.0);
        team.each(memory.chunks_mut(PART).zip(sum.chunks(PART)), |(scaled, part)| {
            scaled.iter_mut().zip(part).for_each(|(scaled, value)| *scaled = value * factor);
        });
        memory
    }
}

/// The factor of the learning rate in an epoch, counted from 0. After the last stage its factor stays.
fn iwae(epoch: u64) -> f64 {
    let mut end = 0;
    let stage = IWAE_STAGES.iter().find(|(epochs, _)| {
        end += epochs;
        epoch < end
    });
    stage.map_or(IWAE_STAGES[IWAE_STAGES.len() - 1].1, |(_, rate)| *rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule::new(0, 100, 2, 5)
    }

    #[test]
    fn the_stages_are_those_of_the_paper() {
        for (stage, (epochs, rate)) in IWAE_STAGES.iter().enumerate() {
            assert_eq!(*epochs, 3_u64.pow(stage as u32));
            assert!((rate - 10.0_f64.powf(-(stage as f64) / 7.0)).abs() < 1e-15, "{stage}");
        }
        assert_eq!(IWAE_STAGES.iter().map(|(epochs, _)| epochs).sum::<u64>(), 3280);
        let at = |epoch| IWAE_STAGES.iter().position(|(_, rate)| *rate == iwae(epoch));
        assert_eq!([0, 1, 3, 4, 1092, 1093, 9999].map(at), [0, 1, 1, 2, 6, 7, 7].map(Some));
        let recipe = Recipe { learning_rate_schedule: LearningRateSchedule::Iwae, ..Recipe::PLAIN };
        assert_eq!(recipe.rate(&schedule(), 9, 50), 1.0);
        assert_eq!(recipe.rate(&schedule(), 10, 50), IWAE_STAGES[1].1);
    }

    #[test]
    fn the_cosine_goes_from_one_to_nothing() {
        let schedule = schedule();
        let cosine = LearningRateSchedule::Cosine;
        let recipe = Recipe { learning_rate_schedule: cosine, ..Recipe::PLAIN };
        for step in 0..=200 {
            let expected = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / 200.0).cos());
            assert!((recipe.rate(&schedule, step, 200) - expected).abs() < 1e-6, "{step}");
        }
        assert_eq!(Recipe::PLAIN.rate(&schedule, 7, 200), 1.0);
    }

    #[test]
    fn a_long_gradient_is_shortened_and_a_short_one_is_not_touched() {
        let recipe = Recipe { grad_clip: Some(1.0), ..Recipe::PLAIN };
        let (team, mut memory) = (Team::new(2), Vec::new());
        // The mean over two images is (3, 4), of length 5.
        let clipped = recipe.clipped(&[6.0, 8.0], 2, &team, &mut memory);
        assert!((clipped[0] - 1.2).abs() < 1e-6 && (clipped[1] - 1.6).abs() < 1e-6, "{clipped:?}");
        let short = [0.6, 0.8];
        assert_eq!(recipe.clipped(&short, 2, &team, &mut Vec::new()), short);
        assert_eq!(Recipe::PLAIN.clipped(&[6.0, 8.0], 2, &team, &mut Vec::new()), [6.0, 8.0]);
        assert!(recipe.clipped(&[f32::NAN], 1, &team, &mut Vec::new())[0].is_nan());
    }
}
