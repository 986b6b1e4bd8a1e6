//! A server that speaks S3, for the scenarios that store checkpoints: moto, in `.moto/`, for the
//! python3 of this machine. Nothing but tests fetches or uses it.
//!
//! The folder has `site/`, to be named in PYTHONPATH, and a stamp. It appears complete
//! (`staging.rs`). tests/harness/objects.rs looks for it there.

use crate::python::{self, Dependencies};
use crate::staging::put_in_place;
use crate::{prerequisites, workspace};
use anyhow::Context;
use std::path::Path;
use std::{env, fs};

/// Set where tests must not do without it.
const REQUIRED: &str = "LOCKSTEP_S3_REQUIRED";

/// Holds the first requirement and the version of Python: some wheels serve one version alone.
const STAMP: &str = "version";

/// moto and what its server needs for S3: a third of what its own metadata asks for, most of which
/// is for other services.
const REQUIREMENTS: [&str; 27] = [
    "moto==5.2.5",
    "blinker==1.9.0",
    "boto3==1.44.8",
    "botocore==1.44.8",
    "certifi==2026.10.19.post1",
    "cffi==2.1.1",
    "charset-normalizer==3.5.3",
    "click==8.5.1",
    "cryptography==50.0.2",
    "flask==3.1.3",
    "flask-cors==6.0.5",
    "idna==3.20",
    "itsdangerous==2.2.0",
    "jinja2==3.1.6",
    "jmespath==1.1.0",
    "markupsafe==3.0.4",
    "py-partiql-parser==0.6.3",
    "pycparser==3.12",
    "python-dateutil==2.9.0.post0",
    "pyyaml==6.0.4",
    "requests==2.34.2",
    "responses==0.26.3",
    "s3transfer==0.19.3",
    "six==1.17.0",
    "urllib3==2.8.0",
    "werkzeug==3.1.9",
    "xmltodict==1.0.4",
];

/// The way out for who cannot fetch it.
const INSTEAD: &str = "the tests that need it are left out";

/// Makes sure that the server is in place. Where it cannot be had, this says so, and is an error
/// only where the server is required.
pub(crate) fn ensure() -> anyhow::Result<()> {
    match fetch() {
        Err(error) if env::var_os(REQUIRED).is_none() => {
            stdout::say!("no S3 server, so nothing is stored in tests: {error:#}");
            Ok(())
        }
        result => result,
    }
}

fn fetch() -> anyhow::Result<()> {
    prerequisites::python(INSTEAD)?;
    let stamp = format!("{}, Python {}", REQUIREMENTS[0], python::version()?);
    let destination = workspace::root().join(".moto");
    put_in_place(
        &destination,
        || is_installed(&destination, &stamp),
        |scratch| {
            stdout::say!("fetching {stamp} into {} (30 MB)", destination.display());
            let staged = scratch.folder("moto")?;
            let site = scratch.folder("moto/site")?;
            let requirements = REQUIREMENTS.map(str::to_owned);
            python::install(&requirements, Dependencies::Leave, &site, INSTEAD)?;
            fs::write(staged.join(STAMP), format!("{stamp}\n"))
                .context("cannot write the stamp")?;
            Ok(staged)
        },
    )
}

fn is_installed(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found.trim() == stamp)
}
