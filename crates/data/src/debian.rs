//! Files of a package of Debian.
//!
//! `apt-get download` asks the registries that this machine names, checks what they sign, and
//! installs nothing; `dpkg-deb` turns the package into a tar.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::client::{self, Client};
use crate::download::Tell;

/// A package that goes on beyond this when it is unpacked is another one than was meant.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Limits apt's own requests: where no server answers, apt says so before it would be killed.
const REQUEST_FLAGS: [&str; 6] = [
    "-o",
    "Acquire::http::Timeout=30",
    "-o",
    "Acquire::https::Timeout=30",
    "-o",
    "Acquire::Retries=1",
];

/// As a person would type it.
pub(crate) fn name(package: &str) -> String {
    format!("apt-get download {package}")
}

/// Downloads the package in `place`; gives its archive, whose entries begin with `./`.
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
