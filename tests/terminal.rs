//! The output on a terminal; `script` of util-linux provides the terminal.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::{Signal, kill_process};

use crate::harness::{
    ENDLESS, Fleet, Place, SMALL, coordinator, descendants, programs, wait_until,
};

/// The sequence that erases from the cursor to the end of the screen.
const ERASE: &str = "\x1b[J";

/// A program on its own terminal.
struct Terminal {
    script: Child,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts a coordinator that spawns its workers.
    fn start(place: &Place, columns: u32, flags: &str) -> Self {
        let run_dir = place.run_dir.display();
        Self::run(columns, &format!("--listen 127.0.0.1:0 --run-dir '{run_dir}' {flags}"))
    }

    /// Starts the coordinator's program.
    fn run(columns: u32, arguments: &str) -> Self {
        let program = programs().join("vae-coordinator");
        let program = program.display();
        let command = format!("stty rows 24 cols {columns}; exec '{program}' {arguments}");
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &command, "/dev/null"])
            .env_remove("RUST_LOG")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("script of util-linux");
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut output = script.stdout.take().unwrap();
        let sink = Arc::clone(&written);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { script, written }
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, needle: &str) {
        let found = || self.written().contains(needle);
        wait_until(&format!("the terminal shows {needle:?}"), found);
    }

    /// Waits until the output after this call contains `needle`.
    fn wait_for_more(&self, needle: &str) {
        let before = self.written().len();
        wait_until(&format!("the terminal shows {needle:?} again"), || {
            self.written()[before..].contains(needle)
        });
    }

    fn type_in(&mut self, keys: &str) {
        let keyboard = self.script.stdin.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).unwrap();
    }

    /// Sets the width of the terminal.
    fn resize(&self, columns: u32) {
        let coordinator = descendants(self.script.id())[0];
        let device = format!("/proc/{}/fd/1", coordinator.as_raw_nonzero());
        let device = std::fs::read_link(device).unwrap();
        let mut stty = Command::new("stty");
        stty.arg("-F").arg(device).args(["cols", &columns.to_string()]);
        assert!(stty.status().unwrap().success());
    }

    /// Waits for the program's end. Returns the exit code and the lines that stay on the screen.
    fn finish(self) -> (Option<i32>, Vec<String>) {
        let (code, written) = self.end();
        (code, screen(&written))
    }

    /// Waits for the program's end. Returns the exit code and the whole output.
    fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_until("the program ends", || {
            status = self.script.try_wait().unwrap();
            status.is_some()
        });
        // The pipe is closed with the process.
        wait_until("all was read", || Arc::strong_count(&self.written) == 1);
        (status.unwrap().code(), self.written())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.script.try_wait(), Ok(None)) {
            let own = descendants(self.script.id());
            let _exited = self.script.kill();
            let _reaped = self.script.wait();
            for id in own {
                let _gone = kill_process(id, Signal::KILL);
            }
        }
    }
}

/// The lines on an endless screen after this output.
fn screen(written: &str) -> Vec<String> {
    let mut lines = vec![Vec::<char>::new()];
    let (mut row, mut column) = (0, 0);
    let mut rest = written;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix(ERASE) {
            lines.truncate(row + 1);
            lines[row].truncate(column);
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix("\x1b[").and_then(after_colour) {
            rest = after;
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                lines.resize(lines.len().max(row + 1), Vec::new());
            }
            '\x1b' => panic!("another control sequence: {rest:.10}"),
            _ => {
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = character;
                column += 1;
            }
        }
    }
    let lines = lines.into_iter().map(|line| line.into_iter().collect::<String>());
    lines.map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// The text after a sequence that sets colours, which log lines contain.
fn after_colour(rest: &str) -> Option<&str> {
    rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').strip_prefix('m')
}

/// Whether a line is a status line, or a rest of one.
fn is_status(line: &str) -> bool {
    line.contains(" steps") && (line.contains('[') || line.contains(" left")) || line.contains("#.")
}

