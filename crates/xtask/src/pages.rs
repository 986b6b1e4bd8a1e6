//! `cargo xtask pages`: checks the types in the board's scripts, which are plain JavaScript with types
//! in comments. TypeScript's compiler is installed from npm into `target/pages`; it only checks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::{child, npm, staging, workspace};

/// The compiler and its version.
const TYPESCRIPT: &str = "typescript@7.0.2";

/// The folder of the scripts.
const SCRIPTS: &str = "crates/board/assets";

/// A library of others, which is not checked.
const LIBRARY: &str = "uplot.js";

/// A mistake that the check must find: a file, a text in it, and the wrong text.
const MISTAKE: (&str, &str, &str) =
    ("panels.js", "this.slider.value = String(", "this.slider.value = Number(");

const FLAGS: &str = "--allowJs --checkJs --noEmit --target es2022 --module es2022 \
                     --moduleResolution bundler --lib dom,dom.iterable,es2022 --strict false";

/// Checks the scripts, then checks that a mistake is found. Returns the exit status.
pub(crate) fn run() -> anyhow::Result<u8> {
    let compiler = compiler()?;
    let scripts = workspace::root().join(SCRIPTS);
    if let Some(complaint) = objection(&compiler, &scripts)? {
        stdout::say!("{SCRIPTS}: wrong types\n{}", complaint.trim_end());
        return Ok(1);
    }
    let spoiled = spoiled(&scripts)?;
    ensure!(
        objection(&compiler, spoiled.path())?.is_some(),
        "{SCRIPTS} is not checked: TypeScript accepts the mistake {:?}",
        MISTAKE.2
    );
    stdout::say!("{SCRIPTS}: good, says {TYPESCRIPT}");
    Ok(child::SUCCESS)
}

/// The path of the compiler, which is fetched if it is missing.
fn compiler() -> anyhow::Result<PathBuf> {
    let folder = workspace::root().join("target/pages").join(TYPESCRIPT);
    let program = |folder: &Path| folder.join("node_modules/.bin/tsc");
    staging::put_in_place(
        &folder,
        || program(&folder).exists(),
        |scratch| {
            let staged = scratch.folder("typescript")?;
            npm::install(TYPESCRIPT, &staged)?;
            Ok(staged)
        },
    )?;
    Ok(program(&folder))
}

/// The compiler's complaints about the scripts in a folder; none if the scripts are good.
fn objection(compiler: &Path, folder: &Path) -> anyhow::Result<Option<String>> {
    let is_ours = |path: &PathBuf| {
        let extension =
            path.extension().is_some_and(|extension| extension == "js" || extension == "ts");
        extension && !path.ends_with(LIBRARY)
    };
    let scripts: Vec<_> = staging::entries(folder)?.into_iter().filter(is_ours).collect();
    ensure!(!scripts.is_empty(), "{} has no scripts", folder.display());
    let output = Command::new(compiler)
        .args(FLAGS.split(' '))
        .args(scripts)
        .output()
        .with_context(|| format!("cannot start {}", compiler.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((!output.status.success()).then_some(text))
}

/// A copy of the scripts with the mistake.
fn spoiled(scripts: &Path) -> anyhow::Result<tempfile::TempDir> {
    let copy = tempfile::tempdir().context("cannot create a temporary folder")?;
    let (file, right, wrong) = MISTAKE;
    for path in staging::entries(scripts)? {
        let name = path.file_name().context("a file has a name")?;
        let place = copy.path().join(name);
        fs::copy(&path, &place).with_context(|| format!("cannot copy {}", path.display()))?;
        if name == file {
            let text = fs::read_to_string(&place).context("cannot read the copy")?;
            ensure!(
                text.contains(right),
                "{file} does not contain {right:?}: name another mistake"
            );
            fs::write(&place, text.replacen(right, wrong, 1)).context("cannot write the copy")?;
        }
    }
    Ok(copy)
}
