//! `vae dataset inspect`: reports what is read of a data set.

use std::{
    cell::Cell,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Subcommand;
use images::{Dataset, Options as Reading, dataset, describe_images, named, sheet, splits};
use vae_options::{Color, bounds};

use crate::{
    output::{self, Output, PICTURE},
    progress::Progress,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say how many images a data set has, of what shape and which classes, and draw some
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// A name, mnist or fashion-mnist, or a path: a folder of pictures or of IDX files, or a .npy or
    /// .npz file
    #[arg(value_name = "NAME|PATH")]
    what: OsString,
    /// Scale pictures to this many pixels a side [default: their own size, if all are of one size,
    /// else 64]
    #[arg(long, value_name = "PIXELS", value_parser = manual::whole(bounds::IMAGE_SIDE))]
    image_size: Option<u32>,
    /// Colours of pictures
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,
    /// The picture of some of the images, a PNG file
    #[arg(long, default_value = "dataset.png", value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Command::Inspect(Inspect { what, image_size, color, output }) = &options.command;
    let output = Output::new(output, PICTURE)?;
    // A name such as mnist is no path, even if there is a folder of this name.
    if named::manifest(&what.to_string_lossy()).is_none() {
        output.is_outside(Path::new(what))?;
    }
    let colour = match color {
        Color::Auto => images::Colour::Auto,
        Color::Grey => images::Colour::Grey,
        Color::Rgb => images::Colour::Rgb,
    };
    let set = read(what, &Reading { side: *image_size, colour })?;
    let folder = data::default_dir(&set.manifest.name);
    let files = data::fetch::ensure(&folder, &set.manifest, false, &|line| output::complain(line))?;
    let images = splits(&files)?;
    describe_images(&set, &images).iter().for_each(|line| output::say(line));
    output.write(&sheet::draw(&images.train)?, "some of the images to learn from")
}

/// The set. A set at a path is packed into the cache.
fn read(what: &OsString, reading: &Reading) -> Result<Dataset> {
    let bar = Cell::new(None);
    let set = dataset(what, reading, &data::cache_dir(), &mut |done, total| {
        let shown = bar.take().unwrap_or_else(|| Progress::new("Packing", total as usize));
        shown.set(done);
        bar.set(Some(shown));
    });
    Ok(set?)
}
