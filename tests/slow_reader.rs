//! The output of the programs is not read, as after Ctrl-S in a terminal: the run continues.

use std::{
    fs::File,
    io::Read as _,
    process::{Child, Command},
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::harness::{Place, SMALL, assert_same_tensors, programs, reference, wait_until};

/// The smallest size of a pipe, far less than the output of a run at this log level.
const PIPE_BYTES: usize = 4096;

/// A coordinator that is killed at the end of the test.
struct Coordinator(Child);

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn a_reader_that_has_stopped_reading_holds_nobody_up() {
    let place = Place::new();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&writer, PIPE_BYTES).unwrap();
    let mut command = Command::new(programs().join("vae-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--run-dir"]).arg(&place.run_dir);
    command.args(format!("{SMALL} --workers 2 --epochs 2 --spawn").split_whitespace());
    command.current_dir(place.path("")).env("RUST_LOG", "trace");
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut coordinator = Coordinator(command.spawn().unwrap());
    drop(command);
    wait_until("the run ends", || coordinator.0.try_wait().unwrap().is_some());
    assert!(coordinator.0.wait().unwrap().success());
    assert_same_tensors(&place.newest(), &reference(2));
    let mut written = Vec::new();
    File::from(reader).read_to_end(&mut written).unwrap();
    assert!(written.len() <= PIPE_BYTES, "nobody has read anything before");
}
