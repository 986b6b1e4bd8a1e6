//! The bits of a gradient depend neither on the number of threads nor on where it lies.
//!
//! One test in a process of its own: the number of threads belongs to the whole process.

use std::error::Error;

use config::{Likelihood, ModelConfig};
use data::{Batch, Domain, Images, PIXELS, Stream};
use model::{Isa, Model, Vae, blas};

const IMAGES: usize = 64;

#[test]
fn bits_do_not_depend_on_threads_or_place() -> Result<(), Box<dyn Error>> {
    let branch = blas::deterministic();
    if Isa::best().name() != "portable" && std::env::var_os("MKL_CBWR").is_none() {
        assert!(blas::unlocked(), "this binary does not export mkl_serv_intel_cpu_true");
        assert!(matches!(branch, blas::Branch::Strict(_)), "MKL: {branch}");
    }
    let pixels = (0..IMAGES * PIXELS).map(|i| (i * i % 253) as u8).collect();
    let images = Images::new(pixels, vec![0; IMAGES])?;
    let indices: Vec<u32> = (0..IMAGES as u32).collect();
    let batch = Batch { images: &images, indices: &indices };
    let config = ModelConfig {
        hidden_dim: 400,
        latent_dim: 20,
        likelihood: Likelihood::Bernoulli,
        beta: 1.0,
    };

    let run = |threads: i32, offset: usize, vae: &mut Vae| {
        tch::set_num_threads(threads);
        assert_eq!(tch::get_num_threads(), threads);
        let len = vae.layout().len();
        let (mut parameters, mut gradient) = (vec![0.0; len + 16], vec![0.0; len + 16]);
        let parameters = &mut parameters[offset..][..len];
        let gradient = &mut gradient[16 - offset..][..len];
        vae.initialise(1, parameters);
        let noise = Stream::new(1, Domain::Noise, 0, 0);
        let sums = vae.gradient(parameters, &batch, noise, gradient);
        let bits: Vec<u32> = gradient.iter().map(|x| x.to_bits()).collect();
        (bits, sums.terms.map(f64::to_bits))
    };
    let mut vae = Vae::new(&config)?;
    let expected = run(1, 0, &mut vae);
    for threads in [1, 2, 3, 4] {
        for offset in [0, 1, 4, 7, 16] {
            let found = run(threads, offset, &mut vae);
            assert!(found == expected, "{threads} threads, offset {offset}");
        }
    }
    Ok(())
}
