//! Adam on flat vectors, as `torch.optim.Adam` computes it.
//!
//! Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. It knows
//! neither tensors nor members. Every member runs it on the same vectors and gets the same bits.

use crate::{Isa, State, StateView, Team, kernel};

/// Parameters that a thread updates at a time; with the moments and the gradient they take 256 KB.
const PART: usize = 1 << 14;

const LENGTHS: &str = "the state's vectors and the gradient differ in length";

/// The optimizer's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean of the gradient.
    pub beta1: f64,
    /// Decay of the mean of the squared gradient.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
}

impl Adam {
    /// PyTorch's defaults, except for the learning rate.
    #[must_use]
    pub const fn new(learning_rate: f64) -> Self {
        Self { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// Applies the mean gradient `gradient_sum / images` and counts the step.
    ///
    /// # Panics
    ///
    /// If a vector's length differs from the gradient's, or `images` is zero.
    pub fn apply(&self, state: &mut State, gradient_sum: &[f32], images: u32) {
        self.apply_with(Isa::best(), &Team::default(), state, gradient_sum, images);
    }

    /// [`Adam::apply`] with a chosen instruction set and several threads. The bits are the same for every
    /// choice.
    ///
    /// # Panics
    ///
    /// As [`Adam::apply`].
    pub fn apply_with(
        &self,
        isa: Isa,
        team: &Team,
        state: &mut State,
        gradient_sum: &[f32],
        images: u32,
    ) {
        let len = gradient_sum.len();
        assert!(state.view().vectors().iter().all(|vector| vector.len() == len), "{LENGTHS}");
        state.step += 1;
        let update = self.update(isa, state.step, images);
        let State { parameters: p, exp_avg: m, exp_avg_sq: v, .. } = state;
        let parts = p.chunks_mut(PART).zip(m.chunks_mut(PART)).zip(v.chunks_mut(PART));
        team.each(parts.zip(gradient_sum.chunks(PART)), |(((p, m), v), sum)| {
            update.apply([p, m, v], sum);
        });
    }

    /// [`Adam::apply_with`], but the updated state is written to `next`, and the old state is not
    /// changed.
    ///
    /// # Panics
    ///
    /// As [`Adam::apply`].
    pub fn apply_beside(
        &self,
        isa: Isa,
        team: &Team,
        state: StateView<'_>,
        next: &mut State,
        gradient_sum: &[f32],
        images: u32,
    ) {
        let len = gradient_sum.len();
        let vectors = state.vectors().into_iter().chain(next.view().vectors());
        assert!(vectors.map(<[f32]>::len).all(|found| found == len), "{LENGTHS}");
        next.step = state.step + 1;
        let update = self.update(isa, next.step, images);
        let [p, m, v] = state.vectors().map(|vector| vector.chunks(PART));
        let State { parameters, exp_avg, exp_avg_sq, .. } = next;
        let next = parameters.chunks_mut(PART).zip(exp_avg.chunks_mut(PART));
        let next = next.zip(exp_avg_sq.chunks_mut(PART));
        let parts = p.zip(m).zip(v).zip(next).zip(gradient_sum.chunks(PART));
        team.each(parts, |((((p, m), v), ((next_p, next_m), next_v)), sum)| {
            update.apply_beside([p, m, v], [next_p, next_m, next_v], sum);
        });
    }

    /// The update of a state after `step` updates, by the mean over `images` images.
    ///
    /// # Panics
    ///
    /// If `images` is zero.
    #[must_use]
    pub fn update(&self, isa: Isa, step: u64, images: u32) -> Update {
        assert!(images > 0, "a mean over no images");
        Update { isa, factors: self.factors(step), images }
    }

    /// The factors that all elements share in step `step`, counted from 1.
    ///
    /// lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps), with numerator and
    /// denominator multiplied by the root of 1 - beta2^t.
    fn factors(&self, step: u64) -> Factors {
        let correction1 = 1.0 - power(self.beta1, step);
        let correction2 = (1.0 - power(self.beta2, step)).sqrt();
        Factors {
            beta2: self.beta2 as f32,
            rest1: (1.0 - self.beta1) as f32,
            rest2: (1.0 - self.beta2) as f32,
            step_size: (self.learning_rate / correction1 * correction2) as f32,
            epsilon: (self.epsilon * correction2) as f32,
        }
    }
}

/// One update. It may be applied to the vectors in parts, each part once.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    isa: Isa,
    factors: Factors,
    images: u32,
}

/// Slices of parameters, first moments and second moments with the same indices.
type Old<'a> = [&'a [f32]; 3];
type New<'a> = [&'a mut [f32]; 3];

