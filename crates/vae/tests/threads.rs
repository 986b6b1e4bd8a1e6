//! The bits of a gradient depend neither on the number of threads nor on its place in memory.

use std::{error::Error, sync::Arc};

use data::{Batch, Domain, Stream};
use images::{Images, PIXELS};
use model::{
    Bf16, Isa, Model, StepContext, Team,
    gemm::{Factor, Matrix, multiply},
};
use vae::{Settings, Vae};
use vae_options::{Architecture, Likelihood, ModelConfig, Precision};

const IMAGES: usize = 64;

/// The fewest rows of a product that a thread computes.
const ROWS_MIN: usize = 16;

#[test]
fn bits_do_not_depend_on_threads_or_place() -> Result<(), Box<dyn Error>> {
    let pixels = (0..IMAGES * PIXELS).map(|i| (i * i % 253) as u8).collect();
    let images = Images::new(images::Shape::grey(28, 28), pixels, vec![0; IMAGES])?;
    let indices: Vec<u32> = (0..IMAGES as u32).collect();
    let batch = Batch::of(&images, &indices);
    let config = ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim: 400,
        latent_dim: 20,
        likelihood: Likelihood::Bernoulli,
        beta: 1.0,
    };

    let run = |threads: usize, offset: usize, vae: &mut Vae| {
        vae.set_team(Arc::new(Team::new(threads)));
        let len = vae.layout().len();
        let (mut parameters, mut gradient) = (vec![0.0; len + 16], vec![0.0; len + 16]);
        let parameters = &mut parameters[offset..][..len];
        let gradient = &mut gradient[16 - offset..][..len];
        vae.initialise(1, parameters);
        let noise = Stream::new(1, Domain::Noise, 0, 0);
        let sums = vae.gradient(parameters, &batch, &StepContext::alone(noise), gradient).unwrap();
        let bits: Vec<u32> = gradient.iter().map(|x| x.to_bits()).collect();
        (bits, sums.terms.map(f64::to_bits))
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let mut vae = Vae::with(&config, Settings { precision, ..Default::default() })?;
        let expected = run(1, 0, &mut vae);
        for threads in [1, 2, 3, 4] {
            for offset in [0, 1, 4, 7, 16] {
                let found = run(threads, offset, &mut vae);
                assert!(found == expected, "{precision:?}, {threads} threads, offset {offset}");
            }
        }
    }
    for (rows, n, k) in
        [(64, 400, 784), (400, 784, 64), (33, 40, 400), (400, 20, 257), (256, 400, 40)]
    {
        products_do_not_depend_on_place::<f32>(rows, n, k, |x| x);
        products_do_not_depend_on_place(rows, n, k, Bf16::from_f32);
    }
    Ok(())
}

/// The model's factors begin at cache lines; here factors begin anywhere.
///
/// The bits of a row do not depend on the other rows that are computed with it.
fn products_do_not_depend_on_place<T: Factor>(
    rows: usize,
    n: usize,
    k: usize,
    element: fn(f32) -> T,
) {
    let numbers = |len: usize, offset: usize| -> Vec<T> {
        let values = (0..len).map(|i| ((i * 7 % 1009) as f32).sin());
        std::iter::repeat_n(0.0, offset).chain(values).map(element).collect()
    };
    let run = |m: usize, offset: usize, transpose: (bool, bool)| {
        let (a, b) = (numbers(rows * k, offset), numbers(k * n, 2 * offset));
        let (a, b) = (&a[offset..], &b[2 * offset..]);
        // The first rows of A, or the first columns of the matrix whose transpose is A.
        let first_columns: Vec<T> = a.chunks(rows).flat_map(|row| &row[..m]).copied().collect();
        let a = if transpose.0 {
            Matrix::new(&first_columns, k, m).t()
        } else {
            Matrix::new(&a[..m * k], m, k)
        };
        let b = if transpose.1 { Matrix::new(b, n, k).t() } else { Matrix::new(b, k, n) };
        let mut out = vec![0.0_f32; m * n + 3 * offset];
        multiply(Isa::best(), a, b, &mut out[3 * offset..]);
        out[3 * offset..].iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let size = size_of::<T>();
    for transpose in [(false, true), (true, false), (false, false)] {
        let expected = run(rows, 0, transpose);
        for offset in [1, 3, 5] {
            let found = run(rows, offset, transpose);
            assert!(found == expected, "{rows} {n} {k}, {size} bytes, {offset}");
        }
        for m in (ROWS_MIN..rows).filter(|m| *m < 2 * ROWS_MIN || m % 13 == 0) {
            let found = run(m, 0, transpose);
            assert!(found == expected[..m * n], "{m} rows of {rows} {n} {k}, {size} bytes");
        }
    }
}
