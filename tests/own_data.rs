//! Users' own data sets, and named data sets: training gives the same bytes with any number of
//! workers, and does not change the files.

use std::{fs, path::Path};

use crate::harness::{Place, coordinator_in, leave_out, worker};

const FLAGS: &str = "--listen 127.0.0.1:0 --run-dir run --shards 2 --batch-size 8 --hidden-dim 16 \
                     --latent-dim 3 --epochs 2";

/// Makes colour pictures, in a folder for each class.
pub(crate) fn pictures(folder: &Path) {
    for class in ["left", "right"] {
        fs::create_dir_all(folder.join(class)).unwrap();
        for index in 0..30_u8 {
            let file = fs::File::create(folder.join(class).join(format!("{index}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 12, 9);
            encoder.set_color(png::ColorType::Rgb);
            let pixel = |at: usize| {
                let is_lit = (at % 12 < 6) == (class == "left");
                [8 * index, if is_lit { 250 } else { 10 }, at as u8]
            };
            let pixels: Vec<u8> = (0..12 * 9).flat_map(pixel).collect();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
    }
}

fn listing(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(listing(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_of_pictures_gives_the_same_bytes_for_one_worker_and_two_and_stays_as_it_is() {
    let theirs = Place::new();
    let folder = theirs.path("my pictures");
    pictures(&folder);
    let before = listing(&folder);
    // A link gives the folder a path without blanks.
    std::os::unix::fs::symlink(&folder, theirs.path("pictures")).unwrap();
    let mut digests = Vec::new();
    for workers in [1, 2] {
        let place = Place::new();
        let environment = format!("XDG_CACHE_HOME={}", place.path("cache").display());
        let dataset = theirs.path("pictures");
        let flags = format!("{FLAGS} --workers {workers} --spawn --dataset {}", dataset.display());
        coordinator_in(&environment, &place, &flags).wait().succeeded();
        digests.push(place.digest());
        let config = place.json("config.json");
        let task = &config["training"]["task"];
        assert_eq!(task["options"]["image"], serde_json::json!([9, 12, 3]), "{task}");
        assert_eq!(task["dataset"]["train"], 54);
        assert!(place.file("samples/epoch-002.png").exists());
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(listing(&folder), before);
}

#[test]
fn a_worker_elsewhere_gets_the_packed_pictures_from_the_coordinator() {
    let place = Place::new();
    pictures(&place.path("pictures"));
    let environment = format!("XDG_CACHE_HOME={}", place.path("cache").display());
    let flags = format!("{FLAGS} --workers 1 --dataset pictures --image-size 6 --color grey");
    let coordinator = coordinator_in(&environment, &place, &flags);
    let line = coordinator.wait_for_line("Listening on ");
    // The worker has its own data folder, as on another host.
    let cache = place.path("cache/lockstep");
    let packed = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let url = line.split_whitespace().last().unwrap().to_owned();
    let data = place.path("data");
    let joining = worker(&url, &format!("--threads 1 --data-dir {}", data.display()));
    coordinator.wait().succeeded();
    drop(joining);
    // On one host the worker uses the files in the coordinator's cache.
    assert!(!data.exists() || fs::read_dir(&data).unwrap().count() == 0);
    assert_eq!(fs::read_dir(packed).unwrap().count(), 5);
}

#[test]
fn what_is_no_data_set_is_one_line() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    for (what, words) in [
        ("minst", ["minst: no such file or folder", "mnist, fashion-mnist"]),
        ("empty", ["empty: no pictures in it", "png, jpg, jpeg"]),
        ("mnist --image-size 32", ["its images are 28 x 28 grey", "taken as they are"]),
    ] {
        let flags = format!("{FLAGS} --workers 1 --spawn --dataset {what}");
        coordinator_in("A=b", &place, &flags).wait().failed_with(&words);
        assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");
    }
}

/// Fashion-MNIST comes from a Debian package, if there is an apt-get.
#[test]
fn fashion_mnist_is_fetched_and_trained_on() {
    let is_there = Path::new("/usr/bin/apt-get").exists();
    if !is_there {
        let left_out = "training on Fashion-MNIST";
        return leave_out("LOCKSTEP_DEBIAN_REQUIRED", left_out, "there is no apt-get");
    }
    let place = Place::new();
    let environment = format!("XDG_CACHE_HOME={}", place.path("cache").display());
    let flags = format!(
        "{FLAGS} --workers 2 --spawn --dataset fashion-mnist --train-examples 2000 \
         --test-examples 100"
    );
    let exit = coordinator_in(&environment, &place, &flags).wait().succeeded();
    assert!(exit.text().contains("Fetching by `apt-get download dataset-fashion-mnist`"), "{exit}");
    assert_eq!(place.json("config.json")["training"]["task"]["dataset"]["name"], "fashion-mnist");
    let digest = place.digest();

    // Again in another run directory, with one worker, and without fetching.
    let flags =
        flags.replace("--workers 2", "--workers 1 --offline").replace("-dir run", "-dir again");
    coordinator_in(&environment, &place, &flags).wait().succeeded();
    let summary = fs::read_to_string(place.path("again/summary.json")).unwrap();
    assert!(summary.contains(&digest), "{summary}");
}
