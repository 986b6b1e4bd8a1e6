//! The completions that shells offer: the tests run the shells. A shell that is not installed is
//! left out, with a message.

use std::{path::Path, process::Command};

use crate::harness::{Place, Process, note_left_out, programs};

/// The program, the begun line, and a word that must be offered next.
const LINES: [(&str, &str, &str); 9] = [
    ("vae-coordinator", "", "--worker-device"),
    ("vae-coordinator", "", "status"),
    ("vae-coordinator", "status", "--health"),
    ("vae-coordinator", "certs", "issue"),
    ("vae-coordinator", "certs issue", "--host"),
    ("vae-coordinator", "--collective", "two-level"),
    ("vae-worker", "", "--threads"),
    ("vae", "fit-gmm", "--data-dir"),
    ("vae", "sample", "--checkpoint"),
];

/// Writes the completions of all programs; returns their folder.
fn completions(place: &Place) -> String {
    for program in ["vae-coordinator", "vae-worker", "vae"] {
        let mut command = Command::new(programs().join(program));
        command.arg("--write-manual").arg(place.path("share"));
        Process::start(program, &mut command).wait().succeeded();
    }
    place.path("share/completions").display().to_string()
}

/// Whether a shell is installed.
fn has(shell: &str) -> bool {
    let is_here = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(shell).is_file())
    });
    if !is_here {
        let left_out = format!("the completions of {shell}");
        note_left_out(&left_out, &format!("there is no {shell}; install it"));
    }
    is_here
}

/// The output of a script in a shell.
fn asked(shell: &str, script: &str) -> String {
    let mut command = Command::new(shell);
    command.args(["-c", script]).env("TERM", "xterm").current_dir(Path::new("/"));
    Process::start(shell, &mut command).wait().succeeded().text()
}

#[test]
fn bash() {
    let place = Place::new();
    let folder = completions(&place);
    let offered = |program: &str, line: &str| {
        let script = format!(
            "source '{folder}/{program}.bash'
             COMP_WORDS=({program} {line} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
             words=($(complete -p {program}))
             for i in ${{!words[@]}}; do [ ${{words[i]}} = -F ] && offer=${{words[i + 1]}}; done
             $offer {program} '' \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        asked("bash", &script)
    };
    for (program, line, expected) in LINES {
        let text = offered(program, line);
        assert!(text.split_whitespace().any(|word| word == expected), "{program} {line}: {text}");
    }
    let status = offered("vae-coordinator", "status");
    assert!(!status.contains("--learning-rate"), "only its own flags: {status}");
}

#[test]
fn fish() {
    if !has("fish") {
        return;
    }
    let place = Place::new();
    let folder = completions(&place);
    for (program, line, expected) in LINES {
        let dash = if expected.starts_with('-') { "--" } else { "" };
        let script =
            format!("source '{folder}/{program}.fish'; complete -C '{program} {line} {dash}'");
        let text = asked("fish", &script);
        let offered = |offer: &str| offer.split('\t').next() == Some(expected);
        assert!(text.lines().any(offered), "{program} {line}: {text}");
    }
}

#[test]
fn zsh() {
    if !has("zsh") {
        return;
    }
    let place = Place::new();
    let folder = completions(&place);
    for (program, line, expected) in LINES {
        // All but the last letter, so that only one completion is possible.
        let begun = &expected[..expected.len() - 1];
        let script = format!(
            "zmodload zsh/zpty; zpty z 'exec zsh -f -i'
             zpty -w z \"PS1=; fpath=('{folder}' \\$fpath); autoload -Uz compinit; compinit -D -u\"
             zpty -w z \"print rea''dy\"; zpty -r z out '*ready*'
             zpty -w -n z $'{program} {line} {begun}\\t'; zpty -r z out '*{expected}*'
             print offered; zpty -d z"
        );
        assert!(asked("zsh", &script).contains("offered"), "{program} {line}");
    }
}
