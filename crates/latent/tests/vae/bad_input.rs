//! A command that cannot be carried out is refused with one clear line, and leaves nothing behind.

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
    assert!(message.contains("is not the checkpoint of a variational autoencoder"), "{message}");
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
        ("interpolate --from 3 --to test:300", "there is no test image 300: there are 300"),
        ("interpolate --from 3 --to 3", "are the same"),
        ("decode --input missing.npy", "cannot read missing.npy"),
        ("decode --input latents.csv", "it has no column mean_0"),
        ("decode --input text.png", "cannot read text.png: a table of latents ends in .npy"),
        ("sample --sampler gmm --gmm missing", "cannot read missing"),
        ("sample --sampler gmm --gmm text.png", "is not a mixture: make one with vae fit-gmm"),
    ] {
        let message = place.refused(&format!("{command} {model}"));
        assert!(message.contains(expected), "{command}: {message}");
    }
}

#[test]
fn an_ending_of_a_format_that_is_not_written() {
    let place = Place::new();
    // The output is refused before anything is read: there is no checkpoint here.
    for (command, expected) in [
        ("sample --output m.svg", "cannot write m.svg: a picture ends in .png"),
        ("sample --output m", "cannot write m: a picture ends in .png"),
        ("reconstruct --output m.jpg", "cannot write m.jpg: a picture ends in .png"),
        ("traverse --output m.pdf", "cannot write m.pdf: a picture ends in .png"),
        ("map --output m.svg", "cannot write m.svg: a picture ends in .png"),
        ("map --projector vectors.tsv", "name one without .tsv"),
        ("interpolate --from 1 --to 2 --output m.gif", "m.gif: a picture ends in .png"),
        ("interpolate --from 1 --to 2 --gif m.mp4", "m.mp4: an animation ends in .gif"),
        ("encode --output m.txt", "cannot write m.txt: a table of latents ends in .npy, .parquet"),
        ("decode --input z.npy --output m.jpg", "an array of digits ends in .png or .npy"),
        ("fit-gmm --output m.json", "cannot write m.json: a mixture ends in .safetensors"),
        ("explore --output m.htm", "cannot write m.htm: a page ends in .html"),
        ("export --output model.onnx", "cannot create model.onnx: a folder is written"),
        ("export --output model.pt", "name one without .pt"),
    ] {
        let message = place.refused(command);
        assert!(message.contains(expected), "{command}: {message}");
    }
    // Upper and lower case are both accepted.
    place.vae("sample --count 1 --output m.PNG");
    assert!(place.read("m.PNG").starts_with(b"\x89PNG"));
    place.vae("encode --output z.CSV");
    place.vae("decode --input z.CSV --output digits.NPY");
    assert!(place.read("digits.NPY").starts_with(b"\x93NUMPY"));
}

#[test]
fn arguments_are_answered_with_the_usage() {
    let place = Place::new();
    for (command, expected) in [
        ("frobnicate", "unrecognized subcommand 'frobnicate'"),
        ("sampel", "tip: some similar subcommands exist: 'map', 'sample'"),
        ("sample --cuont 3", "a similar argument exists: '--count'"),
        ("sample --count", "a value is required for '--count <N>'"),
        ("sample --sampler normal", "[possible values: prior, gmm]"),
        ("interpolate --from 3", "--to <WHAT>"),
        ("sample --gmm nofile", "--gmm is about a mixture, which only --sampler gmm samples from"),
        ("sample --sampler prior --components 3", "--components is about a mixture"),
        ("sample --fit-seed 3", "or leave --fit-seed out"),
        ("interpolate --from 3 --to -1", "there is no class -1"),
        ("traverse --from test:x", "not an index of a test image"),
    ] {
        let message = place.misused(command);
        assert!(message.contains(expected), "{command}: {message}");
    }
}

#[test]
fn numbers() {
    let (place, model) = (Place::new(), model());
    for (command, expected) in [
        ("sample --count 0", "'0' for '--count <N>': must be a whole number from 1 to 10000"),
        ("sample --count many", "many"),
        ("sample --count -3", "invalid value '-3' for '--count <N>'"),
        ("sample --seed -1", "invalid value '-1' for '--seed <SEED>'"),
        ("sample --seed -1", "must be a whole number from 0 to 18446744073709551615"),
        ("sample --temperature -1", "'--temperature <FACTOR>': must be a number from 0 to 1000000"),
        ("sample --temperature nan", "must be a number from 0 to 1000000"),
        ("sample --temperature 3e38", "must be a number from 0 to 1000000"),
        ("traverse --range inf", "to 1000000"),
        ("sample --output -x.png", "follows its flag after `=`"),
        ("explore --count 0", "'0' for '--count <N>': must be a whole number from 1 to 70000"),
        ("reconstruct --mean --seed 1", "cannot be used with"),
        ("reconstruct --count 0", "must be a whole number from 1 to 1000"),
        ("interpolate --from 1 --to 2 --steps 1", "must be a whole number from 2 to 200"),
        ("traverse --steps 0", "must be a whole number from 2 to 200"),
        ("traverse --range 0", "must be a number from 0.000001"),
        ("traverse --range -2.5", "invalid value '-2.5' for '--range <VALUE>'"),
        ("fit-gmm --components 0", "must be a whole number from 1 to 1000"),
        ("evaluate --importance-samples -3", "invalid value '-3' for '--importance-samples <K>'"),
    ] {
        let message = place.misused(&format!("{command} {model}"));
        assert!(message.contains(expected), "{command}: {message}");
    }
}

