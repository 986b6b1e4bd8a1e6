//! Embeds the kernels for GPUs if they were compiled (`cargo xtask kernels`).

#![allow(clippy::print_stdout, reason = "a build script talks to cargo by printing")]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    embed()
}

/// Writes `kernels.rs`: machine code by compute capability, and PTX. Both are empty if `cargo xtask
/// kernels` was not run for these sources; programs then compile the kernels at the first start.
fn embed() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let (sources, compiled) = (here.join("src/cuda"), here.join("kernels"));
    for folder in [&sources, &compiled] {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    // Kernels of other sources are in folders of other names.
    let folder = compiled.join(lockstep_build::sources_hash(&sources)?);
    let (mut cubins, mut ptx) = (String::new(), "None".to_owned());
    for (name, path) in listed(&folder)? {
        let image = format!("include_bytes!({:?})", path.display().to_string());
        match name.split_once('.') {
            Some((capability, "cubin")) => cubins += &format!("({capability}, {image}), "),
            Some((capability, "ptx")) => ptx = format!("Some(({capability}, {image}))"),
            _ => {}
        }
    }
    let text = format!(
        "pub(super) const CUBINS: &[(u32, &[u8])] = &[{cubins}];\n\
         pub(super) const PTX: Option<(u32, &[u8])> = {ptx};\n"
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("kernels.rs"), text)
}

/// The names and paths of the files in a folder, in order; empty if there is no folder.
fn listed(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries: io::Result<Vec<_>> = fs::read_dir(folder)?.collect();
    let mut files: Vec<_> = entries?
        .into_iter()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    files.sort();
    Ok(files)
}
