//! Files from a Debian package.
//!
//! `apt-get download` asks the package sources that this machine is configured with, checks their signatures, and
//! installs nothing. `dpkg-deb` turns the package into a tar archive.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::client::{self, Client};
use crate::download::Tell;

/// The most bytes that are unpacked. No package with a data set is larger.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Limits for apt's own requests, so that apt reports a silent server before it is killed.
const REQUEST_FLAGS: [&str; 6] = [
    "-o",
    "Acquire::http::Timeout=30",
    "-o",
    "Acquire::https::Timeout=30",
    "-o",
    "Acquire::Retries=1",
];

/// The command as a person would type it.
pub(crate) fn name(package: &str) -> String {
    format!("apt-get download {package}")
}

/// Downloads the package to `place` and returns its archive, whose entries begin with `./`.
pub(crate) fn download(
    [apt, dpkg]: [&Client; 2],
    package: &str,
    place: &Path,
    tell: Tell<'_>,
) -> Result<tar::Archive<impl Read + use<>>, String> {
    let arguments = ["-q", "download", package];
    apt.run(&[&REQUEST_FLAGS[..], &arguments].concat(), place, tell)?;
    let packed = client::find(place, "deb")
        .ok_or_else(|| format!("it succeeded but left no .deb{}", client::printed(place)))?;
    let unpacked = dpkg.run(&["--fsys-tarfile".as_ref(), packed.as_os_str()], place, tell)?;
    let file =
        File::open(unpacked).map_err(|error| format!("the package cannot be read: {error}"))?;
    Ok(tar::Archive::new(file.take(UNPACKED_BYTES_MAX)))
}
