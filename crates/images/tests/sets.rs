//! Sets in all formats, packed and read back.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use data::Files;
use flate2::{Compression, write::GzEncoder};
use image::{Rgb, RgbImage};
use images::{
    Colour, ImagesError, Options, Packed, Part, Shape, dataset, describe_images, pack, sheet,
    source, splits,
};
use tempfile::TempDir;

/// A picture of one colour.
fn picture(folder: &Path, name: &str, (width, height): (u32, u32), colour: [u8; 3]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    RgbImage::from_pixel(width, height, Rgb(colour)).save(&path).unwrap();
    path
}

fn idx(shape: &[u32], elements: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, shape.len() as u8];
    bytes.extend(shape.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(elements);
    bytes
}

fn packed(path: &Path, options: &Options) -> Result<(Packed, TempDir), ImagesError> {
    let place = tempfile::tempdir().unwrap();
    let packed = pack(&source::open(path, options)?, "set", place.path(), &mut |_, _| {})?;
    Ok((packed, place))
}

/// The bytes of a packed file after its header.
fn elements(packed: &Packed, name: &str) -> Vec<u8> {
    let bytes = fs::read(packed.folder.join(name)).unwrap();
    bytes[4 + 4 * usize::from(bytes[3])..].to_vec()
}

fn line(path: &Path) -> String {
    packed(path, &Options::default()).unwrap_err().to_string()
}

#[test]
fn folders_of_pictures_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..10_u8 {
        picture(&folder.path().join("cat"), &format!("{index}.png"), (6, 4), [index, 0, 0]);
        picture(&folder.path().join("ant"), &format!("{index}.png"), (6, 4), [0, 0, index + 1]);
    }
    fs::write(folder.path().join("ant/notes.txt"), "not a picture").unwrap();
    let found = source::open(folder.path(), &Options::default()).unwrap();
    let shape = Shape { height: 4, width: 6, channels: 3 };
    assert_eq!((found.shape(), found.count(Part::Train)), (shape, Some(20)));
    assert_eq!((found.classes(), found.ignored()), (&["ant".to_owned(), "cat".into()][..], 1));

    let (packed, _place) = packed(folder.path(), &Options::default()).unwrap();
    assert_eq!((packed.counts, packed.labels), ([18, 2], 2));
    let names: Vec<&str> = packed.files.iter().map(|file| file.name.as_str()).collect();
    let expected = [
        "train-images-idx4-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx4-ubyte",
        "t10k-labels-idx1-ubyte",
        "classes.txt",
    ];
    assert_eq!(names, expected);
    assert_eq!(fs::read_to_string(packed.folder.join("classes.txt")).unwrap(), "ant\ncat\n");
    // Every image has the label of its folder, in the training and in the test part.
    for part in ["train", "t10k"] {
        let pixels = elements(&packed, &format!("{part}-images-idx4-ubyte"));
        let labels = elements(&packed, &format!("{part}-labels-idx1-ubyte"));
        for (image, label) in pixels.chunks(shape.bytes()).zip(labels) {
            assert_eq!(label, u8::from(image[2] == 0), "{:?}", &image[..3]);
        }
    }
}

#[test]
fn what_is_packed_is_read_like_the_original() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..12_u8 {
        picture(folder.path(), &format!("{index}.jpg"), (8, 8), [20 * index; 3]);
    }
    let grey = Options { colour: Colour::Grey, ..Options::default() };
    let (first, _place) = packed(folder.path(), &grey).unwrap();
    assert_eq!(first.shape, Shape::grey(8, 8));
    let (second, _other) = packed(&first.folder, &Options::default()).unwrap();
    assert_eq!((second.files.clone(), second.digest()), (first.files.clone(), first.digest()));
}

#[test]
fn pictures_are_scaled_and_those_without_folders_have_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    for (index, size) in [(30, 20), (20, 30), (200, 200)].into_iter().enumerate() {
        picture(folder.path(), &format!("{index}.png"), size, [10, 20 * index as u8, 30]);
    }
    for (options, side) in
        [(Options::default(), 64), (Options { side: Some(16), colour: Colour::Auto }, 16)]
    {
        let found = source::open(folder.path(), &options).unwrap();
        assert_eq!(found.shape(), Shape { height: side, width: side, channels: 3 });
        assert!(!found.is_labelled());
        let mut greens = Vec::new();
        let mut keep = |example: images::Example<'_>| {
            greens.push((example.pixels[1], example.label));
            Ok(())
        };
        found.each(Part::Train, &mut keep).unwrap();
        assert_eq!(greens, [(0, None), (20, None), (40, None)]);
    }
}

