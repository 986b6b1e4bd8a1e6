//! Finds the ink on a picture: how much darker, or lighter, each place is than the paper would be there.
//!
//! The paper is a plain level or, if light falls from one side, a quadratic surface. The surface is fitted
//! to all pixels by least absolute deviations. The ink covers less than half of the picture, so it
//! does not bend the surface. The difference is divided by the light at its place; a soft threshold
//! removes noise, and parts that are too small are removed as dust.

use tch::{Kind, Tensor};

use super::{
    CONTRAST_MIN,
    grey::{Grey, quantile},
};

/// The approximate number of pixels that the surface is fitted to.
const SAMPLES: usize = 10_000;
/// Coefficients of the surface: 1, x, y, x x, x y, y y.
const TERMS: usize = 6;
/// Rounds of reweighted least squares.
const ROUNDS: usize = 40;
/// Smaller deviations get the weight of this one.
const DEVIATION_MIN: f64 = 2e-3;
/// Keeps the equations solvable for pictures with few pixels.
const RIDGE: f64 = 1e-9;
/// Levels within this distance of the border's level are the same paper.
const SAME_PAPER: f32 = 0.02;
/// A picture is on plain paper if at least this share of it has the border's level.
const PLAIN_SHARE: f64 = 0.5;
/// Ink below this share of its usual strength counts as the edge of a stroke.
const FAINT: f32 = 0.1;
/// Deviations up to this number of standard deviations are cut off as noise.
const NOISE: f32 = 4.0;
/// The lower quartile of the absolute deviations of normal noise, in standard deviations. The ink may cover
/// half of a picture, so the median would include ink.
const QUARTILE_OF_NORMAL: f32 = 0.3186;
/// A connected part of the ink is dust if its mass is below this share of the largest part's mass.
const DUST: f32 = 0.05;
/// A picture is empty if the mass of its largest part is below this share of its pixels.
const SHARE_MIN: f64 = 5e-5;
/// The least light that is assumed, so that shadows do not become ink.
const LIGHT_MIN: f32 = 0.1;

/// The ink, from 0 to 1; `None` if the picture is empty.
pub(super) fn of(picture: &Grey) -> Option<Grey> {
    let paper = paper(picture);
    let rest = |at: usize| picture.pixels[at] - paper[at];
    let all = 0..picture.pixels.len();
    let noise = quantile(all.clone().map(|at| rest(at).abs()).collect(), 0.25) / QUARTILE_OF_NORMAL;
    let threshold = (NOISE * noise).max(CONTRAST_MIN / 2.0);
    let mass = |sign: f32| -> f64 {
        all.clone().map(|at| f64::from((sign * rest(at) - threshold).max(0.0))).sum()
    };
    let is_dark = mass(-1.0) >= mass(1.0);
    // The share of the light that dark ink absorbs, or of the missing light that light ink adds.
    let strength = |at: usize| match is_dark {
        true => -rest(at) / paper[at].max(LIGHT_MIN),
        false => rest(at) / (1.0 - paper[at]).max(LIGHT_MIN),
    };
    let mut levels: Vec<f32> = all.clone().map(strength).collect();
    let inked: Vec<f32> = all
        .filter(|at| rest(*at).abs() > threshold)
        .map(|at| levels[at])
        .filter(|level| *level > CONTRAST_MIN)
        .collect();
    // The median, so that the edges of strokes do not matter.
    let usual = quantile(inked, 0.5);
    if usual < CONTRAST_MIN {
        return None;
    }
    let noise_cut = NOISE * noise;
    let faint = (FAINT * usual).max(noise_cut.min(usual / 2.0));
    for level in &mut levels {
        *level = ((*level - faint) / (usual - faint)).clamp(0.0, 1.0);
    }
    let mut ink = Grey { pixels: levels, ..*picture };
    dusted(&mut ink).then_some(ink)
}

/// The level of the paper at every pixel.
fn paper(picture: &Grey) -> Vec<f32> {
    let border = picture.border_median();
    let same = |level: &&f32| (**level - border).abs() <= SAME_PAPER;
    let share = picture.pixels.iter().filter(same).count() as f64 / picture.pixels.len() as f64;
    if share >= PLAIN_SHARE {
        return vec![border; picture.pixels.len()];
    }
    let Grey { width, height, .. } = *picture;
    let terms = |x: usize, y: usize| {
        let scaled = |at: usize, len: usize| 2.0 * (at as f64 + 0.5) / len as f64 - 1.0;
        let (x, y) = (scaled(x, width), scaled(y, height));
        [1.0, x, y, x * x, x * y, y * y]
    };
    let step = (picture.pixels.len() / SAMPLES).isqrt().max(1);
    let places =
        (0..height).step_by(step).flat_map(|y| (0..width).step_by(step).map(move |x| (x, y)));
    let (mut rows, mut levels) = (Vec::new(), Vec::new());
    for (x, y) in places {
        rows.extend(terms(x, y));
        levels.push(f64::from(picture.at(x, y)));
    }
    let coefficients = least_absolute(&rows, &levels);
    let level = |x: usize, y: usize| -> f32 {
        let sum: f64 = terms(x, y).iter().zip(&coefficients).map(|(a, b)| a * b).sum();
        sum as f32
    };
    (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| level(x, y)).collect()
}

