//! The output of a command: whole files and printed lines.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{ArgMatches, parser::ValueSource};
use disk::DiskError;

/// Whether a file goes to standard output, as with `--output /dev/stdout`. Lines then go to standard
/// error, because they would corrupt the file.
static IS_STDOUT_AN_OUTPUT: AtomicBool = AtomicBool::new(false);

/// Bytes near the beginning of the pictures and pages that this program writes.
const MARKS: [&[u8]; 2] = [picture::MARK, b"<!-- Written by vae explore. -->"];

/// Levels of folders in a set of pictures: `train` and `test`, and classes in them.
const SET_LEVELS: u32 = 2;

/// The name of a kind of file, and the endings of the formats in which it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    name: &'static str,
    /// The endings without the dot, in lower case; the usual one is the first.
    endings: &'static [&'static str],
}

/// A picture.
pub(crate) const PICTURE: Kind = Kind { name: "a picture", endings: &["png"] };
/// A page for a browser.
pub(crate) const PAGE: Kind = Kind { name: "a page", endings: &["html"] };
/// Several pictures, shown one after the other.
pub(crate) const ANIMATION: Kind = Kind { name: "an animation", endings: &["gif"] };
/// Latents of images.
pub(crate) const TABLE: Kind =
    Kind { name: "a table of latents", endings: &["npy", "parquet", "csv"] };
/// Digits as a picture or as an array of numbers.
pub(crate) const DIGITS: Kind =
    Kind { name: "a picture or an array of digits", endings: &["png", "npy"] };
/// A Gaussian mixture.
pub(crate) const MIXTURE: Kind = Kind { name: "a mixture", endings: &["safetensors"] };

/// Endings of files. A path with such an ending is refused where a folder is written.
const FILE_ENDINGS: [&str; 14] = [
    "bin",
    "csv",
    "gz",
    "h5",
    "json",
    "npz",
    "onnx",
    "pb",
    "pt",
    "pth",
    "safetensors",
    "tar",
    "tsv",
    "zip",
];

impl Kind {
    /// The format that belongs to a path's ending.
    pub(crate) fn format(&self, path: &Path) -> Option<&'static str> {
        let ending = ending(path);
        self.endings.iter().find(|known| **known == ending).copied()
    }

    /// The formats as part of a sentence.
    pub(crate) fn named(&self) -> String {
        let Self { name, endings } = self;
        let listed: Vec<String> = endings.iter().map(|ending| format!(".{ending}")).collect();
        match &listed[..] {
            [first @ .., last] if !first.is_empty() => {
                format!("{name} ends in {} or {last}", first.join(", "))
            }
            _ => format!("{name} ends in {}", listed.concat()),
        }
    }
}

/// The part of a path after its last dot, in lower case.
fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// The default output path, if the user has named no output.
static DEFAULT_OUTPUT: OnceLock<PathBuf> = OnceLock::new();

/// Notes whether the user has named the output.
pub(crate) fn note_default(matches: &ArgMatches) {
    // A command such as `dataset inspect` has a subcommand of its own.
    let mut matches = matches;
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    if let Ok(Some(path)) = matches.try_get_one::<PathBuf>("output")
        && matches.value_source("output") == Some(ValueSource::DefaultValue)
    {
        // Only the first call has an effect, and there is only one.
        let _before = DEFAULT_OUTPUT.set(path.clone());
    }
}

/// Refuses to replace another program's file at the default path, which the user has not named.
fn refuse_unnamed(path: &Path) -> Result<(), DiskError> {
    let is_named = DEFAULT_OUTPUT.get().is_none_or(|default| default != path);
    if is_named { Ok(()) } else { disk::refuse_unnamed(path, &MARKS, "vae") }
}

/// The checkpoint that was taken from a run, whose newest one the user did not name.
static TAKEN: OnceLock<PathBuf> = OnceLock::new();

/// Notes the checkpoint that was taken from a run, for the lines about files.
pub(crate) fn note_taken(checkpoint: &Path) {
    // Only the first call has an effect, and there is only one.
    let _before = TAKEN.set(checkpoint.into());
}

/// A file to be written. Its path was checked before the work began.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    format: &'static str,
}

impl Output {
    /// Checks the path. A path that cannot be written, or an ending of another format, is refused.
    pub(crate) fn new(path: &Path, kind: Kind) -> Result<Self> {
        let shown = path.display();
        ensure!(!path.is_dir(), "cannot write {shown}: it is a folder");
        let folder = folder_of(path);
        ensure!(folder.is_dir(), "cannot write {shown}: there is no folder {}", folder.display());
        refuse_unnamed(path)?;
        ensure!(path != Path::new("-"), "cannot write -: standard output is called /dev/stdout");
        let format = match kind.format(path) {
            Some(format) => format,
            // Devices and pipes cannot be given an ending.
            None if path.exists() && !path.is_file() => kind.endings[0],
            None if disk::is_standard_output(path) => kind.endings[0],
            None => bail!("cannot write {shown}: {}", kind.named()),
        };
        disk::try_write(path)?;
        if disk::is_standard_output(path) {
            IS_STDOUT_AN_OUTPUT.store(true, Ordering::Relaxed);
        }
        Ok(Self { path: path.into(), format })
    }

