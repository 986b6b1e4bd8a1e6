//! A folder of pictures. Its subfolders are classes, in the order of their names; subfolders named `train` and `test`
//! divide the set into a training and a test part.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    ImagesError, Shape,
    picture::{self, ENDINGS, Probe},
    source::{Colour, Example, Options, Part, Visitor},
};

/// The side in pixels if pictures differ in size and the options name none.
const SIDE: u32 = 64;

/// Names of the folder with the test part.
const TEST: [&str; 4] = ["test", "val", "valid", "validation"];

/// The pictures that were found; none of them is read yet.
#[derive(Debug)]
pub(crate) struct Folder {
    train: Vec<Found>,
    test: Option<Vec<Found>>,
    classes: Vec<String>,
    is_labelled: bool,
    shape: Shape,
    ignored: usize,
}

/// A picture and its label.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    label: Option<u32>,
}

/// The content of one folder, in the order of names.
#[derive(Default)]
struct Listing {
    folders: Vec<PathBuf>,
    pictures: Vec<PathBuf>,
    others: usize,
}

impl Folder {
    pub(crate) fn open(path: &Path, options: &Options) -> Result<Self, ImagesError> {
        let top = Listing::read(path)?;
        let named = |names: &[&str]| {
            let is = |folder: &&PathBuf| {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                names.contains(&name.to_lowercase().as_str())
            };
            top.folders.iter().find(is).cloned()
        };
        let (train, test) = match (named(&["train"]), named(&TEST)) {
            (Some(train), test) => (train, test),
            (None, None) => (path.to_owned(), None),
            (None, Some(test)) => return Err(no_train(path, &test)),
        };
        let mut ignored = 0;
        let classes = Listing::read(&train)?.class_names()?;
        let train = pictures(&train, &classes, &mut ignored)?;
        let test = test.map(|test| pictures(&test, &classes, &mut ignored)).transpose()?;
        if train.is_empty() {
            let what = format!("no pictures in it: files that end in {}", ENDINGS.join(", "));
            return Err(ImagesError::file(path, what));
        }
        let shape = common_shape(train.iter().chain(test.iter().flatten()), options)?;
        let is_labelled = !classes.is_empty();
        Ok(Self { train, test, classes, is_labelled, shape, ignored })
    }

    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn classes(&self) -> &[String] {
        &self.classes
    }

    pub(crate) const fn is_labelled(&self) -> bool {
        self.is_labelled
    }

    pub(crate) const fn ignored(&self) -> usize {
        self.ignored
    }

    pub(crate) fn count(&self, part: Part) -> Option<u64> {
        self.part(part).map(|found| found.len() as u64)
    }

    fn part(&self, part: Part) -> Option<&[Found]> {
        match part {
            Part::Train => Some(&self.train),
            Part::Test => self.test.as_deref(),
        }
    }

    pub(crate) fn each(&self, part: Part, visit: &mut Visitor<'_>) -> Result<(), ImagesError> {
        for Found { path, label } in self.part(part).unwrap_or_default() {
            let pixels = picture::read(path, self.shape)?;
            visit(Example { pixels: &pixels, label: *label })?;
        }
        Ok(())
    }
}

impl Listing {
    fn read(folder: &Path) -> Result<Self, ImagesError> {
        let mut listing = Self::default();
        let entries = fs::read_dir(folder).map_err(ImagesError::io("read", folder))?;
        for entry in entries {
            let entry = entry.map_err(ImagesError::io("read", folder))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            // Links are followed.
            let metadata = fs::metadata(&path).map_err(ImagesError::io("read", &path))?;
            let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            if metadata.is_dir() {
                listing.folders.push(path);
            } else if metadata.is_file() && ENDINGS.contains(&ending.as_str()) {
                listing.pictures.push(path);
            } else {
                listing.others += 1;
            }
        }
        listing.folders.sort();
        listing.pictures.sort();
        Ok(listing)
    }

    /// The names of the folders, as the names of classes.
    fn class_names(&self) -> Result<Vec<String>, ImagesError> {
        if let (Some(folder), Some(picture)) = (self.folders.first(), self.pictures.first()) {
            let what = format!(
                "is a picture beside the folder {}: put all pictures into folders, one for each \
                 class, or none",
                folder.display()
            );
            return Err(ImagesError::file(picture, what));
        }
        let name = |folder: &PathBuf| {
            let name = folder.file_name().unwrap_or_default();
            let plain = name.to_str().filter(|name| !name.contains(['\n', '\r']));
            let what = "the name of a class must be UTF-8 on one line: rename the folder";
            plain.map(str::to_owned).ok_or_else(|| ImagesError::file(folder, what))
        };
        self.folders.iter().map(name).collect()
    }
}

/// The error for a set with a test part, but without a part to learn from.
fn no_train(path: &Path, test: &Path) -> ImagesError {
    let name = test.file_name().unwrap_or_default().to_string_lossy();
    let what = format!(
        "it has a folder {name}, the images to test with, but no folder train: put the images to \
         learn from into {}, or rename {name} if it is a class",
        path.join("train").display()
    );
    ImagesError::file(path, what)
}

/// The pictures of a part, in the order of their classes, then of their names.
fn pictures(
    folder: &Path,
    classes: &[String],
    ignored: &mut usize,
) -> Result<Vec<Found>, ImagesError> {
    let top = Listing::read(folder)?;
    *ignored += top.others;
    let names = top.class_names()?;
    if classes.is_empty() && names.is_empty() {
        return Ok(top.pictures.into_iter().map(|path| Found { path, label: None }).collect());
    }
    if let Some(picture) = top.pictures.first() {
        let what = "a picture outside of a folder of a class, in a set that has classes";
        return Err(ImagesError::file(picture, what));
    }
    let mut found = Vec::new();
    for (class, name) in top.folders.iter().zip(&names) {
        let label = classes.iter().position(|other| other == name).ok_or_else(|| {
            ImagesError::file(class, "a class that the images to learn from do not have")
        })?;
        let Listing { folders, pictures, others } = Listing::read(class)?;
        *ignored += others;
        if let Some(deeper) = folders.first() {
            let what = "a folder within the folder of a class: one level is read";
            return Err(ImagesError::file(deeper, what));
        }
        let label = Some(label as u32);
        found.extend(pictures.into_iter().map(|path| Found { path, label }));
    }
    Ok(found)
}

/// The shape that all pictures are scaled to.
fn common_shape<'a>(
    pictures: impl Iterator<Item = &'a Found>,
    options: &Options,
) -> Result<Shape, ImagesError> {
    let mut first = None;
    let (mut has_colour, mut is_uniform) = (false, true);
    for Found { path, .. } in pictures {
        let Probe { height, width, has_colour: colourful } = picture::probe(path)?;
        has_colour |= colourful;
        is_uniform &= *first.get_or_insert((height, width)) == (height, width);
    }
    let (height, width) = match (options.side, first) {
        (Some(side), _) => (side, side),
        (None, Some(size)) if is_uniform => size,
        (None, _) => (SIDE, SIDE),
    };
    let is_rgb = match options.colour {
        Colour::Auto => has_colour,
        Colour::Grey => false,
        Colour::Rgb => true,
    };
    Ok(Shape { height, width, channels: if is_rgb { 3 } else { 1 } })
}
