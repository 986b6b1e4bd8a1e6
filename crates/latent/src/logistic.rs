//! Multinomial logistic regression. It measures how well a linear classifier can use some features.
//!
//! L-BFGS (Liu and Nocedal 1989) minimises the mean cross-entropy plus 1/(2 n) of the squared
//! weights, which is scikit-learn's default. The objective is convex, so nothing depends on a
//! seed.

use std::collections::VecDeque;

use tch::{Device, Kind, Tensor};

use crate::{pca::floats, threads};

/// Pairs of steps and gradient changes that determine the next direction.
const HISTORY: usize = 10;
const STEPS_MAX: usize = 200;
/// The fit ends when no component of the gradient is larger.
const TOLERANCE: f64 = 1e-5;
/// How often a step is halved before the line search gives up.
const HALVINGS_MAX: usize = 20;
/// Rows that a thread processes at a time. The sums of the parts are added in order, so the result
/// does not depend on the number of threads.
const ROWS: i64 = 2048;
/// A step must gain this share of the gain that the slope predicts (Armijo).
const SUFFICIENT: f64 = 1e-4;
/// The relative rounding error of the loss. A smaller gain is judged by the slope at the end of
/// the step (Hager and Zhang 2005, the approximate Wolfe condition).
const ROUNDING: f64 = 1e-6;

/// A trained classifier.
#[derive(Debug)]
pub(crate) struct Logistic {
    /// `[classes, dim + 1]`, the bias last.
    weights: Tensor,
}

/// Features with their labels, split into parts of some rows each, that define a loss.
struct Problem {
    parts: Vec<Part>,
    count: f64,
    dim: i64,
    classes: i64,
}

/// Some rows of features, their labels, and the labels in one-hot form.
struct Part {
    x: Tensor,
    labels: Tensor,
    one_hot: Tensor,
}

impl Logistic {
    /// Fits features `[n, dim]` to labels `[n]`, which are below the number of classes.
    pub(crate) fn fit(x: &Tensor, labels: &Tensor, classes: usize) -> Self {
        let problem = Problem::new(x, labels, classes as i64);
        let Problem { dim, classes, .. } = problem;
        let mut weights = Tensor::zeros([classes, dim + 1], (Kind::Float, Device::Cpu));
        let (mut loss, mut gradient) = problem.loss(&weights);
        let mut history = VecDeque::new();
        for _ in 0..STEPS_MAX {
            if gradient.abs().max().double_value(&[]) < TOLERANCE {
                break;
            }
            let direction = direction(&gradient, &history);
            let slope = dot(&gradient, &direction);
            let mut length = 1.0;
            let found = (0..HALVINGS_MAX).find_map(|_| {
                let there = &weights + &direction * length;
                let (lower, steeper) = problem.loss(&there);
                let gained = lower <= loss + SUFFICIENT * length * slope;
                let flatter = || dot(&steeper, &direction) <= (2.0 * SUFFICIENT - 1.0) * slope;
                let enough = gained || (lower <= loss + ROUNDING * loss.abs() && flatter());
                length *= 0.5;
                enough.then_some((there, lower, steeper))
            });
            let Some((there, lower, next)) = found else { break };
            let (step, change) = (&there - &weights, &next - &gradient);
            if dot(&step, &change) > 0.0 {
                history.push_back((step, change));
                if history.len() > HISTORY {
                    history.pop_front();
                }
            }
            (weights, loss, gradient) = (there, lower, next);
        }
        Self { weights }
    }

    /// The class of each row of features.
    pub(crate) fn classes(&self, x: &Tensor) -> Vec<i64> {
        floats(&logits(x, &self.weights).argmax(1, false))
    }

    /// The share of wrong classes.
    pub(crate) fn error(&self, x: &Tensor, labels: &Tensor) -> f64 {
        let labels: Vec<i64> = floats(labels);
        let wrong = self.classes(x).iter().zip(&labels).filter(|(a, b)| a != b).count();
        wrong as f64 / labels.len().max(1) as f64
    }
}