    /// Refuses a path that the command also reads from, because its content would be lost.
    pub(crate) fn is_no_input<'a>(&self, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        Ok(disk::refuse_input(&self.path, inputs)?)
    }

    /// Refuses a file in a folder of pictures that the command reads: it would replace a picture, or be read as one the
    /// next time.
    pub(crate) fn is_outside(&self, read: &Path) -> Result<()> {
        if !read.is_dir() {
            return self.is_no_input([read]);
        }
        let mut inputs = Vec::new();
        list(read, SET_LEVELS, &mut inputs);
        self.is_no_input(inputs.iter().map(PathBuf::as_path))?;
        let is_inside = |resolve: fn(&Path) -> io::Result<PathBuf>| {
            let place = resolve(&self.path).or_else(|_| resolve(folder_of(&self.path)));
            place.is_ok_and(|place| resolve(read).is_ok_and(|read| place.starts_with(read)))
        };
        ensure!(
            !is_inside(|path| fs::canonicalize(path))
                && !is_inside(|path| std::path::absolute(path)),
            "cannot write {}: it is in {}, which is read from; name a file elsewhere with --output",
            self.path.display(),
            read.display()
        );
        Ok(())
    }

    /// A file in a folder that this program has created.
    pub(crate) fn inside(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        ensure!(!path.is_dir(), "cannot write {}: it is a folder", path.display());
        disk::try_write(&path)?;
        Ok(Self { path, format: "" })
    }

    /// The format of the file: an ending without the dot.
    pub(crate) const fn format(&self) -> &'static str {
        self.format
    }

    /// Writes the file, whole or not at all, and prints a line about it.
    pub(crate) fn write(&self, bytes: &[u8], what: &str) -> Result<()> {
        match disk::write_whole(&self.path, bytes) {
            // A closed reader is not an error, as for printed lines.
            Err(error) if error.is_closed_pipe() && disk::is_standard_output(&self.path) => {
                return Ok(());
            }
            written => written?,
        }
        let from = TAKEN.get().map(|taken| format!(", from {}", taken.display()));
        say(&format!("Wrote {} ({what}){}", self.path.display(), from.unwrap_or_default()));
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Lists the files in a folder, and in folders in it up to a number of levels. Links are followed. What cannot be read
/// is left out.
fn list(folder: &Path, levels: u32, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_file() {
            files.push(path);
        } else if levels > 0 && path.is_dir() {
            list(&path, levels - 1, files);
        }
    }
}

/// Refuses a folder that cannot be created, or whose name looks like the name of a file.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    let shown = folder.display();
    if folder.is_dir() {
        return Ok(());
    }
    ensure!(!folder.exists(), "cannot create {shown}: there is a file of this name");
    let ending = ending(folder);
    ensure!(
        !FILE_ENDINGS.contains(&&*ending),
        "cannot create {shown}: a folder is written, with several files; name one without .{ending}"
    );
    Ok(())
}

/// Creates a folder and its parents, if missing.
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Prints a line on standard output. A failure is reported when the program ends.
pub(crate) fn say(line: &str) {
    if IS_STDOUT_AN_OUTPUT.load(Ordering::Relaxed) {
        return complain(line);
    }
    stdout::say!("{line}");
}

/// Prints a line on standard error.
pub(crate) fn complain(line: &str) {
    let _closed = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_names_the_format_in_either_case() {
        assert_eq!(TABLE.format(Path::new("a.b/c.NPY")), Some("npy"));
        assert_eq!(PICTURE.format(Path::new("map.png.svg")), None);
        assert_eq!(PICTURE.format(Path::new("png")), None);
        assert_eq!(PICTURE.named(), "a picture ends in .png");
        assert_eq!(DIGITS.named(), "a picture or an array of digits ends in .png or .npy");
        assert_eq!(TABLE.named(), "a table of latents ends in .npy, .parquet or .csv");
    }

    #[test]
    fn other_endings_are_refused_and_devices_taken() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, kind| {
            let error = Output::new(&folder.path().join(name), kind).unwrap_err().to_string();
            assert!(error.ends_with(&kind.named()), "{error}");
        };
        for name in ["m.svg", "m.jpg", "m", "m.", ".png", "m.png.bak"] {
            refused(name, PICTURE);
        }
        refused("m.txt", TABLE);
        refused("m.json", MIXTURE);
        refused("m.mp4", ANIMATION);
        refused("m.parquet", DIGITS);
        assert_eq!(Output::new(&folder.path().join("m.Png"), PICTURE).unwrap().format(), "png");
        assert_eq!(Output::new(Path::new("/dev/null"), TABLE).unwrap().format(), "npy");
    }

    #[test]
    fn a_folder_is_not_named_like_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["model.onnx", "model.PT", "m.safetensors", "vectors.tsv"] {
            let error = check_folder(&folder.path().join(name)).unwrap_err().to_string();
            assert!(error.contains("a folder is written"), "{error}");
        }
        for name in ["export", "v1.2", "a/b"] {
            check_folder(&folder.path().join(name)).unwrap();
        }
    }
}
