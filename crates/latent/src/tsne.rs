//! t-SNE: places points of a high-dimensional space in the plane, so that neighbours stay neighbours (van der
//! Maaten and Hinton 2008; the Barnes-Hut approximation, van der Maaten 2014).
//!
//! The result is the same for any number of cores: the neighbours are exact, the first positions are
//! principal components instead of random numbers, and the descent runs on one thread.

use anyhow::{Context as _, Result, ensure};
use bhtsne::{Neighbor, tSNE};

use crate::{pca::Pca, progress::Progress, threads};

/// The approximate number of neighbours that a point has.
const PERPLEXITY: f32 = 30.0;
/// Neighbours that are searched for, as a multiple of the perplexity.
const REACH: usize = 3;
/// The fewest points that are accepted. Fewer points have no meaningful neighbours.
const POINTS_MIN: usize = 8;
const EPOCHS: usize = 750;
/// Points whose distances are computed together.
const BLOCK: usize = 1024;
/// How coarsely distant points are grouped (Barnes-Hut).
const THETA: f32 = 0.5;
/// The spread of the first positions. With a larger one, the result stays close to the principal components.
const SPREAD: f32 = 1e-4;

/// The positions `[n, 2]` of rows of `dim` values.
///
/// # Errors
///
/// Fewer than [`POINTS_MIN`] rows, rows that are all equal, or a thread that cannot be started.
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
    let bar = Progress::new("Placing the latents", EPOCHS);
    let descend = || {
        let mut tsne = tSNE::<f32, &[f32], 2>::new(&points);
        tsne.perplexity(perplexity)
            .epochs(EPOCHS)
            .initial_embedding(first)
            .epoch_callback(|_, _| bar.inc(1))
            .barnes_hut_with_neighbors(THETA, &neighbors);
        tsne.embedding()
    };
    // More threads would add up the forces in an order that varies.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let places = alone.context("cannot start a thread for t-SNE")?.install(descend);
    ensure!(
        places.iter().all(|place| place.is_finite()),
        "t-SNE finds no place for these latents: too many of them are the same"
    );
    Ok(places)
}

/// The `k` nearest other points of every point, the nearest first. Of equally near points, the first comes first.
fn neighbors(points: &[&[f32]], k: usize) -> Vec<Vec<Neighbor<f32>>> {
    let bar = Progress::new("Looking for neighbours", points.len());
    let columns = Columns::of(points);
    let of = |index: usize| {
        let found = columns.nearest(points[index], index, k);
        bar.inc(1);
        found
    };
    threads::map((0..points.len()).collect(), of)
}

/// Points by coordinate, so that the distances to a block of points are computed together.
struct Columns {
    count: usize,
    /// `[dim, n]`.
    values: Vec<f32>,
}

impl Columns {
    fn of(points: &[&[f32]]) -> Self {
        let dim = points.first().map_or(0, |point| point.len());
        let values = (0..dim).flat_map(|axis| points.iter().map(move |point| point[axis]));
        Self { count: points.len(), values: values.collect() }
    }

    fn nearest(&self, own: &[f32], index: usize, k: usize) -> Vec<Neighbor<f32>> {
        let nearer = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        // Candidates for the nearest: more than k are kept, and the list is pruned when it is full.
        let room = 4 * k;
        let (mut kept, mut limit) = (Vec::with_capacity(room), f32::INFINITY);
        let mut squares = [0.0; BLOCK];
        for start in (0..self.count).step_by(BLOCK) {
            let squares = &mut squares[..BLOCK.min(self.count - start)];
            squares.fill(0.0);
            for (own, column) in own.iter().zip(self.values.chunks_exact(self.count)) {
                let column = &column[start..][..squares.len()];
                for (square, other) in squares.iter_mut().zip(column) {
                    let difference = own - other;
                    *square += difference * difference;
                }
            }
            for (other, square) in (start..).zip(&*squares) {
                if *square > limit || other == index {
                    continue;
                }
                kept.push((*square, other));
                if kept.len() == room {
                    kept.select_nth_unstable_by(k - 1, nearer);
                    kept.truncate(k);
                    limit = kept[k - 1].0;
                }
            }
        }
        kept.sort_unstable_by(nearer);
        kept.truncate(k);
        let neighbor = |(square, index): (f32, usize)| Neighbor { index, distance: square.sqrt() };
        kept.into_iter().map(neighbor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 5;
    const GROUPS: usize = 3;
    const EACH: usize = 30;

    /// Groups of points, each around its own corner; the groups alternate.
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

    /// There are more points than one block holds, and more than are kept at a time.
    #[test]
    fn neighbours_of_many_points_are_those_of_a_full_sort() {
        let values: Vec<f32> = (0..2500 * 3).map(|at| (at as f32 * 0.618_034).fract()).collect();
        let points: Vec<&[f32]> = values.chunks_exact(3).collect();
        let found = neighbors(&points, 7);
        for index in [0, 1023, 1024, 2499] {
            let square = |other: usize| -> f32 {
                points[index].iter().zip(points[other]).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let mut all: Vec<usize> = (0..points.len()).filter(|other| *other != index).collect();
            all.sort_by(|a, b| square(*a).total_cmp(&square(*b)).then(a.cmp(b)));
            let found: Vec<usize> = found[index].iter().map(|neighbor| neighbor.index).collect();
            assert_eq!(found, all[..7]);
        }
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