#[test]
fn idx_files_are_found_by_their_names_zipped_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let (images, labels) = (idx(&[3, 2, 2], &[7; 12]), idx(&[3], &[0, 1, 2]));
    fs::write(folder.path().join("emnist-letters-train-images-idx3-ubyte"), &images).unwrap();
    fs::write(folder.path().join("emnist-letters-train-labels-idx1-ubyte"), &labels).unwrap();
    for (name, bytes) in
        [("t10k-images-idx3-ubyte.gz", images), ("t10k-labels-idx1-ubyte.gz", labels)]
    {
        let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
        zipped.write_all(&bytes).unwrap();
        fs::write(folder.path().join(name), zipped.finish().unwrap()).unwrap();
    }
    let (packed, _place) = packed(folder.path(), &Options::default()).unwrap();
    assert_eq!((packed.counts, packed.labels, packed.shape), ([3, 3], 3, Shape::grey(2, 2)));
    assert_eq!(elements(&packed, "t10k-labels-idx1-ubyte"), [0, 1, 2]);
}

/// A `.npy` file as numpy writes it.
fn npy(kind: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let padding = 63 - (10 + header.len()) % 64;
    let header = format!("{header}{}\n", " ".repeat(padding));
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(elements);
    bytes
}

#[test]
fn numpy_arrays_are_read_in_their_usual_forms() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npy");
    let unit: Vec<u8> = (0..8).flat_map(|index| (index as f32 / 8.0).to_le_bytes()).collect();
    let planes: Vec<u8> = (0..24).collect();
    for (kind, shape, bytes, first) in [
        ("|u1", "(2, 2, 2)", (0..8).collect::<Vec<u8>>(), vec![0, 1, 2, 3]),
        ("|u1", "(2, 4)", (0..8).collect(), vec![0, 1, 2, 3]),
        ("<f4", "(2, 2, 2)", unit, vec![0, 32, 64, 96]),
        ("|u1", "(2, 3, 2, 2)", planes, vec![0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]),
    ] {
        fs::write(&path, npy(kind, shape, &bytes)).unwrap();
        let found = source::open(&path, &Options::default()).unwrap();
        let mut images = Vec::new();
        let mut keep = |example: images::Example<'_>| {
            images.push(example.pixels.to_vec());
            Ok(())
        };
        found.each(Part::Train, &mut keep).unwrap();
        assert_eq!((images.len(), &images[0]), (2, &first), "{kind} {shape}");
    }
}

/// Writes a `.npz` file of arrays.
fn npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

fn labels(labels: &[i64]) -> Vec<u8> {
    labels.iter().flat_map(|label| label.to_le_bytes()).collect()
}

#[test]
fn an_array_that_cannot_be_read_is_named_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let float = |value: f32| [0.5_f32, value].map(f32::to_le_bytes).concat();
    let cut = npy("|u1", "(2, 2, 2)", &[0; 5]);
    let long = [npy("|u1", "(2, 2, 2)", &[0; 8]), vec![0; 3]].concat();
    for (bytes, expected) in [
        (npy("<i8", "(2, 1, 1)", &labels(&[7, 256])), "number 1, in image 1, is 256: integers"),
        (npy("<f4", "(1, 2, 1)", &float(1.5)), "number 1, in image 0, is 1.5: integers"),
        (npy("<f4", "(1, 2, 1)", &float(f32::NAN)), "number 1, in image 0, is NaN: integers"),
        (npy("<u2", "(1, 1, 2)", &[0; 4]), "pixels of type u2 are not read: save them as uint8"),
        (cut, "it ends after 5 of 8 numbers: save or copy it again"),
        (long, "3 bytes follow after its last number: save the array again"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = line(&path);
        assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{error}");
    }
    let path = folder.path().join("a.npz");
    let images = || ("images", npy("|u1", "(2, 1, 1)", &[1, 2]));
    for (arrays, expected) in [
        (vec![], "it holds no arrays: images are expected as x_train"),
        (vec![("pixels", Vec::new())], "its arrays are pixels: images are expected"),
        (
            vec![images(), ("labels", npy("<i8", "(2,)", &labels(&[1, 1_000_000_000_000])))],
            "array labels: label 1 is 1000000000000: labels must be 0 to 2147483647",
        ),
        (
            vec![images(), ("labels", npy("<i8", "(2,)", &[0; 9]))],
            "array labels: it ends after 1 of 2 numbers",
        ),
    ] {
        npz(&path, &arrays);
        let error = line(&path);
        assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{error}");
    }
}