#[test]
fn the_screen_of_the_test_knows_what_is_erased() {
    assert_eq!(screen("one\r\ntwo\r\x1b[Jthree\r\n"), ["one", "three"]);
    assert_eq!(screen("\x1b[1;33mone\x1b[0m\r\n"), ["one"]);
    assert_eq!(screen("status\r^C\r\x1b[Jline\r\nstatus\r"), ["line", "status"]);
    assert_eq!(screen("status\rline\r\n"), ["lineus"]);
}

#[test]
fn a_run_leaves_its_lines_and_no_status_line() {
    let place = Place::new();
    let terminal = Terminal::start(&place, 100, &format!("{SMALL} --workers 2 --spawn --epochs 3"));
    let written = Arc::clone(&terminal.written);
    let all = move || String::from_utf8_lossy(&written.lock().unwrap()).into_owned();
    terminal.wait_for("Done: ");
    let text = all();
    drop(all);
    let (code, lines) = terminal.finish();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(text.contains(&format!("{ERASE}\rEpoch ")) && text.contains("/282 steps"), "{text:?}");
    assert!(!lines.iter().any(|line| is_status(line)), "{lines:#?}");
    for begin in ["Run directory: ", "Listening on ", "Epoch 1/3  loss ", "Epoch 3/3  ", "Done: "] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(begin)).count(), 1, "{lines:#?}");
    }
}

#[test]
fn ctrl_c_and_a_narrower_terminal_and_a_new_generation_leave_no_status_line() {
    let place = Place::new();
    let mut terminal =
        Terminal::start(&place, 100, &format!("{SMALL} {ENDLESS} --workers 2 --spawn"));
    terminal.wait_for("images/s, ");
    terminal.resize(50);
    terminal.wait_for_more("Epoch ");
    let coordinator = descendants(terminal.script.id())[0];
    let worker = descendants(coordinator.as_raw_nonzero().get().cast_unsigned())[0];
    kill_process(worker, Signal::KILL).unwrap();
    terminal.wait_for("Going on with 1 of 2 workers");
    terminal.wait_for("Going on with 2 of 2 workers");
    terminal.wait_for_more("steps");
    // Lines drawn since then are no wider than the terminal.
    let text = terminal.written();
    let since = text.rsplit("Going on with 2 of 2").next().unwrap();
    let drawn = since.split(ERASE).skip(1).flat_map(|drawn| drawn.split(['\r', '\n']));
    for line in drawn.filter(|line| line.contains(" steps")) {
        assert!(line.len() < 50, "{} columns: {line}", line.len());
    }
    terminal.type_in("\x03");
    let (code, lines) = terminal.finish();
    assert_eq!(code, Some(130), "{lines:#?}");
    assert!(!lines.iter().any(|line| is_status(line)), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("Lost rank ")), "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("Interrupted after step "), "{lines:#?}");
}

#[test]
fn what_is_waited_for_is_shown_while_it_is() {
    let place = Place::new();
    let mut terminal = Terminal::start(&place, 100, &format!("{SMALL} --workers 2"));
    terminal.wait_for("Waiting for workers: 0 of 2 are ready; ");
    // A busy machine may skip a second.
    let counts = |text: &str| (3..30).any(|seconds| text.contains(&format!("({seconds} s)")));
    wait_until("the seconds are counted", || counts(&terminal.written()));
    terminal.type_in("\x03");
    let (code, lines) = terminal.finish();
    assert_eq!(code, Some(130), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("are ready")), "{lines:#?}");
}

#[test]
fn a_run_is_watched_until_q_is_pressed_and_goes_on() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 1, &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_progress(&place);
    let watch = format!("status --watch --coordinator {}", fleet.url);
    let mut terminal = Terminal::run(110, &watch);
    for word in ["Progress", "loss", "Workers", "Memory", "closes"] {
        terminal.wait_for(word);
    }
    terminal.type_in("q");
    let (code, written) = terminal.end();
    assert_eq!(code, Some(0));
    assert!(written.contains("\x1b[?1049l"), "the screen from before is back");
    fleet.wait_for_progress(&place);
    let piped = coordinator(&place, &watch).wait();
    piped.failed_with(&["--watch needs a terminal"]);
}