impl Problem {
    fn new(x: &Tensor, labels: &Tensor, classes: i64) -> Self {
        let (count, dim) = (x.size()[0], x.size()[1]);
        let part = |start: i64| {
            let rows = |tensor: &Tensor| tensor.narrow(0, start, ROWS.min(count - start));
            let labels = rows(labels);
            Part { x: rows(x), one_hot: labels.one_hot(classes).to_kind(Kind::Float), labels }
        };
        let parts = (0..count).step_by(ROWS as usize).map(part).collect();
        Self { parts, count: count as f64, dim, classes }
    }

    fn loss(&self, weights: &Tensor) -> (f64, Tensor) {
        let penalty = 1.0 / self.count;
        let slopes = weights.narrow(1, 0, self.dim);
        let part = |part: &Part| {
            (
                part.x.shallow_clone(),
                part.labels.shallow_clone(),
                part.one_hot.shallow_clone(),
                weights.shallow_clone(),
            )
        };
        let sums =
            threads::map(self.parts.iter().map(part).collect(), |(x, labels, one_hot, weights)| {
                let log = logits(&x, &weights).log_softmax(1, Kind::Float);
                let right = log.gather(1, &labels.unsqueeze(1), false);
                let error = log.exp() - one_hot;
                let bias = error.sum_dim_intlist(0, true, Kind::Float).tr();
                let gradient = Tensor::cat(&[error.tr().matmul(&x), bias], 1);
                (right.sum(Kind::Double).double_value(&[]), gradient)
            });
        let right: f64 = sums.iter().map(|(right, _)| right).sum();
        let mut gradient = weights * penalty;
        let _no_penalty = gradient.select(1, self.dim).zero_();
        for (_, sum) in sums {
            gradient += sum / self.count;
        }
        (0.5 * penalty * dot(&slopes, &slopes) - right / self.count, gradient)
    }
}

fn logits(x: &Tensor, weights: &Tensor) -> Tensor {
    let dim = x.size()[1];
    x.matmul(&weights.narrow(1, 0, dim).tr()) + weights.select(1, dim)
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    (a * b).sum(Kind::Double).double_value(&[])
}

/// Minus the approximate inverse Hessian times the gradient, by the two-loop recursion over the
/// history.
fn direction(gradient: &Tensor, history: &VecDeque<(Tensor, Tensor)>) -> Tensor {
    let mut q = gradient.copy();
    let mut parts = Vec::new();
    for (step, change) in history.iter().rev() {
        let part = dot(step, &q) / dot(step, change);
        q -= change * part;
        parts.push(part);
    }
    let scale = match history.back() {
        Some((step, change)) => dot(step, change) / dot(change, change),
        None => 1.0,
    };
    q *= scale;
    for ((step, change), part) in history.iter().zip(parts.into_iter().rev()) {
        q += step * (part - dot(change, &q) / dot(step, change));
    }
    -q
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes on a line: the minimum solves an equation in two unknowns.
    #[test]
    fn the_gradient_is_zero_at_the_end_and_the_classes_are_right() {
        let x = Tensor::from_slice(&[-2.0_f32, -1.0, -0.5, 0.4, 1.0, 3.0]).view([6, 1]);
        let labels = Tensor::from_slice(&[4_i64, 4, 4, 7, 7, 7]);
        let logistic = Logistic::fit(&x, &labels, 10);
        assert_eq!(logistic.classes(&x), [4, 4, 4, 7, 7, 7]);
        assert_eq!(logistic.error(&x, &labels.flip([0])), 1.0);

        let weights = logistic.weights.copy().set_requires_grad(true);
        let slopes = weights.narrow(1, 0, 1);
        let cross_entropy = logits(&x, &weights).cross_entropy_for_logits(&labels);
        let loss = cross_entropy + slopes.square().sum(Kind::Float) / 12.0;
        loss.backward();
        let largest = weights.grad().abs().max().double_value(&[]);
        assert!(largest < 2.0 * TOLERANCE, "{largest}");
    }
}
