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

#[test]
fn a_worker_that_cannot_store_it_says_so() {
    let place = Place::new();
    fs::write(place.path("file"), b"").unwrap();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 1 --epochs 1"));
    fleet.add(&format!("--data-dir {}", place.path("file/below").display()));
    let words = ["cannot fetch the data set", "file/below"];
    fleet.workers.remove(0).wait().failed_with(&words);
}
