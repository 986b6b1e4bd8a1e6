//! A folder of IDX files, in the form of MNIST and its successors: images and labels of a training and a test part,
//! gzipped or not.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use crate::{
    ImagesError, Shape,
    idx::{Element, Header},
    read,
    source::{Example, Part, Visitor},
};

/// The files of a set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    train: Pair,
    test: Pair,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Pair {
    images: Option<PathBuf>,
    labels: Option<PathBuf>,
}

/// A set whose file headers fit together.
#[derive(Debug)]
pub(crate) struct IdxSet {
    files: Files,
    shape: Shape,
    counts: [Option<u64>; 2],
}

/// Finds the IDX files of a folder by their names; `None` if the folder has no images in IDX files.
pub(crate) fn find(folder: &Path) -> Result<Option<Files>, ImagesError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(ImagesError::io("read", folder))? {
        names.push(entry.map_err(ImagesError::io("read", folder))?.file_name());
    }
    names.sort();
    let mut files = Files::default();
    for name in &names {
        let lower = name.to_string_lossy().to_lowercase();
        let plain = lower.strip_suffix(".gz").unwrap_or(&lower);
        if !(plain.contains("idx") || plain.ends_with("ubyte")) {
            continue;
        }
        let is_test = plain.contains("t10k") || plain.contains("test");
        let pair = if is_test { &mut files.test } else { &mut files.train };
        let place = match (plain.contains("image"), plain.contains("label")) {
            (true, false) => &mut pair.images,
            (false, true) => &mut pair.labels,
            _ => continue,
        };
        let path = folder.join(name);
        match place {
            None => *place = Some(path),
            // The same file, once gzipped and once not.
            Some(first) if Some(path.as_path()) == with_gz(first).as_deref() => {}
            Some(first) => {
                let what = format!(
                    "exists beside {}, and it is not clear which one is meant: remove one",
                    first.display()
                );
                return Err(ImagesError::file(path, what));
            }
        }
    }
    Ok(files.train.images.is_some().then_some(files))
}

fn with_gz(path: &Path) -> Option<PathBuf> {
    let mut name = path.file_name()?.to_owned();
    name.push(".gz");
    Some(path.with_file_name(name))
}

impl IdxSet {
    pub(crate) fn open(files: Files) -> Result<Self, ImagesError> {
        let mut shape = None;
        let counts = [&files.train, &files.test].map(|pair| pair.open(&mut shape));
        let [train, test] = counts;
        let (counts, shape) = ([train?, test?], shape.unwrap_or(Shape::grey(0, 0)));
        let (train, test) = (&files.train, &files.test);
        if let (Some(images), true) =
            (&test.images, train.labels.is_some() != test.labels.is_some())
        {
            let what = "only one of the two parts of this set has labels: add the others, or \
                        remove them";
            return Err(ImagesError::file(images, what));
        }
        Ok(Self { files, shape, counts })
    }

    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn count(&self, part: Part) -> Option<u64> {
        self.counts[part as usize]
    }

    pub(crate) const fn is_labelled(&self) -> bool {
        self.files.train.labels.is_some()
    }

    pub(crate) fn each(&self, part: Part, visit: &mut Visitor<'_>) -> Result<(), ImagesError> {
        let pair = match part {
            Part::Train => &self.files.train,
            Part::Test => &self.files.test,
        };
        let Some(path) = &pair.images else { return Ok(()) };
        let (_, mut images) = open(path)?;
        let mut labels = pair.labels.as_ref().map(|path| Labels::open(path)).transpose()?;
        let mut pixels = vec![0; self.shape.bytes()];
        for index in 0..self.counts[part as usize].unwrap_or_default() {
            images.read_exact(&mut pixels).map_err(|error| {
                ImagesError::file(path, format!("it ends within image {index}: {error}"))
            })?;
            let label = labels.as_mut().map(|labels| labels.next(index)).transpose()?;
            visit(Example { pixels: &pixels, label })?;
        }
        ended(path, images)?;
        labels.map_or(Ok(()), |labels| ended(labels.path, labels.reader))
    }
}

impl Pair {
    /// Reads the headers and returns the number of images; all images have one shape.
    fn open(&self, shape: &mut Option<Shape>) -> Result<Option<u64>, ImagesError> {
        let Some(images) = &self.images else { return Ok(None) };
        let (header, _) = open(images)?;
        let found = read::shape(images, &header)?;
        if *shape.get_or_insert(found) != found {
            let what = format!("its images are {found}, those of the other part are not");
            return Err(ImagesError::file(images, what));
        }
        if let Some(labels) = &self.labels {
            let labels = Labels::open(labels)?;
            if labels.count != header.shape[0] {
                let what = format!(
                    "its labels are {}, but the images are {}",
                    labels.count, header.shape[0]
                );
                return Err(ImagesError::file(labels.path, what));
            }
        }
        Ok(Some(header.shape[0].into()))
    }
}

/// The labels in a file, read one at a time.
struct Labels<'a> {
    path: &'a Path,
    element: Element,
    count: u32,
    reader: Box<dyn Read>,
}

impl<'a> Labels<'a> {
    fn open(path: &'a Path) -> Result<Self, ImagesError> {
        let (header, reader) = open(path)?;
        let [count] = header.shape[..] else {
            let what = format!("its shape is {:?}: [n] is expected of labels", header.shape);
            return Err(ImagesError::file(path, what));
        };
        Ok(Self { path, element: header.element, count, reader })
    }

    fn next(&mut self, index: u64) -> Result<u32, ImagesError> {
        let wrong = |what: String| ImagesError::file(self.path, what);
        let mut bytes = [0; 4];
        let place = match self.element {
            Element::Byte => &mut bytes[3..],
            Element::Int => &mut bytes[..],
        };
        self.reader
            .read_exact(place)
            .map_err(|error| wrong(format!("it ends within label {index}: {error}")))?;
        let label = i32::from_be_bytes(bytes);
        u32::try_from(label).map_err(|_| wrong(format!("label {index} is {label}, below zero")))
    }
}

/// Opens a file and reads its header; the reader unzips a gzipped file.
fn open(path: &Path) -> Result<(Header, Box<dyn Read>), ImagesError> {
    let file = File::open(path).map_err(ImagesError::io("open", path))?;
    if !file.metadata().map_err(ImagesError::io("read", path))?.is_file() {
        return Err(ImagesError::file(path, "not a regular file"));
    }
    let is_zipped = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    let mut reader: Box<dyn Read> = if is_zipped {
        Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(file))))
    } else {
        Box::new(BufReader::new(file))
    };
    let header = Header::read(&mut reader).map_err(|what| ImagesError::file(path, what))?;
    Ok((header, reader))
}

/// Refuses a file with bytes after its last element.
fn ended(path: &Path, mut reader: impl Read) -> Result<(), ImagesError> {
    match reader.read(&mut [0]).map_err(ImagesError::io("read", path))? {
        0 => Ok(()),
        _ => Err(ImagesError::file(
            path,
            "it goes on after the last element that its header announces",
        )),
    }
}
