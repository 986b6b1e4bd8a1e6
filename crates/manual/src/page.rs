//! Writes a man page: clap's sections of a command, and then exit status, variables, files and examples.

use std::{io, path::Path};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::reference::{EXIT_STATUS, Entry, Reference, examples_of};

/// Writes a page for the program and for each of its commands.
pub(crate) fn write_all(command: Command, reference: &Reference, folder: &Path) -> io::Result<()> {
    let mut program = command.disable_help_subcommand(true);
    program.build();
    write(&program, &program, &[], reference, folder)
}

fn write(
    program: &Command,
    command: &Command,
    path: &[&str],
    reference: &Reference,
    folder: &Path,
) -> io::Result<()> {
    for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
        write(program, part, &[path, &[part.get_name()]].concat(), reference, folder)?;
    }
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|flag| !flag.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    let name = program.get_name();
    let own = if path.is_empty() { reference.exit_status } else { &[] };
    section(&mut roff, "EXIT STATUS", &[&EXIT_STATUS, own].concat());
    if path.is_empty() {
        section(&mut roff, "ENVIRONMENT", reference.variables);
        section(&mut roff, "FILES", reference.files);
    }
    let examples: Vec<_> = examples_of(path, command, reference).collect();
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
    }
    for Entry { name: line, meaning } in examples {
        let line = format!("{name} {line}");
        roff.control("TP", []).text([bold(line.trim_end())]).text([roman(*meaning)]);
    }
    if !path.is_empty() {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold(name), roman("(1), for variables and files")]);
    }
    roff.to_writer(&mut page)?;
    std::fs::write(folder.join(man.get_filename()), page)
}

fn section(roff: &mut Roff, title: &str, entries: &[Entry]) {
    if entries.is_empty() {
        return;
    }
    roff.control("SH", [title]);
    for Entry { name, meaning } in entries {
        roff.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
    }
}