impl Update {
    /// Updates parameters and moments in place; `sum` is the summed gradient of the same indices.
    pub fn apply(&self, [p, m, v]: New<'_>, sum: &[f32]) {
        let Self { isa, factors, images } = *self;
        match exact_reciprocal(images) {
            Some(by) => multiply(isa, factors, by, p, m, v, sum),
            None => divide(isa, factors, images as f32, p, m, v, sum),
        }
    }

    /// The numbers for the kernel on a GPU: beta2, 1 - beta1, 1 - beta2, the step size, epsilon, images, and
    /// the reciprocal of images, or zero if the reciprocal is not exact.
    #[must_use]
    pub fn numbers(&self) -> [f32; 7] {
        let Factors { beta2, rest1, rest2, step_size, epsilon } = self.factors;
        let reciprocal = exact_reciprocal(self.images).unwrap_or_default();
        [beta2, rest1, rest2, step_size, epsilon, self.images as f32, reciprocal]
    }

    /// Writes the updated parameters and moments to other memory than the old ones.
    pub fn apply_beside(&self, old: Old<'_>, [p, m, v]: New<'_>, sum: &[f32]) {
        let Self { isa, factors, images } = *self;
        match exact_reciprocal(images) {
            Some(by) => multiply_beside(isa, factors, by, old, p, m, v, sum),
            None => divide_beside(isa, factors, images as f32, old, p, m, v, sum),
        }
    }
}

/// The reciprocal of a power of two is exact, so multiplying by it gives the same bits as a division.
fn exact_reciprocal(images: u32) -> Option<f32> {
    images.is_power_of_two().then(|| 1.0 / images as f32)
}

#[derive(Clone, Copy, Debug)]
struct Factors {
    beta2: f32,
    rest1: f32,
    rest2: f32,
    step_size: f32,
    epsilon: f32,
}

/// `base^exponent` by squaring. The C library's `pow` may differ between hosts.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// Parameter, mean and square after an update.
///
/// All loads come before the first store: the vectors often have equal offsets in their
/// pages, so the CPU would assume that a later load depends on an earlier store.
#[inline(always)]
fn updated(f: Factors, p: f32, m: f32, v: f32, g: f32) -> (f32, f32, f32) {
    let mean = normal((g - m).mul_add(f.rest1, m));
    let square = normal((g * f.rest2).mul_add(g, v * f.beta2));
    (p - f.step_size * mean / (square.sqrt() + f.epsilon), mean, square)
}

/// Zero instead of a subnormal number. CPUs are many times slower with subnormal numbers. A mean whose gradients have
/// become zero would stay subnormal for ever: 0.9 of the smallest number rounds to itself.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

kernel! {
    fn multiply(f: Factors, by: f32, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
            (*p, *m, *v) = updated(f, *p, *m, *v, g * by);
        }
    }
}

kernel! {
    fn divide(f: Factors, by: f32, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
            (*p, *m, *v) = updated(f, *p, *m, *v, g / by);
        }
    }
}

kernel! {
    fn multiply_beside(
        f: Factors, by: f32, old: Old<'_>, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32],
    ) {
        let new = p.iter_mut().zip(m).zip(v);
        let old = old[0].iter().zip(old[1]).zip(old[2]);
        for ((((p, m), v), ((old_p, old_m), old_v)), &g) in new.zip(old).zip(g) {
            (*p, *m, *v) = updated(f, *old_p, *old_m, *old_v, g * by);
        }
    }
}

