//! Installs packages from npm, each of a pinned version, without running their scripts.

use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};

/// Installs `package`, such as `typescript@7.0.2`, into `folder`.
pub(crate) fn install(package: &str, folder: &Path) -> anyhow::Result<()> {
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix"]);
    let output = npm.arg(folder).arg(package).output().with_context(|| {
        format!(
            "cannot start npm, which fetches {package}: install it (Debian and Ubuntu: apt-get \
             install npm)"
        )
    })?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "npm cannot fetch {package}: {}", errors.trim_end());
    Ok(())
}
