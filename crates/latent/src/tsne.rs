//! t-SNE: points of a space of many dimensions in the plane, near ones near each other (van der
//! Maaten and Hinton 2008; the Barnes-Hut approximation, van der Maaten 2014).
//!
//! The plane is the same for any number of cores: the neighbours are exact, the first places are
//! principal components instead of random numbers, and the descent runs on one thread.

use anyhow::{Context as _, Result, ensure};
use bhtsne::{Neighbor, tSNE};

use crate::{output, pca::Pca, threads};

/// How many neighbours a point counts with, about.
const PERPLEXITY: f32 = 30.0;
/// Neighbours that are looked at, in perplexities.
const REACH: usize = 3;
/// Fewer points have no neighbourhoods that could be kept.
const POINTS_MIN: usize = 8;
const EPOCHS: usize = 750;
/// How coarsely distant points are taken together.
const THETA: f32 = 0.5;
/// The spread of the first places; larger ones hold on to the principal components.
const SPREAD: f32 = 1e-4;

/// The places `[n, 2]` of rows of `dim` values.
///
/// # Errors
///
/// Fewer than [`POINTS_MIN`] rows, rows that are all the same, and a thread that cannot be started.
pub(crate) fn embed(rows: &[f32], dim: usize) -> Result<Vec<f32>> {
    let points: Vec<&[f32]> = rows.chunks_exact(dim).collect();
    let count = points.len();
    ensure!(count >= POINTS_MIN, "t-SNE needs {POINTS_MIN} images at least, there are {count}");
    let first = Pca::fit(rows, dim, 2).project(rows);
    let deviation = (first.iter().step_by(2).map(|x| x * x).sum::<f32>() / count as f32).sqrt();
    ensure!(
        deviation > 0.0 && deviation.is_finite(),
        "all images have the same latent means: there is nothing to show by t-SNE"
    );
    let first: Vec<f32> = first.into_iter().map(|x| x * SPREAD / deviation).collect();
    let perplexity = PERPLEXITY.min((count - 1) as f32 / REACH as f32).floor();
    let neighbors = neighbors(&points, REACH * perplexity as usize);
    let bar = output::progress("Placing the latents", EPOCHS);
    let descend = || {
        let mut tsne = tSNE::<f32, &[f32], 2>::new(&points);
        tsne.perplexity(perplexity)
            .epochs(EPOCHS)
            .initial_embedding(first)
            .epoch_callback(|_, _| bar.inc(1))
            .barnes_hut_with_neighbors(THETA, &neighbors);
        tsne.embedding()
    };
    // More threads would add up in an order of their own.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let places = alone.context("cannot start a thread for t-SNE")?.install(descend);
    ensure!(
        places.iter().all(|place| place.is_finite()),
        "t-SNE finds no place for these latents: too many of them are the same"
    );
    Ok(places)
}

/// The `k` nearest others of every point, the nearest first; of equally near ones the first.
fn neighbors(points: &[&[f32]], k: usize) -> Vec<Vec<Neighbor<f32>>> {
    let bar = output::progress("Looking for neighbours", points.len());
    let of = |index: usize| {
        let own = points[index];
        let square =
            |other: &[f32]| -> f32 { own.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum() };
        let others = points.iter().enumerate().filter(|(other, _)| *other != index);
        let mut others: Vec<(f32, usize)> =
            others.map(|(other, point)| (square(point), other)).collect();
        let nearer = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if k < others.len() {
            others.select_nth_unstable_by(k, nearer);
            others.truncate(k);
        }
        others.sort_unstable_by(nearer);
        bar.inc(1);
        let neighbor = |(square, index): (f32, usize)| Neighbor { index, distance: square.sqrt() };
        others.into_iter().map(neighbor).collect()
    };
    threads::map((0..points.len()).collect(), of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 5;
    const GROUPS: usize = 3;
    const EACH: usize = 30;

    /// Groups of points around corners of their own, one after the other.
    fn groups() -> Vec<f32> {
        let value = |at: usize| {
            let (point, axis) = (at / DIM, at % DIM);
            let noise = (at as f32 * 0.618_034).fract() + (point as f32 * 0.414_214).fract();
            if axis == point % GROUPS { 6.0 + noise } else { noise }
        };
        (0..GROUPS * EACH * DIM).map(value).collect()
    }

    #[test]
    fn neighbours_are_the_nearest_in_their_order() {
        let points: [&[f32]; 5] = [&[0.0], &[1.0], &[-1.0], &[5.0], &[0.5]];
        let found = neighbors(&points, 3);
        let indices: Vec<usize> = found[0].iter().map(|neighbor| neighbor.index).collect();
        assert_eq!(indices, [4, 1, 2]);
        assert_eq!(found[3][0], Neighbor { index: 1, distance: 4.0 });
        assert!(neighbors(&points, 9).iter().all(|row| row.len() == 4));
    }

    #[test]
    fn groups_stay_together_and_the_bits_the_same() {
        let places = embed(&groups(), DIM).unwrap();
        let point = |index: usize| [places[2 * index], places[2 * index + 1]];
        for index in 0..GROUPS * EACH {
            let distance = |other: &usize| {
                let ([x, y], [a, b]) = (point(index), point(*other));
                (x - a).hypot(y - b)
            };
            let others = (0..GROUPS * EACH).filter(|other| *other != index);
            let nearest = others.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            assert_eq!(nearest % GROUPS, index % GROUPS, "the neighbour of {index}");
        }
        let bits = |places: &[f32]| places.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&places), bits(&embed(&groups(), DIM).unwrap()));
    }

    #[test]
    fn what_has_no_neighbourhoods_is_refused() {
        let error = |rows: &[f32]| embed(rows, 2).unwrap_err().to_string();
        assert_eq!(error(&[1.0; 6]), "t-SNE needs 8 images at least, there are 3");
        assert!(error(&[1.0; 40]).starts_with("all images have the same latent means"));
    }
}
