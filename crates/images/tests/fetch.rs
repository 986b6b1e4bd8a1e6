//! Fashion-MNIST, fetched with Debian's package manager.

use std::{fs, process::Command};

use data::{Files, fetch};
use images::{Shape, named, sheet, splits};

/// The environment variable that makes a missing package manager an error.
const REQUIRED: &str = "LOCKSTEP_DEBIAN_REQUIRED";

/// Why the package manager cannot be asked.
fn absence() -> Option<&'static str> {
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    match (is_there("apt-get"), is_there("dpkg-deb")) {
        (true, true) => None,
        _ => Some("apt-get or dpkg-deb is not installed"),
    }
}

#[test]
fn fashion_mnist_comes_as_a_package_of_debian() {
    if let Some(reason) = absence() {
        return left_out::note_unless(REQUIRED, "fetching Fashion-MNIST", reason);
    }
    let place = tempfile::tempdir().unwrap();
    let (folder, set) = (place.path().join("fashion-mnist"), named::fashion_mnist());
    let lines = std::cell::RefCell::new(Vec::new());
    let tell = |line: &str| lines.borrow_mut().push(line.to_owned());
    let fetched = fetch::ensure(&folder, &set, false, &tell);
    let images = splits(&fetched.unwrap()).unwrap();
    assert_eq!((images.train.len(), images.test.len()), (60_000, 10_000));
    assert_eq!(images.train.shape(), Shape::grey(28, 28));
    assert_eq!(images.train.class(images.train.label(0).unwrap()), "Ankle boot");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "nothing temporary is left");
    let packages = lines.borrow().iter().filter(|line| line.contains("apt-get download")).count();
    assert_eq!(packages, 1, "{lines:?}");
    // The set is complete, so it is found offline.
    fetch::ensure(&folder, &set, true, &|_| ()).unwrap();
    Files::verified(&folder, &set).unwrap();
    sheet::draw(&images.test).unwrap();
}
