//! Principal components, of latents or of pixels.

use tch::{Kind, Tensor};

/// Rows that are multiplied together.
const ROWS: usize = 4096;

/// The directions of largest variance around a mean.
#[derive(Clone, Debug)]
pub(crate) struct Pca {
    mean: Vec<f32>,
    /// Unit vectors, `[k, dim]`; the direction with the largest variance is the first.
    pub(crate) components: Vec<Vec<f32>>,
    /// Each component's share of the total variance.
    pub(crate) explained: Vec<f64>,
}

impl Pca {
    /// The first `k` components of rows of `dim` values. The sign of a direction is chosen so that its
    /// element with the largest absolute value is positive.
    pub(crate) fn fit(rows: &[f32], dim: usize, k: usize) -> Self {
        let count = (rows.len() / dim).max(1) as f64;
        let (mut sum, mut squares) = (zeros(&[dim]), zeros(&[dim, dim]));
        for rows in rows.chunks(ROWS * dim) {
            let rows = Tensor::from_slice(rows).view([-1, dim as i64]);
            sum += rows.sum_dim_intlist(0, false, Kind::Double);
            squares += rows.tr().matmul(&rows).to_kind(Kind::Double);
        }
        let mean = sum / count;
        let covariance = squares / count - mean.outer(&mean);
        let (values, vectors) = covariance.linalg_eigh("L");
        let values: Vec<f64> = floats(&values);
        let total: f64 = values.iter().sum();
        let vectors = vectors.tr().contiguous();
        let component = |index: usize| {
            let vector: Vec<f64> = floats(&vectors.get(index as i64));
            let largest =
                vector.iter().fold(0.0, |a: f64, b| if b.abs() > a.abs() { *b } else { a });
            vector.into_iter().map(|part| (part * largest.signum()) as f32).collect()
        };
        // The eigenvalues are in ascending order.
        let order = || (0..dim).rev().take(k);
        Self {
            mean: floats::<f64>(&mean).into_iter().map(|mean| mean as f32).collect(),
            components: order().map(component).collect(),
            explained: order().map(|index| values[index] / total).collect(),
        }
    }

    /// The coordinates `[n, k]` of rows.
    pub(crate) fn project(&self, rows: &[f32]) -> Vec<f32> {
        let (k, dim) = (self.components.len() as i64, self.mean.len() as i64);
        let axes = Tensor::from_slice(&self.components.concat()).view([k, dim]);
        let rows = Tensor::from_slice(rows).view([-1, dim]) - Tensor::from_slice(&self.mean);
        floats(&rows.matmul(&axes.tr()).contiguous().view([-1]))
    }

    /// The point with the given coordinates, as a row.
    pub(crate) fn point(&self, coordinates: &[f32]) -> Vec<f32> {
        let mut point = self.mean.clone();
        for (component, coordinate) in self.components.iter().zip(coordinates) {
            point.iter_mut().zip(component).for_each(|(point, part)| *point += coordinate * part);
        }
        point
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|side| *side as i64).collect();
    Tensor::zeros(&shape[..], (Kind::Double, tch::Device::Cpu))
}

/// The values of a tensor.
pub(crate) fn floats<T: tch::kind::Element + Default + Copy>(tensor: &Tensor) -> Vec<T> {
    let mut values = vec![T::default(); tensor.numel()];
    let len = values.len();
    tensor.copy_data(&mut values, len);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with standard deviations 3 and 1 along (0.6, 0.8) and (-0.8, 0.6), around (5, -2).
    fn rows() -> Vec<f32> {
        let mut rows = Vec::new();
        for i in 0..40 {
            let turn = std::f32::consts::TAU * i as f32 / 40.0;
            let (a, b) = (3.0 * turn.cos(), turn.sin());
            rows.extend([5.0 + 0.6 * a - 0.8 * b, -2.0 + 0.8 * a + 0.6 * b]);
        }
        rows
    }

    #[test]
    fn an_ellipse_has_its_axes_as_components() {
        let pca = Pca::fit(&rows(), 2, 2);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(close(&pca.mean, &[5.0, -2.0]), "{pca:?}");
        assert!(close(&pca.components[0], &[0.6, 0.8]), "{pca:?}");
        assert!(close(&pca.components[1], &[0.8, -0.6]), "{pca:?}");
        assert!((pca.explained[0] - 0.9).abs() < 1e-5 && (pca.explained[1] - 0.1).abs() < 1e-5);
    }

    #[test]
    fn all_coordinates_give_the_row_back() {
        let rows = rows();
        let pca = Pca::fit(&rows, 2, 2);
        let coordinates = pca.project(&rows);
        for (row, coordinates) in rows.chunks(2).zip(coordinates.chunks(2)) {
            let back = pca.point(coordinates);
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }
}
