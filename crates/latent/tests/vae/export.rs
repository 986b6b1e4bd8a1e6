//! What is exported computes what the model computes.

use std::path::Path;

use data::Batch;
use images::PIXELS;
use model::Model as _;
use tract_onnx::prelude::*;
use vae::Vae;
use vae_options::Likelihood;

use crate::harness::{LATENT, Place, Variant, mnist, plain, run_dir, train};

/// Runs an ONNX file on rows of one width; gives its outputs.
fn onnx(path: &Path, rows: &[f32], width: usize) -> Vec<Vec<f32>> {
    let model = tract_onnx::onnx().model_for_path(path).unwrap();
    let batch = model.symbols.sym("batch");
    let runnable = model
        .with_input_fact(0, f32::fact([batch.to_dim(), width.to_dim()]).into())
        .unwrap()
        .into_typed()
        .unwrap()
        .into_runnable()
        .unwrap();
    let input = Tensor::from_shape(&[rows.len() / width, width], rows).unwrap();
    let outputs = runnable.run(tvec!(input.into())).unwrap();
    outputs.iter().map(|output| output.view().as_slice::<f32>().unwrap().to_vec()).collect()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
    }
}

/// Compares both graphs of the model in a run directory with our own, for several batches.
fn compare(place: &Place, run_dir: &Path, variant: &Variant) {
    place.vae_of(run_dir, "export --output onnx");
    let (_, path) =
        checkpoint::Directory::open(run_dir.join("checkpoints")).list().unwrap().remove(0);
    let tensors = checkpoint::read(&path).unwrap().tensors;
    let mut vae = Vae::new(&variant.options.model()).unwrap();
    let tensor = |name: &str| tensors.get(name).map(|t| (&t.shape[..], &t.data[..]));
    let parameters = vae.layout().gather(tensor).unwrap();
    let images = mnist().test;
    for count in [1_u32, 7, 64] {
        let indices: Vec<u32> = (0..count).collect();
        let batch = Batch::of(&images, &indices);
        let len = indices.len() * LATENT;
        let (mut mean, mut log_variance) = (vec![0.0; len], vec![0.0; len]);
        vae.encode(&parameters, &batch, &mut mean, &mut log_variance);
        let mut pixels = vec![0.0; indices.len() * PIXELS];
        batch.data.gather_pixels(batch.indices, &mut pixels);
        let found = onnx(&place.path("onnx/encoder.onnx"), &pixels, PIXELS);
        assert_eq!(found.len(), 2);
        assert_close(&found[0], &mean);
        assert_close(&found[1], &log_variance);
        vae.decode(&parameters, &mean, &mut pixels);
        assert_close(&onnx(&place.path("onnx/decoder.onnx"), &mean, LATENT)[0], &pixels);
    }
}

#[test]
fn onnx_computes_what_we_compute_for_any_batch() {
    compare(&Place::new(), run_dir(), &plain());
}

#[test]
fn a_gaussian_decoder_clips() {
    let place = Place::new();
    let mut gaussian = plain();
    gaussian.options.likelihood = Likelihood::Gaussian;
    let run_dir = place.path("run");
    train(&gaussian, &run_dir);
    compare(&place, &run_dir, &gaussian);
}

#[test]
fn the_state_dict_has_the_parameters_alone_and_the_card_says_what_they_are() {
    let place = Place::new();
    place.vae("export --format safetensors --output st");
    let bytes = place.read("st/model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let vae = Vae::new(&plain().options.model()).unwrap();
    assert_eq!(file.len(), vae.layout().entries().len());
    for entry in vae.layout().entries() {
        assert_eq!(file.tensor(&entry.name).unwrap().shape(), entry.shape);
    }
    let card = String::from_utf8(place.read("st/README.md")).unwrap();
    for part in ["784-32-32-4", "load_state_dict", "Bernoulli", "seed | 5"] {
        assert!(card.contains(part), "{card}");
    }
}
