//! Tools that only tests use, from PyPI for the python3 of this machine, or from npm. Each tool has its own
//! folder at the root of the checkout.
//!
//! A folder has `site/`, for PYTHONPATH, or `node_modules/`, and a stamp. It appears only when it is
//! complete (`staging.rs`).

use crate::python::{self, Dependencies};
use crate::staging::put_in_place;
use crate::{npm, prerequisites, workspace};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// This file holds the package, and the version of Python: some wheels are for one version only.
const STAMP: &str = "version";

/// The alternative, for the error message of a failed fetch.
const INSTEAD: &str = "the tests that need it are left out";

/// A package with all that it needs.
#[derive(Debug)]
pub(crate) struct TestTool {
    /// The name of its folder, without the leading point.
    name: &'static str,
    packages: Packages,
    /// The variable that is set if the tests must not be left out.
    required: &'static str,
    /// The beginning of the message if the tool cannot be fetched.
    absence: &'static str,
}

/// The packages of a tool.
#[derive(Debug)]
enum Packages {
    /// The package, then the packages that it needs.
    PyPi(&'static [&'static str]),
    /// A package that needs no other packages.
    Npm(&'static str),
}

/// An S3 server, for the scenarios that store checkpoints; tests/harness/objects.rs looks for it. Only a
/// third of the packages in its metadata are needed: the others are for other services.
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
    absence: "no S3 server, so the tests of object stores are left out",
};

/// TensorBoard's own reader of event files, for the scenarios that write event files; tests/runs.rs looks
/// for it. Only some of the packages in its metadata are needed.
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
    absence: "no TensorBoard, so the tests with its reader are left out",
};

/// What people run exported models with, for the tests of the crate `latent`, which look for it.
pub(crate) const ONNX_RUNTIME: TestTool = TestTool {
    name: "onnxruntime",
    packages: Packages::PyPi(&[
        "onnxruntime==1.32.0",
        "flatbuffers==25.12.19",
        "numpy==2.4.6",
        "packaging==26.4",
        "protobuf==7.36.2",
    ]),
    required: "LOCKSTEP_ONNX_REQUIRED",
    absence: "no ONNX Runtime, so exported models are not run in tests",
};

/// A checker of the accessibility of pages; tests/harness/browser.rs looks for it.
pub(crate) const AXE: TestTool = TestTool {
    name: "axe",
    packages: Packages::Npm("axe-core@4.14.1"),
    required: "LOCKSTEP_AXE_REQUIRED",
    absence: "no axe-core, so no page is checked for accessibility in tests",
};

/// The compiler of kernels for GPUs, and a reader of compiled kernels; neither needs a GPU. The compiler
/// has the version of libtorch's CUDA libraries.
pub(crate) const NVRTC: TestTool = TestTool {
    name: "nvrtc",
    packages: Packages::PyPi(&["nvidia-cuda-nvrtc==13.0.88", "nvidia-cuda-cuobjdump==13.5.37"]),
    required: "LOCKSTEP_NVRTC_REQUIRED",
    absence: "no compiler for GPUs",
};

impl TestTool {
    /// Makes sure that the tool is in place. If it cannot be fetched, prints the reason; this is an error
    /// only if the tool is required.
    pub(crate) fn ensure(&self) -> anyhow::Result<()> {
        match self.fetch() {
            Err(error) if env::var_os(self.required).is_none() => {
                stdout::say!("{}: {error:#}", self.absence);
                Ok(())
            }
            result => result,
        }
    }

    /// The folder of the packages from PyPI, after the fetch.
    pub(crate) fn site(&self) -> PathBuf {
        self.folder().join("site")
    }

    fn folder(&self) -> PathBuf {
        workspace::root().join(format!(".{}", self.name))
    }

    /// Makes sure that the tool is in place; an error if it cannot be fetched.
    pub(crate) fn fetch(&self) -> anyhow::Result<()> {
        let Self { name, packages, .. } = self;
        let stamp = match packages {
            Packages::PyPi(requirements) => {
                prerequisites::python(INSTEAD)?;
                format!("{}, Python {}", requirements.join(", "), python::version()?)
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
