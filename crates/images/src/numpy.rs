//! Arrays in numpy's file formats: a `.npy` file of images, or a `.npz` file of images and labels.

use std::{
    fmt::Display,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use npyz::{DType, NpyFile, Order, TypeChar};
use zip::ZipArchive;

use crate::{
    ImagesError, Shape,
    source::{Example, Part, Visitor},
};

/// Names of the arrays in a `.npz` file: training images and labels, then test images and labels.
const NAMES: [[&str; 4]; 3] = [
    ["x_train", "y_train", "x_test", "y_test"],
    ["train_images", "train_labels", "test_images", "test_labels"],
    ["images", "labels", "test_images", "test_labels"],
];

/// The name of an array that was saved to a `.npz` file without a name.
const UNNAMED: &str = "arr_0";

/// The largest label: IDX files hold signed numbers.
const LABEL_MAX: u32 = i32::MAX as u32;

/// Arrays whose headers fit together.
#[derive(Debug)]
pub(crate) struct Arrays {
    path: PathBuf,
    parts: [Option<Pair>; 2],
    shape: Shape,
    is_planar: bool,
}

/// The images and labels of a part, by the names of their arrays. A `.npy` file has no names.
#[derive(Debug)]
struct Pair {
    images: Option<String>,
    labels: Option<String>,
    count: u64,
}

/// The form of an array of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    count: u64,
    shape: Shape,
    /// Whether the channels are separate planes.
    is_planar: bool,
}

impl Arrays {
    pub(crate) fn open(path: &Path) -> Result<Self, ImagesError> {
        let is_archive = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz"));
        if !is_archive {
            let form = form(&ArrayRef { path, name: None })?;
            let part = Pair { images: None, labels: None, count: form.count };
            return Ok(Self::of(path, [Some(part), None], form));
        }
        let names = array_names(path)?;
        let has = |name: &str| names.iter().any(|other| other == name);
        let [images, labels, test_images, test_labels] = NAMES
            .into_iter()
            .find(|[images, ..]| has(images))
            .or_else(|| has(UNNAMED).then_some([UNNAMED, "", "", ""]))
            .ok_or_else(|| ImagesError::file(path, no_images(&names)))?;
        let pair = |images: &str, labels: &str| -> Result<Option<(Pair, Form)>, ImagesError> {
            if !has(images) {
                return Ok(None);
            }
            let form = form(&ArrayRef { path, name: Some(images) })?;
            let labels = has(labels).then(|| labels.to_owned());
            if let Some(name) = &labels {
                check_labels(&ArrayRef { path, name: Some(name) }, form.count)?;
            }
            Ok(Some((Pair { images: Some(images.into()), labels, count: form.count }, form)))
        };
        let (train, form) = pair(images, labels)?
            .ok_or_else(|| ImagesError::file(path, format!("there is no array {images}")))?;
        let test = pair(test_images, test_labels)?;
        if let Some((part, other)) = &test
            && (Form { count: form.count, ..*other } != form
                || part.labels.is_some() != train.labels.is_some())
        {
            let what = format!(
                "{images} and {test_images} differ in the shape of an image, or only one of them \
                 has labels"
            );
            return Err(ImagesError::file(path, what));
        }
        Ok(Self::of(path, [Some(train), test.map(|(part, _)| part)], form))
    }

    fn of(path: &Path, parts: [Option<Pair>; 2], form: Form) -> Self {
        let Form { shape, is_planar, .. } = form;
        Self { path: path.into(), parts, shape, is_planar }
    }

    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn count(&self, part: Part) -> Option<u64> {
        self.parts[part as usize].as_ref().map(|part| part.count)
    }

    pub(crate) const fn is_labelled(&self) -> bool {
        matches!(&self.parts[0], Some(Pair { labels: Some(_), .. }))
    }

    pub(crate) fn each(&self, part: Part, visit: &mut Visitor<'_>) -> Result<(), ImagesError> {
        let Some(Pair { images, labels, .. }) = &self.parts[part as usize] else { return Ok(()) };
        let labels = match labels {
            Some(name) => Some(read_labels(&ArrayRef { path: &self.path, name: Some(name) })?),
            None => None,
        };
        let mut index = 0;
        let mut reordered = vec![0; self.shape.bytes()];
        let place = ArrayRef { path: &self.path, name: images.as_deref() };
        place.read(Extent::Whole, |array| {
            each_row(&place, array, self.shape.bytes(), &mut |row| {
                let label = labels.as_ref().map(|labels| labels[index]);
                index += 1;
                let pixels = if self.is_planar {
                    interleave(row, self.shape.channels as usize, &mut reordered);
                    &reordered
                } else {
                    row
                };
                visit(Example { pixels, label })
            })
        })
    }
}

/// Converts planes of channels to pixels of channels.
fn interleave(planes: &[u8], channels: usize, pixels: &mut [u8]) {
    let plane = planes.len() / channels;
    for (place, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
        for (channel, level) in pixel.iter_mut().enumerate() {
            *level = planes[channel * plane + place];
        }
    }
}

