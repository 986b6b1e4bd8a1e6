//! `vae-coordinator certs`: a certificate authority in a folder, and the files that it issues.
//!
//! ```text
//! DIR/ca.crt  ca.key  token  view-token              init: the authority, which stays here
//! DIR/HOST/ca.crt  tls.crt  tls.key  token  view-token   issue: the --tls-dir of that host
//! ```

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use advice::CommandLine;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio_rustls::rustls::pki_types::{DnsName, IpAddr};

use crate::{
    Secret, TlsError, hex,
    security::{TOKEN_FILE, VIEW_TOKEN_FILE},
    tls::{self, CA_FILE, CERTIFICATE_FILE, KEY_FILE},
};

const CA_KEY_FILE: &str = "ca.key";

/// The names of all authorities made here begin with this.
const CA_NAME: &str = "Lockstep CA";

/// The loopback names of every host.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate is valid from so long ago, so that hosts whose clocks are slow accept it.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    Everybody,
    Owner,
}

/// Why no certificate was issued.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// There is an authority already, or a part of one.
    #[error(
        "{} is there already and stays: {}", .0.display(), instead_of_init(.0.parent().unwrap_or(.0))
    )]
    Exists(PathBuf),
    /// A file that the authority has not written has the name of a file to write.
    #[error(
        "{} is there already and was not made by `certs issue`, so it stays: move it away, or \
         make another CA in another --dir",
        .0.display()
    )]
    Foreign(PathBuf),
    /// A file of the authority cannot be read.
    #[error(
        "cannot read {}: {error}{}", path.display(), missing_authority(path, error)
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The text is neither the name nor the IP address of a host.
    #[error("--host {0:?} is neither a host's name nor its IP address")]
    Host(String),
    /// The authority's files do not belong together, or cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The authority's key cannot be used.
    #[error(
        "{} is not a private key in PEM ({error}): restore it from a copy, or make another CA elsewhere",
        path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: rcgen::Error,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A command that makes certificates, for people to type.
pub(crate) fn certs(arguments: &[&str]) -> CommandLine {
    CommandLine::program_beside("vae-coordinator").arg("certs").args(arguments)
}

/// The command that issues a certificate of an authority for this host.
#[must_use]
pub fn issue_for_this_host(dir: &Path) -> CommandLine {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = if check_host(&node).is_ok() { &node } else { LOOPBACK[0] };
    certs(&["issue", "--dir"]).arg(dir).args(["--host", host])
}

/// What to do when no authority can be made in a folder.
fn instead_of_init(dir: &Path) -> String {
    if [CA_FILE, CA_KEY_FILE].iter().all(|name| dir.join(name).exists()) {
        let issue = issue_for_this_host(dir);
        return format!(
            "make another CA in another --dir, or issue certificates, for this host with: {issue}"
        );
    }
    "it is a part of a CA whose other files are missing: move it away, restore them from a copy, or \
     make a CA in another --dir"
        .into()
}

/// What to do when a file of an authority cannot be read.
fn missing_authority(path: &Path, error: &io::Error) -> String {
    let dir = path.parent().unwrap_or(path);
    let is_empty = [CA_FILE, CA_KEY_FILE, TOKEN_FILE].iter().all(|name| !dir.join(name).exists());
    match error.kind() {
        io::ErrorKind::NotFound if is_empty => {
            format!("; make a CA there with: {}", certs(&["init", "--dir"]).arg(dir))
        }
        io::ErrorKind::NotFound => "; restore it from a copy, or make another CA elsewhere".into(),
        _ => String::new(),
    }
}

/// The time in which a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// Valid for so many days from now on.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        Self { not_before: now - CLOCK_SKEW, not_after: now + DAY * days }
    }
}

