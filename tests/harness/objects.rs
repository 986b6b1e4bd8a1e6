//! An S3 server on loopback, which ends with the test: moto, which `cargo xtask test` installs in
//! `.moto/`. This file does not know what is stored.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Process, leave_out};

/// This variable is set if tests with the server must not be left out.
const REQUIRED: &str = "LOCKSTEP_S3_REQUIRED";

const BUCKET: &str = "bucket";

/// moto requires a signature, but does not check it.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 \
                             Credential=key/20260101/us-east-1/s3/aws4_request, \
                             SignedHeaders=host, Signature=none";

/// A running server with one bucket.
#[derive(Debug)]
pub(crate) struct Objects {
    /// "127.0.0.1:port".
    address: String,
    server: Process,
}

impl Objects {
    /// Starts a server; none if moto is not installed, with a note of the reason.
    pub(crate) fn start() -> Option<Self> {
        let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.moto/site");
        if !site.exists() {
            let reason = format!("{} is not there: `cargo xtask test` fetches it", site.display());
            leave_out(REQUIRED, "checkpoints in an S3 server", &reason);
            return None;
        }
        let mut command = Command::new("python3");
        command.args(["-s", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        command.env("PYTHONPATH", site).env("PYTHONDONTWRITEBYTECODE", "1");
        let server = Process::start("S3 server", &mut command);
        let line = server.wait_for_line("Running on http://");
        let address = line.rsplit('/').next().unwrap().to_owned();
        let objects = Self { address, server };
        objects.request("PUT", BUCKET, &[]);
        Some(objects)
    }

    /// A URL for a run's checkpoints.
    pub(crate) fn url(&self) -> String {
        format!("s3://{BUCKET}/runs/one")
    }

    /// The environment variables with which a program finds the server.
    pub(crate) fn environment(&self) -> String {
        format!(
            "AWS_ENDPOINT_URL=http://{} AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 \
             AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret",
            self.address
        )
    }

    /// The names of all stored objects, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let listing = self.request("GET", &format!("{BUCKET}?list-type=2"), &[]);
        let listing = String::from_utf8(listing).unwrap();
        let keys = listing.split("<Key>").skip(1);
        let mut names: Vec<_> =
            keys.map(|rest| rest.split('<').next().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// The names of the stored checkpoints, the fewest steps first.
    pub(crate) fn checkpoints(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.ends_with(".safetensors")).collect()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        self.request("GET", &format!("{BUCKET}/{name}"), &[])
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        self.request("PUT", &format!("{BUCKET}/{name}"), bytes);
    }

    /// Copies a stored checkpoint to a file.
    pub(crate) fn save(&self, name: &str, to: PathBuf) -> PathBuf {
        std::fs::write(&to, self.read(name)).unwrap();
        to
    }

    /// Kills the server.
    pub(crate) fn kill(self) {
        drop(self.server);
    }

    /// One request; returns the body.
    fn request(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} /{path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\
             Content-Type: application/octet-stream\r\nConnection: close\r\n\
             Authorization: {AUTHORIZATION}\r\n\r\n",
            self.address
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {head}");
        answer.split_off(end + 4)
    }
}