fn array_names(path: &Path) -> Result<Vec<String>, ImagesError> {
    let archive = archive(path)?;
    let plain = archive.file_names().filter_map(Result::ok);
    Ok(plain.filter_map(|name| name.strip_suffix(".npy").map(str::to_owned)).collect())
}

fn archive(path: &Path) -> Result<ZipArchive<BufReader<File>>, ImagesError> {
    let file = File::open(path).map_err(ImagesError::io("open", path))?;
    let archive = ZipArchive::new(BufReader::new(file));
    archive.map_err(|error| ImagesError::file(path, format!("not a .npz file: {error}")))
}

/// What is wrong with a `.npz` file of these arrays.
fn no_images(names: &[String]) -> String {
    let found = match names {
        [] => "it holds no arrays".to_owned(),
        names => format!("its arrays are {}", names.join(", ")),
    };
    found
        + ": images are expected as x_train (with y_train, x_test, y_test), as train_images (with \
           train_labels, ...) or as images (with labels)"
}

/// An array: a `.npy` file, or the array of that name in a `.npz` file.
#[derive(Clone, Copy, Debug)]
struct ArrayRef<'a> {
    path: &'a Path,
    name: Option<&'a str>,
}

/// How much of an array is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Header,
    /// Also the end is verified then: nothing follows the numbers, and an archive's checksum is right.
    Whole,
}

impl ArrayRef<'_> {
    /// The error that something is wrong with the array.
    fn wrong(&self, what: impl Display) -> ImagesError {
        let what = match self.name {
            Some(name) => format!("array {name}: {what}"),
            None => what.to_string(),
        };
        ImagesError::file(self.path, what)
    }

    /// Calls `read` with the array.
    fn read<T>(
        &self,
        extent: Extent,
        read: impl FnOnce(NpyFile<&mut dyn Read>) -> Result<T, ImagesError>,
    ) -> Result<T, ImagesError> {
        let Some(name) = self.name else {
            let file = File::open(self.path).map_err(ImagesError::io("open", self.path))?;
            return self.read_from(BufReader::new(file), extent, read);
        };
        let mut archive = archive(self.path)?;
        let entry = archive.by_name(&format!("{name}.npy"));
        let entry = entry.map_err(|error| self.wrong(format!("not readable: {error}")))?;
        self.read_from(entry, extent, read)
    }

    fn read_from<T>(
        &self,
        mut bytes: impl Read,
        extent: Extent,
        read: impl FnOnce(NpyFile<&mut dyn Read>) -> Result<T, ImagesError>,
    ) -> Result<T, ImagesError> {
        let array = NpyFile::new(&mut bytes as &mut dyn Read);
        let found =
            read(array.map_err(|error| self.wrong(format!("not a numpy array: {error}")))?)?;
        if extent == Extent::Header {
            return Ok(found);
        }
        // Only a read of the end verifies the checksum.
        match io::copy(&mut bytes, &mut io::sink()) {
            Ok(0) => Ok(found),
            Ok(more) => Err(self.wrong(format!(
                "{} after its last number: save the array again",
                if more == 1 { "1 byte follows".into() } else { format!("{more} bytes follow") }
            ))),
            Err(error) => {
                Err(self.wrong(format!("it is damaged ({error}): save or copy it again")))
            }
        }
    }
}

fn form(place: &ArrayRef<'_>) -> Result<Form, ImagesError> {
    place.read(Extent::Header, |array| {
        let wrong = |what: String| place.wrong(what);
        if array.order() != Order::C && array.shape().len() > 1 {
            return Err(wrong("in Fortran order: save np.ascontiguousarray of it".into()));
        }
        let side = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        let grey = |height, width| Shape::grey(side(height), side(width));
        let (count, shape, is_planar) = match *array.shape() {
            [n, height, width] => (n, grey(height, width), false),
            [n, height, width, channels @ (1 | 3)] => {
                (n, Shape { channels: side(channels), ..grey(height, width) }, false)
            }
            [n, channels @ (1 | 3), height, width] => {
                (n, Shape { channels: side(channels), ..grey(height, width) }, channels == 3)
            }
            [n, pixels] if pixels.isqrt() * pixels.isqrt() == pixels => {
                (n, grey(pixels.isqrt(), pixels.isqrt()), false)
            }
            _ => {
                return Err(wrong(format!(
                    "its shape is {:?}: [n, height, width], [n, height, width, 3], [n, 3, height, \
                     width] or [n, side * side] are images",
                    array.shape()
                )));
            }
        };
        scalar(&array).map_err(wrong)?;
        Ok(Form { count, shape, is_planar })
    })
}

/// The type and size of an array's numbers.
fn scalar(array: &NpyFile<&mut dyn Read>) -> Result<(TypeChar, u64), String> {
    match array.dtype() {
        DType::Plain(plain) => Ok((plain.type_char(), plain.size_field())),
        other => Err(format!("numbers are expected, not {}", other.descr())),
    }
}

