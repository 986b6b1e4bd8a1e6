//! Packs a set in the form that workers read: four IDX files in a folder of their own, and the names
//! of the classes beside them.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek as _, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use data::hex;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    ImagesError, Shape, holdout,
    idx::{Element, Header},
    source::{Part, Source},
};

/// The file with the names of the classes: one per line, in the order of the labels.
pub const CLASSES: &str = "classes.txt";

/// Hex digits of the digest in the name of a packed set's folder.
const NAME_DIGITS: usize = 16;

/// The number of labels that fit into one byte.
const BYTE_LABELS: u32 = 256;

/// A packed set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The folder with its files.
    pub folder: PathBuf,
    /// Its files; the training images first.
    pub files: Vec<PackedFile>,
    /// The shape of each image.
    pub shape: Shape,
    /// The numbers of training and of test images.
    pub counts: [u32; 2],
    /// The names of the classes, where they have names.
    pub classes: Vec<String>,
    /// One more than the largest label; 0 without labels.
    pub labels: u32,
}

/// SHA-256 over the digests and names of a set's files. Equal sets have equal digests.
pub(crate) fn digest<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut hasher = Sha256::new();
    for (name, sha256) in files {
        hasher.update(format!("{sha256}  {name}\n"));
    }
    hex(&hasher.finalize())
}

/// A file of a packed set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFile {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in lowercase hexadecimal.
    pub sha256: String,
}

impl Packed {
    /// SHA-256 over the digests and names of its files. Equal sets have equal digests.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(self.files.iter().map(|file| (&*file.name, &*file.sha256)))
    }
}