#[test]
fn a_damaged_archive_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let arrays =
        [("images", npy("|u1", "(2, 1, 1)", &[77, 78])), ("labels", npy("|u1", "(2,)", &[79, 80]))];
    npz(&path, &arrays);
    let whole = fs::read(&path).unwrap();
    packed(&path, &Options::default()).unwrap();
    for (name, number) in [("images", 77), ("labels", 79)] {
        let mut bytes = whole.clone();
        let place = bytes.windows(2).position(|pair| pair == [number, number + 1]).unwrap();
        bytes[place] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = line(&path);
        assert!(error.contains(&format!("array {name}: it is damaged (")), "{error}");
    }
}

#[test]
fn a_test_part_needs_a_part_to_learn_from() {
    let folder = tempfile::tempdir().unwrap();
    for inside in ["test", "test/cat"] {
        let top = folder.path().join(inside.replace('/', "-"));
        picture(&top.join(inside), "a.png", (4, 4), [0; 3]);
        picture(&top.join("cat"), "b.png", (4, 4), [9; 3]);
        let error = line(&top);
        let expected = format!(
            "{}: it has a folder test, the images to test with, but no folder train",
            top.display()
        );
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn an_archive_of_arrays_brings_its_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.npz");
    let arrays = [
        ("x_train", npy("|u1", "(3, 2, 2)", &[9; 12])),
        ("y_train", npy("<i8", "(3,)", &labels(&[4, 0, 300]))),
        ("x_test", npy("|u1", "(1, 2, 2)", &[1; 4])),
        ("y_test", npy("<i8", "(1,)", &labels(&[2]))),
    ];
    npz(&path, &arrays);
    let (packed, _place) = packed(&path, &Options::default()).unwrap();
    assert_eq!((packed.counts, packed.labels), ([3, 1], 301));
    // There are more classes than a byte can number.
    let found = elements(&packed, "train-labels-idx1-int");
    assert_eq!(found, [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 1, 44]);
}

#[test]
fn what_is_wrong_is_one_line_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path();
    let at = |name: &str| top.join(name);

    fs::create_dir(at("empty")).unwrap();
    assert_eq!(
        line(&at("empty")),
        format!("{}: no pictures in it: files that end in png, jpg, jpeg", at("empty").display())
    );

    picture(&at("mixed"), "a.png", (4, 4), [0; 3]);
    picture(&at("mixed/class"), "b.png", (4, 4), [0; 3]);
    assert!(line(&at("mixed")).contains("mixed/a.png: is a picture beside the folder"));

    picture(&at("cut"), "good.png", (4, 4), [0; 3]);
    let bytes = fs::read(at("cut/good.png")).unwrap();
    fs::write(at("cut/short.png"), &bytes[..bytes.len() / 2]).unwrap();
    assert!(line(&at("cut")).contains("cut/short.png: this picture cannot be read"));

    picture(&at("same"), "a.png", (4, 4), [0; 3]);
    picture(&at("same"), "b.png", (4, 4), [0; 3]);
    assert!(line(&at("same")).contains("two different images are needed"));

    fs::create_dir(at("idx")).unwrap();
    fs::write(at("idx/train-images-idx3-ubyte"), idx(&[2, 2, 2], &[1; 7])).unwrap();
    assert!(line(&at("idx")).contains("train-images-idx3-ubyte: it ends within image 1"));
    fs::write(at("idx/train-images-idx3-ubyte"), idx(&[2, 2, 2], &[1; 9])).unwrap();
    assert!(line(&at("idx")).contains("it goes on after the last element"));

    fs::write(at("long.npy"), npy("<i8", "(1, 1, 1)", &300_i64.to_le_bytes())).unwrap();
    assert_eq!(
        line(&at("long.npy")),
        format!(
            "{}: number 0, in image 0, is 300: integers must be 0 to 255, floats 0 to 1",
            at("long.npy").display()
        )
    );
    fs::write(at("text.txt"), "hello").unwrap();
    assert!(line(&at("text.txt")).contains("text.txt: not a set of images"));
    assert!(line(&at("gone")).contains("cannot read"));
    // A set that could not be packed leaves nothing behind.
    let place = tempfile::tempdir().unwrap();
    let cut = source::open(&at("idx"), &Options::default()).unwrap();
    pack(&cut, "cut", place.path(), &mut |_, _| {}).unwrap_err();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

/// All files below a folder with their contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_becomes_a_data_set_and_stays_as_it_is() {
    let (theirs, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = theirs.path().join("My Cats!");
    for index in 0..30_u8 {
        let colour = [8 * index, 255 - 8 * index, 0];
        picture(
            &folder.join(["b", "a"][usize::from(index) % 2]),
            &format!("{index}.png"),
            (9, 6),
            colour,
        );
    }
    let before = contents(theirs.path());
    let options = Options { side: Some(12), colour: Colour::Rgb };
    let open = || dataset(folder.as_os_str(), &options, cache.path(), &mut |_, _| {}).unwrap();
    let set = open();
    assert!(set.manifest.name.starts_with("my-cats-"), "{}", set.manifest.name);
    assert_eq!((set.manifest.train, set.manifest.test, set.labels), (27, 3, 2));
    assert_eq!(set.classes, ["a", "b"]);
    // The files are used in place, so both the set's own folder and any other folder find them.
    for place in [cache.path().join(&set.manifest.name), theirs.path().join("absent")] {
        let files = Files::verified(&place, &set.manifest).unwrap();
        let images = splits(&files).unwrap();
        assert_eq!(images.train.shape(), Shape { height: 12, width: 12, channels: 3 });
        assert_eq!((images.train.class(1), images.test.len()), ("b".into(), 3));
        let lines = describe_images(&set, &images).join("\n");
        for words in
            ["27 to learn from, 3 to test with", "12 x 12 RGB", "2 classes", "a folder of pictures"]
        {
            assert!(lines.contains(words), "{words} in {lines}");
        }
        assert_eq!(&sheet::draw(&images.train).unwrap()[1..4], b"PNG");
    }
    assert_eq!((open(), contents(theirs.path())), (set.clone(), before));
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "packed once");

    // A packed file that somebody changed is named, and stays as it is.
    let spoilt = cache.path().join(&set.manifest.name).join("classes.txt");
    fs::write(&spoilt, "A\nb\n").unwrap();
    let error = Files::verified(spoilt.parent().unwrap(), &set.manifest).unwrap_err().to_string();
    assert!(error.starts_with(spoilt.to_str().unwrap()), "{error}");
}