/// The coefficients that make the sum of absolute deviations least, by iteratively reweighted
/// least squares (Schlossmacher 1973).
fn least_absolute(rows: &[f64], levels: &[f64]) -> Vec<f64> {
    let a = Tensor::from_slice(rows).view([-1, TERMS as i64]);
    let b = Tensor::from_slice(levels).view([-1, 1]);
    let ridge = Tensor::eye(TERMS as i64, (Kind::Double, tch::Device::Cpu)) * RIDGE;
    let mut weights = b.ones_like();
    let mut x = Tensor::zeros([TERMS as i64, 1], (Kind::Double, tch::Device::Cpu));
    for _ in 0..ROUNDS {
        let weighted = (&a * &weights).tr();
        let normal = weighted.matmul(&a) + &ridge * weights.sum(Kind::Double);
        x = Tensor::linalg_solve(&normal, &weighted.matmul(&b), true);
        weights = (a.matmul(&x) - &b).abs().clamp_min(DEVIATION_MIN).reciprocal();
    }
    crate::pca::floats(&x.view([-1]))
}

/// Clears the parts of the ink that are too small to belong to a digit. Returns false if no part is large enough.
fn dusted(ink: &mut Grey) -> bool {
    let parts = parts(ink);
    let mass = |part: &Vec<usize>| part.iter().map(|at| ink.pixels[*at]).sum::<f32>();
    let masses: Vec<f32> = parts.iter().map(mass).collect();
    let largest = masses.iter().copied().fold(0.0, f32::max);
    if f64::from(largest) < (SHARE_MIN * ink.pixels.len() as f64).max(1.0) {
        return false;
    }
    for (part, _) in parts.iter().zip(&masses).filter(|(_, mass)| **mass < DUST * largest) {
        part.iter().for_each(|at| ink.pixels[*at] = 0.0);
    }
    true
}

/// The pixels of each connected part; pixels that touch at corners are connected.
fn parts(ink: &Grey) -> Vec<Vec<usize>> {
    let mut seen: Vec<bool> = ink.pixels.iter().map(|level| *level <= 0.0).collect();
    let mut parts = Vec::new();
    for start in 0..seen.len() {
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        let mut part = vec![start];
        let mut next = 0;
        while let Some(at) = part.get(next).copied() {
            next += 1;
            let (x, y) = (at % ink.width, at / ink.width);
            for y in y.saturating_sub(1)..=(y + 1).min(ink.height - 1) {
                for x in x.saturating_sub(1)..=(x + 1).min(ink.width - 1) {
                    let neighbour = y * ink.width + x;
                    if !std::mem::replace(&mut seen[neighbour], true) {
                        part.push(neighbour);
                    }
                }
            }
        }
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surface_is_found_below_the_ink() {
        let (width, height) = (120, 90);
        let lit = |x: usize, y: usize| {
            let (x, y) = (x as f32 / 120.0, y as f32 / 90.0);
            0.9 - 0.4 * x - 0.2 * x * y + 0.1 * y * y
        };
        let level = |x: usize, y: usize| {
            let inked = (30..60).contains(&x) && (10..80).contains(&y);
            if inked { 0.3 * lit(x, y) } else { lit(x, y) }
        };
        let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels: Vec<f32> = places().map(|(x, y)| level(x, y)).collect();
        let picture = Grey { width, height, pixels };
        for (found, (x, y)) in paper(&picture).into_iter().zip(places()) {
            assert!((found - lit(x, y)).abs() < 0.01, "{found} at {x} {y}");
        }
        // All ink takes the same share of its light, so all of it is equally dark.
        let ink = of(&picture).unwrap();
        for (level, (x, y)) in ink.pixels.iter().zip(places()) {
            let inked = (30..60).contains(&x) && (10..80).contains(&y);
            assert!((level - f32::from(u8::from(inked))).abs() < 0.05, "{level} at {x} {y}");
        }
    }

    #[test]
    fn parts_touch_at_corners_too() {
        let pixels = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5];
        let found = parts(&Grey { width: 3, height: 4, pixels });
        assert_eq!(found, [vec![0, 4], vec![11]]);
    }
}
