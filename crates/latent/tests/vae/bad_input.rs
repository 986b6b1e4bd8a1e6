//! What cannot be done is refused in one clear line, and nothing is left behind.

use std::fs;

use crate::harness::{Place, run_dir};

/// The flags that name the small model.
fn model() -> String {
    format!("--checkpoint {}", run_dir().display())
}

#[test]
fn checkpoints() {
    let place = Place::new();
    assert!(place.refused("sample").contains("there is no runs/latest: train a model first"));
    assert!(
        place.refused("sample --checkpoint x.safetensors").contains("there is no x.safetensors")
    );
    fs::create_dir(place.path("empty")).unwrap();
    assert!(place.refused("sample --checkpoint empty").contains("there is no checkpoint in empty"));
    fs::write(place.path("text.safetensors"), "no checkpoint").unwrap();
    let message = place.refused("sample --checkpoint text.safetensors");
    assert!(message.contains("is not a safetensors file"), "{message}");

    let checkpoints = checkpoint::Directory::open(run_dir().join("checkpoints")).list().unwrap();
    let sound = fs::read(&checkpoints[0].1).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(place.path("damaged.safetensors"), damaged).unwrap();
    let message = place.refused("evaluate --checkpoint damaged.safetensors");
    assert!(message.contains("the tensors of damaged.safetensors are damaged"), "{message}");
    fs::write(place.path("short.safetensors"), &sound[..sound.len() / 2]).unwrap();
    assert!(place.refused("map --checkpoint short.safetensors").contains("is truncated"));

    place.vae("export --format safetensors --output st");
    let message = place.refused("sample --checkpoint st/model.safetensors");
    assert!(message.contains("not a checkpoint of lockstep"), "{message}");
}

#[test]
fn a_checkpoint_of_another_model() {
    let place = Place::new();
    let metadata = checkpoint::Metadata {
        configuration: "{\"layers\": 3}".into(),
        ..checkpoint::Metadata::default()
    };
    let folder = checkpoint::Directory::open(place.path("run/checkpoints"));
    folder.create().unwrap();
    folder.write(&metadata, &[]).unwrap();
    let message = place.refused("sample --checkpoint run");
    assert!(message.contains("is not of a variational autoencoder"), "{message}");
}

#[test]
fn pictures_labels_and_tables() {
    let (place, model) = (Place::new(), model());
    fs::write(place.path("text.png"), "no picture").unwrap();
    fs::write(place.path("latents.csv"), "index,label\n1,2\n").unwrap();
    for (command, expected) in [
        ("reconstruct --input text.png", "cannot read the picture text.png"),
        ("reconstruct --input missing.png", "cannot read the picture missing.png"),
        ("interpolate --from text.png --to 3", "cannot read the picture text.png"),
        ("interpolate --from 3 --to 12", "there is no digit 12"),
        ("interpolate --from 3 --to -1", "-1"),
        ("interpolate --from 3 --to test:300", "there is no test image 300: there are 300"),
        ("interpolate --from 3 --to 3", "are the same"),
        ("interpolate --from 3", "--to <WHAT>"),
        ("traverse --from test:x", "no index of a test image"),
        ("decode --input missing.npy", "cannot read missing.npy"),
        ("decode --input latents.csv", "it has no column mean_0"),
        ("decode --input latents.txt", "ends in .npy, .parquet or .csv"),
        ("encode --output latents.txt", "ends in .npy, .parquet or .csv"),
        ("sample --sampler gmm --gmm missing", "cannot read missing"),
        ("sample --sampler gmm --gmm text.png", "is not a mixture"),
        ("frobnicate", "unrecognized subcommand"),
    ] {
        let message = match command {
            "frobnicate" => place.refused(command),
            _ => place.refused(&format!("{command} {model}")),
        };
        assert!(message.contains(expected), "{command}: {message}");
    }
}

#[test]
fn numbers() {
    let (place, model) = (Place::new(), model());
    for (command, expected) in [
        ("sample --count 0", "0 is not in 1..=10000"),
        ("sample --count many", "many"),
        ("sample --temperature -1", "-1"),
        ("sample --temperature nan", "must be a number that is not negative"),
        ("reconstruct --count 0", "0 is not in 1..=1000"),
        ("interpolate --from 1 --to 2 --steps 1", "1 is not in 2..=200"),
        ("traverse --steps 0", "0 is not in 2..=200"),
        ("traverse --range 0", "must be a positive number"),
        ("fit-gmm --components 0", "0 is not in 1..=1000"),
        ("evaluate --importance-samples -3", "-3"),
    ] {
        let message = place.refused(&format!("{command} {model}"));
        assert!(message.contains(expected), "{command}: {message}");
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let (place, model) = (Place::new(), model());
    fs::create_dir(place.path("folder")).unwrap();
    fs::write(place.path("file"), "here first").unwrap();
    for command in ["sample", "reconstruct", "interpolate --from 1 --to 2", "traverse", "map"] {
        let message = place.refused(&format!("{command} --output folder {model}"));
        assert!(message.contains("cannot write folder: it is a folder"), "{message}");
        let message = place.refused(&format!("{command} --output missing/a.png {model}"));
        assert!(message.contains("there is no folder missing"), "{message}");
    }
    for command in ["export --output file", "map --projector file --output file"] {
        let message = place.refused(&format!("{command} {model}"));
        assert!(message.contains("cannot create file"), "{message}");
    }
}