kernel! {
    fn divide_beside(
        f: Factors, by: f32, old: Old<'_>, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32],
    ) {
        let new = p.iter_mut().zip(m).zip(v);
        let old = old[0].iter().zip(old[1]).zip(old[2]);
        for ((((p, m), v), ((old_p, old_m), old_v)), &g) in new.zip(old).zip(g) {
            (*p, *m, *v) = updated(f, *old_p, *old_m, *old_v, g / by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(len: usize) -> State {
        State {
            step: 0,
            parameters: (0..len).map(|i| (i as f32 * 0.37).sin()).collect(),
            exp_avg: vec![0.0; len],
            exp_avg_sq: vec![0.0; len],
        }
    }

    fn gradient(len: usize, step: u64) -> Vec<f32> {
        (0..len).map(|i| 30.0 * (i as f32 * 1.7 + step as f32).cos()).collect()
    }

    /// Algorithm 1 in f64, from the paper.
    fn reference(adam: &Adam, len: usize, steps: u64, images: u32) -> Vec<f64> {
        let mut p: Vec<f64> = state(len).parameters.iter().map(|&p| f64::from(p)).collect();
        let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
        for step in 1..=steps {
            for (i, g) in gradient(len, step).into_iter().enumerate() {
                let g = f64::from(g) / f64::from(images);
                m[i] = adam.beta1 * m[i] + (1.0 - adam.beta1) * g;
                v[i] = adam.beta2 * v[i] + (1.0 - adam.beta2) * g * g;
                let m_hat = m[i] / (1.0 - adam.beta1.powf(step as f64));
                let v_hat: f64 = v[i] / (1.0 - adam.beta2.powf(step as f64));
                p[i] -= adam.learning_rate * m_hat / (v_hat.sqrt() + adam.epsilon);
            }
        }
        p
    }

    #[test]
    fn it_follows_the_paper() {
        let adam = Adam::new(1e-3);
        for images in [1, 6, 64, 100] {
            let mut state = state(1003);
            for step in 1..=20 {
                adam.apply(&mut state, &gradient(1003, step), images);
            }
            assert_eq!(state.step, 20);
            for (i, (p, r)) in
                state.parameters.iter().zip(reference(&adam, 1003, 20, images)).enumerate()
            {
                assert!((f64::from(*p) - r).abs() < 1e-6, "{i}: {p} is not {r}");
            }
        }
    }

    #[test]
    fn all_instruction_sets_and_teams_give_the_same_bits() {
        const LEN: usize = 3 * PART + 3;
        let adam = Adam::new(3e-4);
        for images in [64, 96] {
            let teams = [1, 2, 3].map(Team::new);
            let variants = teams
                .iter()
                .flat_map(|team| Isa::available().into_iter().map(move |isa| (isa, team)));
            let digests: Vec<_> = variants
                .map(|(isa, team)| {
                    let mut state = state(LEN);
                    for step in 1..=5 {
                        adam.apply_with(isa, team, &mut state, &gradient(LEN, step), images);
                    }
                    state.digest(team)
                })
                .collect();
            assert!(digests.iter().all(|digest| *digest == digests[0]));
        }
    }

    #[test]
    fn an_update_beside_the_state_gives_the_same_bits() {
        const LEN: usize = 2 * PART + 5;
        let (adam, team) = (Adam::new(3e-4), Team::new(2));
        for images in [64, 96] {
            let (mut state, mut next) = (state(LEN), State::zeros(LEN));
            for step in 1..=4 {
                let before = state.clone();
                let sum = gradient(LEN, step);
                adam.apply_beside(Isa::best(), &team, state.view(), &mut next, &sum, images);
                assert_eq!(state, before);
                adam.apply(&mut state, &sum, images);
                assert_eq!(next, state);
            }
        }
    }

    #[test]
    fn a_parameter_that_has_never_had_a_gradient_stays() {
        let mut state = state(32);
        state.parameters[5] = 0.0;
        Adam::new(0.1).apply(&mut state, &[0.0; 32], 3);
        assert_eq!(state.parameters[5].to_bits(), 0.0_f32.to_bits());
    }

    #[test]
    fn moments_without_a_gradient_come_to_nothing() {
        let (mut state, adam) = (state(32), Adam::new(0.1));
        state.exp_avg.fill(-2.0 * f32::MIN_POSITIVE);
        state.exp_avg_sq.fill(f32::MIN_POSITIVE);
        adam.apply(&mut state, &[0.0; 32], 3);
        assert!(state.exp_avg.iter().all(|m| *m < 0.0 && m.is_normal()));
        assert!(state.exp_avg_sq.iter().all(|v| v.to_bits() == 0));
        for _ in 0..10 {
            adam.apply(&mut state, &[0.0; 32], 3);
        }
        assert!(state.exp_avg.iter().all(|m| m.to_bits() == 0));
        state.exp_avg.fill(f32::NAN);
        adam.apply(&mut state, &[0.0; 32], 3);
        assert!(state.exp_avg.iter().all(|m| m.is_nan()), "a run that diverges must show it");
    }

    #[test]
    fn powers() {
        for exponent in [0, 1, 2, 3, 10, 1000, 1_000_000] {
            let expected = 0.999_f64.powf(exponent as f64);
            assert!((power(0.999, exponent) - expected).abs() <= 1e-12 * expected.max(1e-300));
        }
        assert!(power(0.9, u64::MAX).abs() < 1e-300);
    }
}
