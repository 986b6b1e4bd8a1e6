//! Files of a package of npm.
//!
//! `npm pack` downloads the package as a tar.gz and runs nothing of it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::client::{self, Client};
use crate::download::Tell;

/// A package that goes on beyond this when it is unpacked is another one than was meant.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Limits npm's own requests: where no server answers, npm says so before it would be killed.
const REQUEST_FLAGS: [&str; 3] =
    ["--fetch-timeout=30000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"];

/// As a person would type it.
pub(crate) fn name(package: &str) -> String {
    format!("npm pack {package}")
}

/// Downloads the package in `place`; gives its archive, whose entries lie in one folder.
pub(crate) fn download(
    npm: &Client,
    package: &str,
    place: &Path,
    tell: Tell<'_>,
) -> Result<tar::Archive<impl Read + use<>>, String> {
    let arguments = ["pack", package, "--ignore-scripts", "--loglevel=error", "--no-color"];
    npm.run(&[&arguments[..], &REQUEST_FLAGS].concat(), place, tell)?;
    let packed = client::find(place, "tgz")
        .ok_or_else(|| format!("it succeeded but left no .tgz{}", client::printed(place)))?;
    let file =
        File::open(packed).map_err(|error| format!("the package cannot be read: {error}"))?;
    Ok(tar::Archive::new(GzDecoder::new(file).take(UNPACKED_BYTES_MAX)))
}
