//! The exported files compute the same as the model.

use std::path::Path;

use data::Batch;
use images::{Images, Shape};
use model::State;
use vae_options::{Likelihood, VaeOptions};

use crate::{
    harness::{LATENT, Place, Variant, conv, mnist, plain, run_dir, train, write},
    runtime,
};

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
    }
}

/// Compares both exported graphs of a run's model with the model itself, for several batches of images.
fn compare(place: &Place, run_dir: &Path, variant: &Variant, images: &Images) {
    if !runtime::is_there() {
        return;
    }
    place.vae_of(run_dir, "export --output onnx");
    let (_, path) =
        checkpoint::Directory::open(run_dir.join("checkpoints")).list().unwrap().remove(0);
    let tensors = checkpoint::read(&path).unwrap().tensors;
    let mut codec = vae_conv::codec(&variant.options.model(), vae::Settings::default()).unwrap();
    let tensor = |name: &str| tensors.get(name).map(|t| (&t.shape[..], &t.data[..]));
    let parameters = codec.layout().gather(tensor).unwrap();
    let width = codec.pixels();
    for count in [1_u32, 7, 64] {
        let indices: Vec<u32> = (0..count).collect();
        let batch = Batch::of(images, &indices);
        let len = indices.len() * LATENT;
        let (mut mean, mut log_variance) = (vec![0.0; len], vec![0.0; len]);
        codec.encode(&parameters, &batch, &mut mean, &mut log_variance).unwrap();
        let mut pixels = vec![0.0; indices.len() * width];
        batch.data.gather_pixels(batch.indices, &mut pixels);
        let found = runtime::run(&place.path("onnx/encoder.onnx"), &pixels, width);
        assert_eq!(found.len(), 2);
        assert_close(&found[0], &mean);
        assert_close(&found[1], &log_variance);
        codec.decode(&parameters, &mean, &mut pixels).unwrap();
        assert_close(&runtime::run(&place.path("onnx/decoder.onnx"), &mean, LATENT)[0], &pixels);
    }
}

#[test]
fn onnx_computes_what_we_compute_for_any_batch() {
    compare(&Place::new(), run_dir(), &plain(), &mnist().test);
}

#[test]
fn a_gaussian_decoder_clips() {
    let place = Place::new();
    let mut gaussian = plain();
    gaussian.options.likelihood = Likelihood::Gaussian;
    let run_dir = place.path("run");
    train(&gaussian, &run_dir);
    compare(&place, &run_dir, &gaussian, &mnist().test);
}

#[test]
fn convolutions_are_exported() {
    let place = Place::new();
    let run_dir = place.path("run");
    train(&conv(), &run_dir);
    compare(&place, &run_dir, &conv(), &mnist().test);
}

/// Half of an odd side is rounded, and the decoder pads the missing row or column.
#[test]
fn convolutions_of_images_with_odd_sides_and_colours_are_exported() {
    let shape = Shape { height: 29, width: 38, channels: 3 };
    let mut variant = conv();
    let image = [shape.height, shape.width, shape.channels];
    variant.options = VaeOptions { image, likelihood: Likelihood::Gaussian, ..variant.options };
    let codec = vae_conv::codec(&variant.options.model(), vae::Settings::default()).unwrap();
    let (place, state) = (Place::new(), State::initial(&*codec, 1));
    let run_dir = place.path("run");
    write(&variant, codec.layout(), &state, &run_dir);
    let pixels = (0..64 * shape.bytes()).map(|at| (at * at % 251) as u8).collect();
    compare(&place, &run_dir, &variant, &Images::new(shape, pixels, Vec::new()).unwrap());
}

#[test]
fn the_state_dict_has_the_parameters_alone_and_the_card_says_what_they_are() {
    let place = Place::new();
    place.vae("export --format safetensors --output st");
    let bytes = place.read("st/model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let codec = vae_conv::codec(&plain().options.model(), vae::Settings::default()).unwrap();
    assert_eq!(file.len(), codec.layout().entries().len());
    for entry in codec.layout().entries() {
        assert_eq!(file.tensor(&entry.name).unwrap().shape(), entry.shape);
    }
    let card = String::from_utf8(place.read("st/README.md")).unwrap();
    for part in ["784-32-32-4", "load_state_dict", "Bernoulli", "seed | 5"] {
        assert!(card.contains(part), "{card}");
    }
}
