//! Workers without a good copy of the data set get one from the coordinator.

use std::{fs, path::Path};

use crate::harness::{Fleet, Place, SMALL, assert_same_tensors, reference};

fn assert_is_mnist(folder: &Path) {
    for file in &images::named::mnist().files {
        data::verify(&folder.join(&file.name), file).unwrap();
    }
}

#[test]
fn a_worker_with_an_empty_folder_and_one_with_half_of_it() {
    let place = Place::new();
    let (empty, half) = (place.path("empty"), place.path("half"));
    fs::create_dir(&half).unwrap();
    let source = data::default_dir("mnist");
    data::fetch::ensure(&source, &images::named::mnist(), false, &|_| ()).unwrap();
    for file in &images::named::mnist().files[..2] {
        fs::copy(source.join(&file.name), half.join(&file.name)).unwrap();
    }

    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2 --epochs 1"));
    for folder in [&empty, &half] {
        fleet.add(&format!("--threads 1 --data-dir {}", folder.display()));
    }
    fleet.workers[0].wait_for_line("fetching the data set from the coordinator");
    fleet.completed();
    assert_is_mnist(&empty);
    assert_is_mnist(&half);
    assert_same_tensors(&place.newest(), &reference(1));
}

#[test]
fn two_workers_that_share_an_empty_folder() {
    let place = Place::new();
    let folder = place.path("shared");
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2 --epochs 1"));
    (0..2).for_each(|_| fleet.add(&format!("--threads 1 --data-dir {}", folder.display())));
    fleet.completed();
    assert_is_mnist(&folder);
    let left = fs::read_dir(&folder).unwrap().count();
    assert_eq!(left, images::named::mnist().files.len(), "nothing temporary is left");
}

/// A worker that was killed has left a part of a file: only the rest is fetched.
#[test]
fn a_worker_continues_a_file_that_another_one_has_begun() {
    const HELD: usize = 40 << 20;
    let place = Place::new();
    let folder = place.path("begun");
    fs::create_dir(&folder).unwrap();
    let (source, manifest) = (data::default_dir("mnist"), images::named::mnist());
    data::fetch::ensure(&source, &manifest, false, &|_| ()).unwrap();
    let images = &manifest.files[0];
    let part = format!(".{}.{}.part", images.name, &images.sha256[..12]);
    let bytes = fs::read(source.join(&images.name)).unwrap();
    fs::write(folder.join(part), &bytes[..HELD]).unwrap();

    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 1 --epochs 1"));
    fleet.add(&format!("--threads 1 --data-dir {}", folder.display()));
    let total: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let megabytes = (total - HELD as u64) as f64 / 1e6;
    fleet.workers[0].wait_for_line(&format!("the data set is complete: {megabytes:.1} MB"));
    fleet.completed();
    assert_is_mnist(&folder);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), manifest.files.len());
}

#[test]
fn a_worker_that_cannot_store_it_says_so() {
    let place = Place::new();
    fs::write(place.path("file"), b"").unwrap();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 1 --epochs 1"));
    fleet.add(&format!("--data-dir {}", place.path("file/below").display()));
    let words = ["file/below", "Not a directory"];
    fleet.workers.remove(0).wait().failed_with(&words);
}
