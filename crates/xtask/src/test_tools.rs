//! What only tests use, from PyPI for the python3 of this machine, or from npm: each in a folder of its own
//! at the top.
//!
//! A folder has `site/`, to be named in PYTHONPATH, or `node_modules/`, and a stamp. It appears complete
//! (`staging.rs`).

use crate::python::{self, Dependencies};
use crate::staging::put_in_place;
use crate::{npm, prerequisites, workspace};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Holds the package, and the version of Python: some wheels serve one version alone.
const STAMP: &str = "version";

/// The way out for who cannot fetch it.
const INSTEAD: &str = "the tests that need it are left out";

/// A package with all that it needs.
#[derive(Debug)]
pub(crate) struct TestTool {
    /// Its folder is this name with a point before it.
    name: &'static str,
    packages: Packages,
    /// A variable, set where tests must not do without it.
    required: &'static str,
    /// What is said where it cannot be had.
    absence: &'static str,
}

/// What a tool consists of.
#[derive(Debug)]
enum Packages {
    /// The package, and then what it needs.
    PyPi(&'static [&'static str]),
    /// A package that needs no other.
    Npm(&'static str),
}

/// A server that speaks S3, for the scenarios that store checkpoints; tests/harness/objects.rs looks
/// for it. Of what its own metadata asks for it needs a third: most is for other services.
pub(crate) const MOTO: TestTool = TestTool {
    name: "moto",
    packages: Packages::PyPi(&[
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
    ]),
    required: "LOCKSTEP_S3_REQUIRED",
    absence: "no S3 server, so nothing is stored in tests",
};

/// TensorBoard's own reader of event files, for the scenarios that write such; tests/runs.rs looks for
/// it. It needs a part of what its own metadata asks for.
pub(crate) const TENSORBOARD: TestTool = TestTool {
    name: "tensorboard",
    packages: Packages::PyPi(&[
        "tensorboard==2.21.0",
        "absl-py==2.5.1",
        "numpy==2.4.6",
        "packaging==26.4",
        "pillow==13.0.0",
        "protobuf==7.36.2",
    ]),
    required: "LOCKSTEP_TENSORBOARD_REQUIRED",
    absence: "no TensorBoard, so its reader reads nothing in tests",
};

/// What finds faults of pages for people who see, hear or move otherwise; tests/harness/browser.rs looks
/// for it.
pub(crate) const AXE: TestTool = TestTool {
    name: "axe",
    packages: Packages::Npm("axe-core@4.14.1"),
    required: "LOCKSTEP_AXE_REQUIRED",
    absence: "no axe-core, so no page is checked for accessibility in tests",
};

/// The compiler of kernels for GPUs, and a reader of what it makes; neither needs a GPU. The compiler is
/// that of libtorch's CUDA libraries.
pub(crate) const NVRTC: TestTool = TestTool {
    name: "nvrtc",
    packages: Packages::PyPi(&["nvidia-cuda-nvrtc==13.0.88", "nvidia-cuda-cuobjdump==13.5.37"]),
    required: "LOCKSTEP_NVRTC_REQUIRED",
    absence: "no compiler for GPUs",
};

impl TestTool {
    /// Makes sure that it is in place. Where it cannot be had, this says so, and is an error only
    /// where it is required.
    pub(crate) fn ensure(&self) -> anyhow::Result<()> {
        match self.fetch() {
            Err(error) if env::var_os(self.required).is_none() => {
                stdout::say!("{}: {error:#}", self.absence);
                Ok(())
            }
            result => result,
        }
    }

    /// Where the packages from PyPI are, once it is fetched.
    pub(crate) fn site(&self) -> PathBuf {
        self.folder().join("site")
    }

    fn folder(&self) -> PathBuf {
        workspace::root().join(format!(".{}", self.name))
    }

    /// Makes sure that it is in place.
    pub(crate) fn fetch(&self) -> anyhow::Result<()> {
        let Self { name, packages, .. } = self;
        let stamp = match packages {
            Packages::PyPi(requirements) => {
                prerequisites::python(INSTEAD)?;
                format!("{}, Python {}", requirements[0], python::version()?)
            }
            Packages::Npm(package) => (*package).to_owned(),
        };
        let destination = self.folder();
        put_in_place(
            &destination,
            || is_installed(&destination, &stamp),
            |scratch| {
                stdout::say!("fetching {stamp} into {}", destination.display());
                let staged = scratch.folder(name)?;
                match packages {
                    Packages::PyPi(requirements) => {
                        let site = scratch.folder(&format!("{name}/site"))?;
                        let requirements: Vec<_> =
                            requirements.iter().map(|package| (*package).to_owned()).collect();
                        python::install(&requirements, Dependencies::Leave, &site, INSTEAD)?;
                    }
                    Packages::Npm(package) => npm::install(package, &staged)?,
                }
                fs::write(staged.join(STAMP), format!("{stamp}\n"))
                    .context("cannot write the stamp")?;
                Ok(staged)
            },
        )
    }
}

fn is_installed(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found.trim() == stamp)
}