/// Passes each row of an array of images, `length` bytes, to `visit`. Floats are from 0 to 1.
fn each_row(
    place: &ArrayRef<'_>,
    array: NpyFile<&mut dyn Read>,
    length: usize,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), ImagesError>,
) -> Result<(), ImagesError> {
    let whole = |value: f64| {
        (value.fract() == 0.0 && (0.0..=255.0).contains(&value)).then_some(value as u8)
    };
    let unit = |value: f64| (0.0..=1.0).contains(&value).then(|| (value * 255.0).round() as u8);
    let kind = scalar(&array).map_err(|what| place.wrong(what))?;
    match kind {
        (TypeChar::Bool, 1) => {
            rows::<bool>(place, array, length, |bit| Some(255 * u8::from(bit)), visit)
        }
        (TypeChar::Uint, 1) => rows::<u8>(place, array, length, Some, visit),
        (TypeChar::Int, 4) => rows::<i32>(place, array, length, |value| whole(value.into()), visit),
        (TypeChar::Int, 8) => {
            rows::<i64>(place, array, length, |value| u8::try_from(value).ok(), visit)
        }
        (TypeChar::Float, 4) => {
            rows::<f32>(place, array, length, |value| unit(value.into()), visit)
        }
        (TypeChar::Float, 8) => rows::<f64>(place, array, length, unit, visit),
        (kind, bytes) => Err(place.wrong(format!(
            "pixels of type {}{bytes} are not read: save them as uint8, or as float32 from 0 to 1",
            kind.to_str()
        ))),
    }
}

fn rows<T: npyz::Deserialize + Copy + Display>(
    place: &ArrayRef<'_>,
    array: NpyFile<&mut dyn Read>,
    length: usize,
    level: impl Fn(T) -> Option<u8>,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), ImagesError>,
) -> Result<(), ImagesError> {
    let total = array.len();
    let values = array.data::<T>().map_err(|error| place.wrong(error))?;
    let mut row = Vec::with_capacity(length);
    for (index, value) in (0..total).zip(values) {
        let value = value.map_err(|error| unfinished(place, index, total, &error))?;
        row.push(level(value).ok_or_else(|| {
            let image = index / length as u64;
            place.wrong(format!(
                "number {index}, in image {image}, is {value}: integers must be 0 to 255, floats 0 \
                 to 1"
            ))
        })?);
        if row.len() == length {
            visit(&row)?;
            row.clear();
        }
    }
    Ok(())
}

/// The error that a number cannot be read.
fn unfinished(place: &ArrayRef<'_>, index: u64, total: u64, error: &io::Error) -> ImagesError {
    place.wrong(match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            format!("it ends after {index} of {total} numbers: save or copy it again")
        }
        _ => format!("number {index} cannot be read ({error}): save or copy it again"),
    })
}

fn check_labels(place: &ArrayRef<'_>, count: u64) -> Result<(), ImagesError> {
    place.read(Extent::Header, |array| match *array.shape() {
        [n] | [n, 1] if n == count => Ok(()),
        _ => {
            let what = format!("its shape is {:?}: [{count}] is expected of labels", array.shape());
            Err(place.wrong(what))
        }
    })
}

fn read_labels(place: &ArrayRef<'_>) -> Result<Vec<u32>, ImagesError> {
    let values: Vec<i64> = place.read(Extent::Whole, |array| {
        match scalar(&array).map_err(|what| place.wrong(what))? {
            (TypeChar::Int, 1) => integers::<i8>(place, array),
            (TypeChar::Int, 2) => integers::<i16>(place, array),
            (TypeChar::Int, 4) => integers::<i32>(place, array),
            (TypeChar::Int, 8) => integers::<i64>(place, array),
            (TypeChar::Uint, 1) => integers::<u8>(place, array),
            (TypeChar::Uint, 2) => integers::<u16>(place, array),
            (TypeChar::Uint, 4) => integers::<u32>(place, array),
            (kind, bytes) => {
                let kind = kind.to_str();
                let what = format!("labels of type {kind}{bytes} are not read: save int64");
                Err(place.wrong(what))
            }
        }
    })?;
    let label = |(index, value): (usize, i64)| {
        let fits = u32::try_from(value).ok().filter(|label| *label <= LABEL_MAX);
        fits.ok_or_else(|| {
            place.wrong(format!("label {index} is {value}: labels must be 0 to {LABEL_MAX}"))
        })
    };
    values.into_iter().enumerate().map(label).collect()
}

fn integers<T: npyz::Deserialize + Into<i64>>(
    place: &ArrayRef<'_>,
    array: NpyFile<&mut dyn Read>,
) -> Result<Vec<i64>, ImagesError> {
    let total = array.len();
    let values = array.data::<T>().map_err(|error| place.wrong(error))?;
    let value = |(index, value): (u64, io::Result<T>)| {
        value.map(T::into).map_err(|error| unfinished(place, index, total, &error))
    };
    (0..total).zip(values).map(value).collect()
}