/// Makes an authority, a join token and a view token in `dir`. Existing files are not replaced.
///
/// # Errors
/// [`AuthorityError`]; a file is complete or absent.
pub fn init(dir: &Path, validity: Validity) -> Result<(), AuthorityError> {
    make_dir(dir)?;
    for name in [CA_FILE, CA_KEY_FILE, TOKEN_FILE, VIEW_TOKEN_FILE] {
        if dir.join(name).exists() {
            return Err(AuthorityError::Exists(dir.join(name)));
        }
    }
    let key = KeyPair::generate()?;
    let mut params = params(&name_of(&key), validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    create(&dir.join(CA_KEY_FILE), key.serialize_pem().as_bytes(), Readers::Owner)?;
    create(&dir.join(CA_FILE), certificate.pem().as_bytes(), Readers::Everybody)?;
    create(&dir.join(TOKEN_FILE), token().as_bytes(), Readers::Owner)?;
    create(&dir.join(VIEW_TOKEN_FILE), token().as_bytes(), Readers::Owner)
}

/// Issues a certificate of the authority in `dir` for one host. `hosts` are all names and IP
/// addresses of the host. The certificate and the other files that the host needs are written to
/// a folder with the first of these names. An earlier certificate there is replaced; files of
/// other programs are not.
///
/// # Errors
/// [`AuthorityError`]; every file is then complete or unchanged.
pub fn issue(dir: &Path, hosts: &[String], validity: Validity) -> Result<PathBuf, AuthorityError> {
    let path = dir.join(CA_KEY_FILE);
    let ca_key =
        KeyPair::from_pem(&read(&path)?).map_err(|error| AuthorityError::Key { path, error })?;
    let ca = read(&dir.join(CA_FILE))?;
    hosts.iter().try_for_each(|host| check_host(host))?;
    let first = hosts.first().ok_or_else(|| AuthorityError::Host(String::new()))?;

    let issuer = Issuer::new(params(&name_of(&ca_key), validity), ca_key);
    let loopback = LOOPBACK.map(str::to_owned);
    let mut names: Vec<String> = hosts.iter().chain(&loopback).cloned().collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let mut params = params(first, validity);
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    let valid = validity.not_before + Duration::from_secs(1);
    tls::check_issued(&dir.join(CA_FILE), certificate.as_bytes(), valid)?;

    let folder = dir.join(first.replace(['*', '/', ':'], "_"));
    refuse_foreign(&folder)?;
    make_dir(&folder)?;
    replace(&folder.join(CA_FILE), ca.as_bytes(), Readers::Everybody)?;
    // An authority of an earlier version has no view token.
    match create(&dir.join(VIEW_TOKEN_FILE), token().as_bytes(), Readers::Owner) {
        Ok(()) | Err(AuthorityError::Exists(_)) => {}
        Err(error) => return Err(error),
    }
    for name in [TOKEN_FILE, VIEW_TOKEN_FILE] {
        if let Ok(token) = fs::read(dir.join(name)) {
            replace(&folder.join(name), &token, Readers::Owner)?;
        }
    }
    replace(&folder.join(KEY_FILE), key.serialize_pem().as_bytes(), Readers::Owner)?;
    replace(&folder.join(CERTIFICATE_FILE), certificate.as_bytes(), Readers::Everybody)?;
    Ok(folder)
}

/// The name of the authority with this key. The name depends on the key: with equal names, a
/// certificate of another authority would be recognised only by its signature.
fn name_of(key: &KeyPair) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    format!("{CA_NAME} {}", hex(&digest.as_ref()[..4]))
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params
}

fn check_host(host: &str) -> Result<(), AuthorityError> {
    // A wildcard for a whole top-level domain would match no host.
    let name =
        host.strip_prefix("*.").map_or(Some(host), |rest| rest.contains('.').then_some(rest));
    let is_name = || name.is_some_and(|name| DnsName::try_from(name).is_ok());
    if IpAddr::try_from(host).is_ok() || is_name() {
        Ok(())
    } else {
        Err(AuthorityError::Host(host.to_owned()))
    }
}

fn token() -> String {
    hex(Secret::random().bytes()) + "\n"
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path)
        .map_err(|error| AuthorityError::Unreadable { path: path.to_owned(), error })
}

fn make_dir(path: &Path) -> Result<(), AuthorityError> {
    fs::create_dir_all(path)
        .map_err(|error| AuthorityError::Unwritable { path: path.to_owned(), error })
}

/// Refuses a folder with files that no authority of this program has issued. A certificate names
/// its issuer; without a certificate, nobody knows where a key comes from.
fn refuse_foreign(folder: &Path) -> Result<(), AuthorityError> {
    let is_there = |name: &&str| fs::symlink_metadata(folder.join(name)).is_ok();
    let names = [CERTIFICATE_FILE, KEY_FILE, CA_FILE, TOKEN_FILE, VIEW_TOKEN_FILE];
    let Some(found) = names.into_iter().find(is_there) else { return Ok(()) };
    let is_ours = |name: &str| {
        let pem = fs::read(folder.join(name)).unwrap_or_default();
        tls::mentions(&pem, CA_NAME)
    };
    // `issue` writes the CA's certificate first, so it is there if any other issued file is.
    if is_ours(CA_FILE) && (!is_there(&CERTIFICATE_FILE) || is_ours(CERTIFICATE_FILE)) {
        return Ok(());
    }
    Err(AuthorityError::Foreign(folder.join(found)))
}

/// Writes a file, unless it exists.
fn create(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), AuthorityError> {
    write(path, bytes, readers, |beside| disk::put_new(beside, path)).map_err(|error| {
        match error.kind() {
            io::ErrorKind::AlreadyExists => AuthorityError::Exists(path.to_owned()),
            _ => AuthorityError::Unwritable { path: path.to_owned(), error },
        }
    })
}

/// Writes a file, and replaces an existing one.
fn replace(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), AuthorityError> {
    let put = |beside: NamedTempFile| beside.persist(path).map(drop).map_err(|put| put.error);
    write(path, bytes, readers, put)
        .map_err(|error| AuthorityError::Unwritable { path: path.to_owned(), error })
}

fn write(
    path: &Path,
    bytes: &[u8],
    readers: Readers,
    put: impl FnOnce(NamedTempFile) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    disk::sweep(folder);
    let mut beside = match readers {
        Readers::Everybody => disk::temporary(folder)?,
        Readers::Owner => disk::temporary_private(folder)?,
    };
    beside.as_file_mut().write_all(bytes)?;
    disk::sync_file(beside.as_file(), path)?;
    put(beside)?;
    disk::sync_folder(folder)
}
