//! The licences of the code in the programs: the texts of every linked package, from the folder in which cargo unpacked
//! it, and the texts of Rust's standard library, from the toolchain.
//!
//! Does not know which licences are allowed: `cargo xtask tidy` checks this.

use super::{ask, build, copy};
use crate::{staging, tidy, workspace};
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The file with the licences of packages.
pub(super) const PACKAGES: &str = "rust-packages.txt";

/// The names of licence files begin with one of these.
const FILES: [&str; 6] = ["license", "licence", "unlicense", "copying", "copyright", "notice"];

/// Folders of a package whose code is not linked.
const ASIDE: [&str; 4] = ["benches", "examples", "target", "tests"];

/// The toolchain's notice about the standard library, and the licences of the OpenMP runtime that comes with libtorch.
const OF_TOOLCHAIN: [&str; 3] =
    ["COPYRIGHT-library.html", "licenses/GPL-3.0-or-later.txt", "licenses/GCC-exception-3.1.txt"];

/// A package with its licences.
#[derive(Debug)]
struct Package {
    /// Name, version, licence and repository, in one line.
    title: String,
    texts: Vec<String>,
}

/// Writes the licences of all code that is linked into the programs of these packages.
pub(super) fn write(folder: &Path, packages: [&str; 4]) -> anyhow::Result<()> {
    let documents = Path::new(&build::sysroot()?).join("share/doc/rust");
    let linked = linked(&packages)?;
    let metadata: Value =
        serde_json::from_slice(&tidy::metadata()?).context("cargo metadata printed no JSON")?;
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        let name = format!("{} v{}", text("name"), text("version"));
        if linked.contains(&name) && !package["source"].is_null() {
            let place = Path::new(text("manifest_path")).parent().unwrap_or(Path::new(""));
            let title = format!("{name} ({}), {}", text("license"), text("repository"));
            found.push(Package { title, texts: texts(place, package, &documents)? });
        }
    }
    let file = folder.join(PACKAGES);
    fs::write(&file, grouped(&found))
        .with_context(|| format!("cannot write {}", file.display()))?;
    OF_TOOLCHAIN.iter().try_for_each(|name| {
        let name = Path::new(name);
        let to = if name.extension().is_some_and(|kind| kind == "html") {
            "rust-standard-library.html".as_ref()
        } else {
            name.file_name().unwrap_or_default()
        };
        copy(&documents.join(name), &folder.join(to))
    })
}

/// The packages that the programs are linked with, as `name vVERSION`.
fn linked(packages: &[&str]) -> anyhow::Result<BTreeSet<String>> {
    let mut cargo = workspace::cargo();
    cargo.args(["tree", "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}"]);
    cargo.args(["--target", build::TARGET]);
    cargo.args(packages.iter().flat_map(|package| ["-p", package]));
    let tree = ask(&mut cargo, "cannot list the packages that are linked")?;
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(tree.lines().filter(|line| !line.is_empty()).map(name).collect())
}

/// The licence texts of a package: from its own files, or else a standard text of the licence that its manifest names.
fn texts(place: &Path, package: &Value, documents: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    licence_files(place, &mut files)?;
    if files.is_empty() {
        let named = package["license"].as_str().unwrap_or_default();
        let licence = ["Apache-2.0", "MIT"].into_iter().find(|licence| named.contains(licence));
        let Some(licence) = licence else {
            bail!("{} has no file with its licence, {named:?}", place.display());
        };
        files.push(documents.join("licenses").join(format!("{licence}.txt")));
        let authors = package["authors"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let authors = authors.collect::<Vec<_>>().join(", ");
        let holder = format!("Authors, according to the package: {authors}\n\n");
        return Ok(vec![holder + &read(&files[0])?]);
    }
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', "").trim().to_owned())
}

fn licence_files(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in staging::entries(folder)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_code = entry.extension().is_some_and(|kind| kind == "rs");
        if entry.is_dir() && !ASIDE.contains(&&name[..]) && !FILES.contains(&&name[..]) {
            licence_files(&entry, files)?;
        } else if entry.is_dir() && FILES.iter().any(|start| name.starts_with(start)) {
            files.extend(staging::entries(&entry)?.into_iter().filter(|file| file.is_file()));
        } else if FILES.iter().any(|start| name.starts_with(start)) && entry.is_file() && !is_code {
            files.push(entry);
        }
    }
    Ok(())
}

/// Each text once, after the titles of its packages.
fn grouped(packages: &[Package]) -> String {
    let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        for text in &package.texts {
            of.entry(text).or_default().push(&package.title);
        }
    }
    let mut groups: Vec<_> = of.into_iter().map(|(text, titles)| (titles, text)).collect();
    groups.sort();
    let line = "=".repeat(100);
    let mut all =
        String::from("The packages that are linked into the programs, and their licences.\n");
    for (titles, text) in groups {
        let _infallible = writeln!(all, "\n{line}\n{}\n{line}\n\n{text}", titles.join("\n"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_that_is_linked_has_a_licence() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), super::super::PACKAGES).unwrap();
        let text = fs::read_to_string(folder.path().join(PACKAGES)).unwrap();
        // A package with its own files, a package with licences of C code, a package without a file.
        for words in ["\ntokio v1", "\nzstd-sys v2", "\nnpyz v0", "Meta Platforms"] {
            assert!(text.contains(words), "{words}");
        }
        // A macro, a test's package, and a member of the workspace.
        for words in ["\nserde_derive v", "\nproptest v", "\nmembership v"] {
            assert!(!text.contains(words), "{words}");
        }
        assert!(folder.path().join("rust-standard-library.html").is_file());
    }

    #[test]
    fn a_package_without_a_licence_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (place, documents) = (folder.path().join("package"), folder.path().join("documents"));
        fs::create_dir_all(documents.join("licenses")).unwrap();
        fs::create_dir(&place).unwrap();
        fs::write(documents.join("licenses/MIT.txt"), "Do as you like").unwrap();
        let package = |licence: &str| json!({"license": licence, "authors": ["A", "B"]});
        let texts = |licence: &str| texts(&place, &package(licence), &documents);
        let holder = "Authors, according to the package: A, B\n\nDo as you like";
        assert_eq!(texts("MIT").unwrap(), [holder]);
        texts("ISC").unwrap_err();
        fs::create_dir(place.join("code")).unwrap();
        fs::write(place.join("code/LICENSE.txt"), "one\r\n").unwrap();
        fs::write(place.join("copying.rs"), "code").unwrap();
        assert_eq!(texts("ISC").unwrap(), ["one"]);
    }

    #[test]
    fn a_text_is_written_once() {
        let package = |title: &str, text: &str| Package {
            title: title.to_owned(),
            texts: vec![text.to_owned()],
        };
        let all = grouped(&[package("a", "same"), package("b", "other"), package("c", "same")]);
        assert_eq!(all.matches("same").count(), 1);
        assert!(all.contains("\na\nc\n") && all.contains("\nb\n"), "{all}");
    }
}
