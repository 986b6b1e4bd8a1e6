//! Separates programs from their debug symbols, with the tools that come with every C++ compiler. A stripped program
//! names the file of its symbols, and debuggers look for this file in the folder `.debug` beside the program.

use super::{ask, made};
use anyhow::{Context, ensure};
use std::path::Path;
use std::process::Command;

/// The folder beside a program in which debuggers look for symbols.
pub(super) const FOLDER: &str = ".debug";

/// Writes a program without its symbols to `stripped`, and the symbols into [`FOLDER`] beside it. If the program has
/// line numbers, checks that a function is found by its address, as a debugger does. Returns whether there are line
/// numbers.
pub(super) fn part(program: &Path, stripped: &Path) -> anyhow::Result<bool> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bin = stripped.parent().unwrap_or(Path::new("."));
    let symbols = made(bin, FOLDER)?.join(format!("{name}.debug"));
    let purpose = "cannot take the symbols out of a program";
    let mut copy = Command::new("objcopy");
    ask(copy.arg("--only-keep-debug").arg(program).arg(&symbols), purpose)?;
    let mut strip = Command::new("objcopy");
    let link = format!("--add-gnu-debuglink={}", symbols.display());
    ask(strip.arg("--strip-all").arg(link).arg(program).arg(stripped), purpose)?;
    let mut sections = Command::new("readelf");
    let sections = ask(sections.arg("--section-headers").arg(&symbols), "cannot list sections")?;
    let has_lines = sections.contains(".debug_line");
    if has_lines {
        find_main(&name.replace('-', "_"), stripped, &symbols)?;
    }
    Ok(has_lines)
}

/// Finds the function `main` of a program by its address, through the stripped program.
fn find_main(name: &str, stripped: &Path, symbols: &Path) -> anyhow::Result<()> {
    let main = format!("{name}::main");
    let mut list = Command::new("nm");
    let list =
        ask(list.args(["--demangle", "--defined-only"]).arg(symbols), "cannot list symbols")?;
    let address = list.lines().find_map(|line| {
        let (address, function) = line.split_once(' ')?;
        let (_kind, function) = function.split_once(' ')?;
        (function == main || function.starts_with(&format!("{main}::h"))).then_some(address)
    });
    let address =
        address.with_context(|| format!("{} has no function {main}", symbols.display()))?;
    let mut find = Command::new("addr2line");
    find.args(["--functions", "--demangle", "--exe"]).arg(stripped).arg(address);
    let found = ask(&mut find, "cannot find a function by its address")?;
    ensure!(
        found.contains(&main) && found.contains("src/"),
        "{main} is at {address}, but through {} addr2line finds {}",
        stripped.display(),
        found.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn symbols_are_found_from_the_stripped_program() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("src");
        fs::create_dir(&source).unwrap();
        // The function has the name that Rust would give it.
        let text = "namespace a_program { int main(int a) { return a; } }\n\
                    int main(int a, char **) { return a_program::main(a); }\n";
        fs::write(source.join("program.cpp"), text).unwrap();
        let compile = |flags: &[&str], name: &str| {
            let mut compiler = Command::new("c++");
            compiler.current_dir(folder.path()).args(flags).args(["src/program.cpp", "-o", name]);
            ask(&mut compiler, "cannot compile").unwrap();
            folder.path().join(name)
        };
        let bin = made(folder.path(), "bin").unwrap();
        // The symbol of a C++ function contains its argument types; Rust's symbols do not.
        let rename = "--redefine-sym=_ZN9a_program4mainEi=_ZN9a_program4mainE";
        let named = |program: &Path| {
            ask(Command::new("objcopy").arg(rename).arg(program), "cannot rename").unwrap();
        };
        let program = compile(&["-g"], "a-program");
        named(&program);
        assert!(part(&program, &bin.join("a-program")).unwrap());
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&bin.join("a-program")) < size(&program));
        assert!(bin.join(".debug/a-program.debug").is_file());

        let symbols = bin.join(".debug/a-program.debug");
        find_main("a_program", &bin.join("a-program"), &symbols).unwrap();
        // Symbols of another build: the checksum in the program differs.
        let other = compile(&["-g", "-O2"], "another");
        fs::copy(&other, bin.join(".debug/a-program.debug")).unwrap();
        let error =
            find_main("a_program", &bin.join("a-program"), &program).unwrap_err().to_string();
        assert!(error.contains("addr2line finds"), "{error}");
        assert!(!part(&compile(&[], "a-program"), &bin.join("a-program")).unwrap());
    }
}
