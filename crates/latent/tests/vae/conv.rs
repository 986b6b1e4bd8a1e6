//! Every command works with a convolutional model.

use serde_json::Value;

use crate::harness::{LATENT, Place, TEST_IMAGES, conv, png, train};

#[test]
fn every_command_works_with_convolutions() {
    let place = Place::new();
    let run_dir = place.path("run");
    let [loss, reconstruction, kl] = train(&conv(), &run_dir);
    let vae = |arguments: &str| place.vae_of(&run_dir, arguments);
    let report = vae("evaluate --json --importance-samples 20");
    let report: Value = serde_json::from_str(&report).unwrap();
    // Equal bit for bit to the numbers that training reported.
    for (name, value) in [("loss", loss), ("reconstruction", reconstruction), ("kl", kl)] {
        assert_eq!(report[name].as_f64(), Some(value), "{name}");
    }
    assert_eq!(report["images"], TEST_IMAGES);
    assert!(-report["log_likelihood"]["nats"].as_f64().unwrap() < loss, "{report}");
    assert!(report["features"].is_array() && report["diversity"].is_object());

    vae("encode --output latents.npy");
    vae("decode --input latents.npy --output decoded.png");
    vae("sample --count 4 --output sample.png");
    vae("reconstruct --count 3 --output reconstructions.png");
    vae("interpolate --from 3 --to 8 --output interpolation.png");
    vae("traverse --output traversal.png");
    vae("map --output map.png");
    vae("explore --count 20");
    vae("fit-gmm --components 2");
    for name in ["decoded", "sample", "reconstructions", "interpolation", "traversal", "map"] {
        let (width, height, pixels) = png(&place.read(&format!("{name}.png")));
        assert!(width >= 28 && height >= 28 && pixels.iter().any(|p| *p > 50), "{name}");
    }
    vae("export --format safetensors --output export");
    let bytes = place.read("export/model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("encoder.latent.weight").unwrap().shape(), [2 * LATENT, 32]);
    let card = String::from_utf8(place.read("export/README.md")).unwrap();
    for part in ["conv 28x28-32-64-32-4", "conv_transpose2d", "F.group_norm(x, 4"] {
        assert!(card.contains(part), "{card}");
    }
}