/// A command refuses to write to a file that it reads from.
#[test]
fn an_output_that_is_an_input() {
    let place = Place::new();
    place.vae("encode --output z.npy");
    place.vae("sample --count 1 --output digit.png");
    std::os::unix::fs::symlink("digit.png", place.path("link.png")).unwrap();
    fs::hard_link(place.path("z.npy"), place.path("same.npy")).unwrap();
    let (_, checkpoint) =
        checkpoint::Directory::open(run_dir().join("checkpoints")).list().unwrap().pop().unwrap();
    fs::copy(checkpoint, place.path("model.safetensors")).unwrap();
    let inputs = ["z.npy", "digit.png", "model.safetensors"];
    let before = inputs.map(|file| place.read(file));
    for (command, expected) in [
        ("decode --input z.npy --output z.npy", "cannot write z.npy: it is read from"),
        ("decode --input z.npy --output same.npy", "it is read from"),
        ("reconstruct --input digit.png --output link.png", "it is read from"),
        ("interpolate --from 3 --to digit.png --output ./digit.png", "it is read from"),
        ("traverse --from digit.png --output digit.png", "it is read from"),
        ("fit-gmm --output model.safetensors", "and is not a mixture, so it stays"),
        ("sample --output -", "standard output is called /dev/stdout"),
    ] {
        let message = place.refused(&format!("{command} --checkpoint model.safetensors"));
        assert!(message.contains(expected), "{command}: {message}");
    }
    assert_eq!(inputs.map(|file| place.read(file)), before);
}

#[test]
fn outputs_that_cannot_be_written() {
    let (place, model) = (Place::new(), model());
    fs::write(place.path("latent.html"), "a page of somebody's own").unwrap();
    let message = place.refused(&format!("explore {model}"));
    assert!(message.contains("latent.html is there already, and nothing shows"), "{message}");
    let message = place.refused(&format!("explore --output missing/a.html {model}"));
    assert!(message.contains("there is no folder missing"), "{message}");
    fs::create_dir(place.path("folder")).unwrap();
    fs::write(place.path("file"), "here first").unwrap();
    fs::create_dir(place.path("folder.png")).unwrap();
    for command in ["sample", "reconstruct", "interpolate --from 1 --to 2", "traverse", "map"] {
        for folder in ["folder", "folder.png"] {
            let message = place.refused(&format!("{command} --output {folder} {model}"));
            assert!(
                message.contains(&format!("cannot write {folder}: it is a folder")),
                "{message}"
            );
        }
        let message = place.refused(&format!("{command} --output missing/a.png {model}"));
        assert!(message.contains("there is no folder missing"), "{message}");
    }
    for command in ["export --output file", "map --projector file"] {
        let message = place.refused(&format!("{command} {model}"));
        assert!(message.contains("cannot create file"), "{message}");
    }
}

/// `dataset inspect` writes over no picture that it reads, and over none of another program by default.
#[test]
fn pictures_of_a_set_that_is_inspected() {
    let place = Place::new();
    place.vae("sample --count 1 --output one.png");
    place.vae("sample --count 1 --seed 1 --output other.png");
    for class in ["a", "b"] {
        fs::create_dir_all(place.path("set").join(class)).unwrap();
        for (picture, name) in [("one.png", "0.png"), ("other.png", "1.png")] {
            fs::copy(place.path(picture), place.path("set").join(class).join(name)).unwrap();
        }
    }
    std::os::unix::fs::symlink("set/a/0.png", place.path("link.png")).unwrap();
    fs::hard_link(place.path("set/a/0.png"), place.path("hard.png")).unwrap();
    fs::write(place.path("dataset.png"), "mine").unwrap();
    let before = place.read("set/a/0.png");
    for (output, expected) in [
        ("set/a/0.png", "cannot write set/a/0.png: it is read from"),
        ("link.png", "it is read from"),
        ("hard.png", "it is read from"),
        ("set/a/new.png", "cannot write set/a/new.png: it is in set, which is read from"),
        ("set/dataset.png", "name a file elsewhere with --output"),
    ] {
        let message = place.refused(&format!("dataset inspect set --output {output}"));
        assert!(message.contains(expected), "{message}");
    }
    let message = place.refused("dataset inspect set");
    let expected = "dataset.png is there already, and nothing shows that vae has written it";
    assert!(message.contains(expected), "{message}");
    assert_eq!((place.read("set/a/0.png"), place.read("dataset.png")), (before, b"mine".to_vec()));
}

/// /dev/full accepts no byte, like a full disk.
#[test]
fn lines_that_cannot_be_printed() {
    let (place, model) = (Place::new(), model());
    let quick = "--no-features --importance-samples 0";
    for (command, left) in [
        (format!("evaluate --json {quick} {model}"), None),
        (format!("evaluate {quick} {model}"), None),
        (format!("sample --count 4 --output kept.png {model}"), Some("kept.png")),
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = place.command(&command).stdout(full).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        let expected = "error: cannot write to standard output: No space left on device";
        assert!(error.starts_with(expected) && error.lines().count() == 1, "{command}: {error}");
        assert_eq!(output.status.code(), Some(1), "{command}");
        left.into_iter().for_each(|file| assert!(place.path(file).exists()));
        // The reader has closed the pipe.
        let (_, closed) = std::io::pipe().unwrap();
        let output = place.command(&command).stdout(closed).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
    }
}
