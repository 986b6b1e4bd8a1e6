//! Finds the set that a person gives by name or by path, and describes it for a run.

use std::{ffi::OsStr, path::Path};

use config::{FileEntry, Manifest};
use data::Splits;

use crate::{
    Images, ImagesError, Options, Packed, Shape, named,
    pack::{self, pack},
    source::{self, Colour},
};

/// Characters of a path's last part that become part of a packed set's name.
const STEM_CHARS_MAX: usize = 32;

/// A set, with the facts that must be known before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The files of the set.
    pub manifest: Manifest,
    /// The shape of each image.
    pub shape: Shape,
    /// One more than the largest label; 0 without labels.
    pub labels: u32,
    /// The names of the classes in the order of the labels, where they have names.
    pub classes: Vec<String>,
    /// What was found, in words.
    pub kind: &'static str,
}

/// The set of that name, or the set at that path. A set at a path is packed into its own folder below `cache`, unless
/// it is there already; the path itself is only read. `progress` gets the number of images packed and the total.
///
/// # Errors
/// The text is neither a name nor a path, the options do not fit the set, or the set cannot be read. The error is one
/// line that names the file.
pub fn dataset(
    what: &OsStr,
    options: &Options,
    cache: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Dataset, ImagesError> {
    if let Some(manifest) = what.to_str().and_then(named::manifest) {
        let (shape, classes) = (Shape::grey(28, 28), named::classes(&manifest));
        fits(&manifest.name, shape, options)?;
        return Ok(Dataset { manifest, shape, labels: 10, classes, kind: "a set known by name" });
    }
    let path = Path::new(what);
    if !path.exists() {
        return Err(unknown(what));
    }
    let source = source::open(path, options)?;
    fits(&path.display().to_string(), source.shape(), options)?;
    let packed = pack(&source, &stem(path), cache, progress)?;
    let manifest = describe(&packed, path)?;
    let Packed { shape, labels, classes, .. } = packed;
    Ok(Dataset { manifest, shape, labels, classes, kind: source.describe() })
}

/// The error for a text that is neither a name nor a path.
fn unknown(what: &OsStr) -> ImagesError {
    let names = named::NAMES.join(", ");
    if what.is_empty() {
        let wrong = format!("the name of a set is empty: give a path, or one of {names}");
        return ImagesError::file("\"\"", wrong);
    }
    // Names are compared without case and punctuation, because other programs write them differently.
    let plain = |name: &str| -> String {
        name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
    };
    let given = plain(&what.to_string_lossy());
    let meant = named::NAMES.into_iter().find(|name| plain(name) == given);
    let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    let wrong = format!("no such file or folder, and none of the names {names}{meant}");
    ImagesError::file(what, wrong)
}

/// Refuses options that have no effect on the set: only pictures are scaled or change their colour.
fn fits(name: &str, shape: Shape, options: &Options) -> Result<(), ImagesError> {
    let is_size = options.side.is_none_or(|side| (side, side) == (shape.height, shape.width));
    let is_colour = match options.colour {
        Colour::Auto => true,
        Colour::Grey => shape.channels == 1,
        Colour::Rgb => shape.channels == 3,
    };
    if is_size && is_colour {
        return Ok(());
    }
    let what = format!(
        "its images are {shape}, and are taken as they are: only folders of pictures are scaled or \
         change their colour"
    );
    Err(ImagesError::file(name, what))
}

/// The beginning of a packed set's folder name: the last part of its path, in plain letters.
fn stem(path: &Path) -> String {
    let name = path.canonicalize().ok();
    let name = name.as_deref().unwrap_or(path).file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let stem: String = name.chars().map(plain).take(STEM_CHARS_MAX).collect();
    let stem = stem.trim_matches('-');
    if stem.is_empty() { "images".into() } else { stem.into() }
}

/// The manifest of a packed set. Its files are used where they were packed.
fn describe(packed: &Packed, path: &Path) -> Result<Manifest, ImagesError> {
    let files = packed.files.iter().map(|file| {
        let place = packed.folder.join(&file.name);
        // A path that is not UTF-8 cannot be in a manifest; workers then fetch the file from the coordinator.
        let source = place.to_str().map(|place| format!("file://{place}"));
        FileEntry {
            name: file.name.clone(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
            sources: source.into_iter().collect(),
        }
    });
    let [train, test] = packed.counts;
    let name = packed.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let manifest = Manifest { name, files: files.collect(), train, test };
    manifest.validate().map_err(|error| ImagesError::file(path, error.to_string()))?;
    Ok(manifest)
}

/// SHA-256 over the digests and names of a set's files. Equal sets have equal digests.
#[must_use]
pub fn digest(manifest: &Manifest) -> String {
    pack::digest(manifest.files.iter().map(|file| (&*file.name, &*file.sha256)))
}

/// A description of a set for a person, as lines.
#[must_use]
pub fn describe_images(dataset: &Dataset, images: &Splits<Images>) -> Vec<String> {
    let Dataset { manifest, shape, kind, .. } = dataset;
    let mut lines = vec![
        format!("{}: {kind}", manifest.name),
        format!("  images   {} to learn from, {} to test with", manifest.train, manifest.test),
        format!("  shape    {shape}: {} numbers of one byte each", shape.bytes()),
    ];
    lines.extend(labels(images));
    lines.push(format!("  digest   {}", digest(manifest)));
    let file = |file: &FileEntry| format!("  {}  {:>12}  {}", file.sha256, file.bytes, file.name);
    lines.extend(manifest.files.iter().map(file));
    lines
}

/// The most classes that are listed; the others are only counted.
const CLASSES_MAX: usize = 20;

/// The number of images of each class, as lines.
fn labels(images: &Splits<Images>) -> Vec<String> {
    let parts = [&images.train, &images.test];
    let count = parts.iter().map(|part| part.label_count()).max().unwrap_or(0) as usize;
    if count == 0 {
        return vec!["  labels   none".into()];
    }
    let mut lines = vec![format!(
        "  labels   {count} {}, images to learn from and to test with",
        if count == 1 { "class" } else { "classes" }
    )];
    let numbers = parts.map(|part| {
        let mut numbers = std::collections::BTreeMap::new();
        for label in (0..part.len() as u32).filter_map(|index| part.label(index)) {
            *numbers.entry(label).or_insert(0_u32) += 1;
        }
        numbers
    });
    for label in (0..count as u32).take(CLASSES_MAX) {
        let [train, test] = numbers.each_ref().map(|part| part.get(&label).unwrap_or(&0));
        lines.push(format!("    {label:>3}  {train:>8} {test:>8}  {}", images.train.class(label)));
    }
    if count > CLASSES_MAX {
        lines.push(format!("    and {} more", count - CLASSES_MAX));
    }
    lines
}