/// Packs a set into a folder below `into`, named by `stem` and the set's digest. If the folder exists already, it is
/// left as it is. `progress` gets the number of images read and the total.
///
/// # Errors
/// An image cannot be read, the set has too few images, or the disk reported an error.
pub fn pack(
    source: &Source,
    stem: &str,
    into: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Packed, ImagesError> {
    fs::create_dir_all(into).map_err(ImagesError::io("create", into))?;
    let folder = tempfile::Builder::new()
        .prefix(".packing-")
        .tempdir_in(into)
        .map_err(ImagesError::io("create a folder in", into))?;
    let total = [Part::Train, Part::Test].iter().filter_map(|part| source.count(*part)).sum();
    let mut done = 0;
    let mut heard = || {
        done += 1;
        progress(done, total);
    };
    let train = Spool::fill(source, Part::Train, &folder, &mut heard)?;
    let parts = match source.count(Part::Test) {
        Some(_) => [train, Spool::fill(source, Part::Test, &folder, &mut heard)?],
        None => train.hold_out(source, &folder)?,
    };
    for (spool, purpose) in parts.iter().zip(["to learn from", "to test with"]) {
        if spool.count == 0 {
            return Err(ImagesError::file(source.path(), format!("no images {purpose}")));
        }
    }
    let labels = parts.iter().flat_map(|part| &part.labels).max().map_or(0, |most| most + 1);
    // Users often take the first images of a set as a sample of it, so these must be of all classes.
    let parts = parts.map(|part| part.shuffled(source, &folder));
    let [train, test] = parts;
    let parts = [train?, test?];
    let shape = source.shape();
    let counts = parts.each_ref().map(|part| part.count);
    let mut files = Vec::new();
    for (spool, prefix) in parts.into_iter().zip(["train", "t10k"]) {
        spool.finish(folder.path(), prefix, (shape, labels), &mut files)?;
    }
    let classes = source.classes().to_vec();
    if !classes.is_empty() {
        let lines: String = classes.iter().map(|class| format!("{class}\n")).collect();
        files.push(write(folder.path(), CLASSES.into(), &mut lines.as_bytes())?);
    }
    let packed = Packed { folder: into.into(), files, shape, counts, classes, labels };
    let digits: String = packed.digest().chars().take(NAME_DIGITS).collect();
    let place = into.join(format!("{stem}-{digits}"));
    put_in_place(folder, &place)?;
    Ok(Packed { folder: place, ..packed })
}

/// Renames the folder to its final name, unless that folder exists already.
fn put_in_place(folder: TempDir, place: &Path) -> Result<(), ImagesError> {
    match fs::rename(folder.path(), place) {
        Ok(()) => {
            let _renamed = folder.keep();
            Ok(())
        }
        // Another process has packed the same images.
        Err(_) if place.is_dir() => Ok(()),
        Err(error) => Err(ImagesError::io("create", place)(error)),
    }
}

/// Images in an unnamed temporary file, until their number is known.
struct Spool {
    pixels: File,
    count: u32,
    labels: Vec<u32>,
    /// A key for each image, if some are to be held out, or all are to be put in order.
    keys: Vec<u64>,
}

impl Spool {
    fn new(folder: &TempDir) -> Result<Self, ImagesError> {
        let pixels = tempfile::tempfile_in(folder.path())
            .map_err(ImagesError::io("create a file in", folder.path()))?;
        Ok(Self { pixels, count: 0, labels: Vec::new(), keys: Vec::new() })
    }

    fn fill(
        source: &Source,
        part: Part,
        folder: &TempDir,
        heard: &mut dyn FnMut(),
    ) -> Result<Self, ImagesError> {
        let mut spool = Self::new(folder)?;
        let has_keys = source.count(Part::Test).is_none() || source.is_in_order_of_classes();
        let mut writer = BufWriter::new(&spool.pixels);
        source.each(part, &mut |example| {
            spool.count = spool.count.checked_add(1).ok_or_else(|| {
                ImagesError::file(source.path(), "more images than 32 bits can number")
            })?;
            writer.write_all(example.pixels).map_err(ImagesError::io("write to", folder.path()))?;
            spool.labels.extend(example.label);
            if has_keys {
                spool.keys.push(holdout::key(example.pixels));
            }
            heard();
            Ok(())
        })?;
        writer.flush().map_err(ImagesError::io("write to", folder.path()))?;
        drop(writer);
        Ok(spool)
    }

    /// Divides the images into a training and a test part.
    fn hold_out(mut self, source: &Source, folder: &TempDir) -> Result<[Self; 2], ImagesError> {
        let threshold = holdout::threshold(&self.keys).ok_or_else(|| {
            let what = "two different images are needed at the least: one to learn from and one to \
                        test with";
            ImagesError::file(source.path(), what)
        })?;
        let failed = || ImagesError::io("write to", folder.path());
        let mut parts = [Self::new(folder)?, Self::new(folder)?];
        let mut image = vec![0; source.shape().bytes()];
        self.pixels.rewind().map_err(failed())?;
        let mut reader = BufReader::new(&self.pixels);
        for (index, key) in self.keys.iter().enumerate() {
            let part = &mut parts[usize::from(*key <= threshold)];
            reader.read_exact(&mut image).map_err(failed())?;
            part.pixels.write_all(&image).map_err(failed())?;
            part.count += 1;
            part.labels.extend(self.labels.get(index));
            part.keys.push(*key);
        }
        Ok(parts)
    }

    /// Puts the images in the order of a hash of their pixels, which is unrelated to their classes. Does so only if the
    /// source gives them class by class.
    fn shuffled(self, source: &Source, folder: &TempDir) -> Result<Self, ImagesError> {
        if !source.is_in_order_of_classes() {
            return Ok(self);
        }
        let failed = || ImagesError::io("write to", folder.path());
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_by_key(|index| (self.keys[*index], *index));
        let mut spool = Self::new(folder)?;
        let mut image = vec![0; source.shape().bytes()];
        let mut writer = BufWriter::new(&spool.pixels);
        for index in order {
            let place = index as u64 * image.len() as u64;
            self.pixels.read_exact_at(&mut image, place).map_err(failed())?;
            writer.write_all(&image).map_err(failed())?;
            spool.labels.extend(self.labels.get(index));
        }
        writer.flush().map_err(failed())?;
        drop(writer);
        spool.count = self.count;
        Ok(spool)
    }

    /// Writes the files of a part.
    fn finish(
        mut self,
        folder: &Path,
        prefix: &str,
        (shape, labels): (Shape, u32),
        files: &mut Vec<PackedFile>,
    ) -> Result<(), ImagesError> {
        let mut sides = vec![self.count, shape.height, shape.width];
        if shape.channels > 1 {
            sides.push(shape.channels);
        }
        let name = format!("{prefix}-images-idx{}-ubyte", sides.len());
        let header = Header { element: Element::Byte, shape: sides }.to_bytes();
        self.pixels.rewind().map_err(ImagesError::io("read from", folder))?;
        files.push(write(folder, name, &mut header.chain(self.pixels))?);
        if labels == 0 {
            return Ok(());
        }
        let (element, kind) = match labels {
            0..=BYTE_LABELS => (Element::Byte, "ubyte"),
            _ => (Element::Int, "int"),
        };
        let mut bytes = Header { element, shape: vec![self.count] }.to_bytes();
        for label in &self.labels {
            let label = label.to_be_bytes();
            bytes.extend(if element == Element::Byte { &label[3..] } else { &label[..] });
        }
        files.push(write(folder, format!("{prefix}-labels-idx1-{kind}"), &mut &bytes[..])?);
        Ok(())
    }
}

/// Writes a whole file, and returns its size and digest.
fn write(folder: &Path, name: String, reader: &mut dyn Read) -> Result<PackedFile, ImagesError> {
    let path = folder.join(&name);
    let file = File::create_new(&path).map_err(ImagesError::io("create", &path))?;
    let mut writer = Hashing { file: BufWriter::new(file), hasher: Sha256::new() };
    let bytes = io::copy(reader, &mut writer).map_err(ImagesError::io("write", &path))?;
    let Hashing { file, hasher } = writer;
    let written = file.into_inner().map_err(io::IntoInnerError::into_error);
    written.and_then(|file| file.sync_all()).map_err(ImagesError::io("write", &path))?;
    Ok(PackedFile { name, bytes, sha256: hex(&hasher.finalize()) })
}

/// A file that is hashed while it is written.
struct Hashing {
    file: BufWriter<File>,
    hasher: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