#[test]
fn names_paths_and_options_that_do_not_fit_are_told_apart() {
    let place = tempfile::tempdir().unwrap();
    let open = |what: &str, options: &Options| {
        dataset(what.as_ref(), options, place.path(), &mut |_, _| {})
            .map_err(|error| error.to_string())
    };
    let mnist = open("mnist", &Options { side: Some(28), ..Options::default() }).unwrap();
    assert_eq!((mnist.manifest.bytes(), mnist.shape), (54_950_048, Shape::grey(28, 28)));
    let unknown = open("minst", &Options::default()).unwrap_err();
    assert_eq!(
        unknown,
        "minst: no such file or folder, and none of the names mnist, fashion-mnist"
    );
    for (name, meant) in [("MNIST", "mnist"), ("FashionMNIST", "fashion-mnist")] {
        let error = open(name, &Options::default()).unwrap_err();
        assert!(error.ends_with(&format!("; did you mean {meant}?")), "{error}");
    }
    let empty = open("", &Options::default()).unwrap_err();
    assert!(empty.starts_with("\"\": the name of a set is empty: give a path"), "{empty}");
    let scaled = open("mnist", &Options { side: Some(32), ..Options::default() }).unwrap_err();
    assert!(scaled.starts_with("mnist: its images are 28 x 28 grey"), "{scaled}");
    let array = place.path().join("a.npy");
    fs::write(&array, npy("|u1", "(20, 2, 2)", &(0..80).collect::<Vec<u8>>())).unwrap();
    let colour = Options { colour: Colour::Rgb, ..Options::default() };
    assert!(open(array.to_str().unwrap(), &colour).unwrap_err().contains("are taken as they are"));
}

/// A PNG file that claims to be huge, in a few bytes.
fn huge() -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::new(1, 1)
        .write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    // Width and height, then the checksum of the header, which readers check.
    bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&checksum);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn pictures_that_are_none_are_one_line_each() {
    let place = tempfile::tempdir().unwrap();
    let jpeg = {
        let path = place.path().join("whole.jpg");
        RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, 9])).save(&path).unwrap();
        fs::read(path).unwrap()
    };
    for (name, bytes) in [
        ("empty.png", Vec::new()),
        ("text.png", b"no picture".to_vec()),
        ("huge.png", huge()),
        ("cut.jpg", jpeg[..jpeg.len() / 2].to_vec()),
        ("head.jpg", jpeg[..40].to_vec()),
    ] {
        let folder = place.path().join(name.replace('.', "-"));
        for index in 0..3 {
            picture(&folder, &format!("{index}.png"), (4, 4), [index; 3]);
        }
        fs::write(folder.join(name), bytes).unwrap();
        let error = line(&folder);
        assert!(error.starts_with(folder.join(name).to_str().unwrap()), "{name}: {error}");
        assert_eq!(error.lines().count(), 1, "{name}: {error}");
    }
}
