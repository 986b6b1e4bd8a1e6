//! TLS 1.3 with certificates on both sides: the files of a `--tls-dir`, checked when they are
//! loaded, and loaded again when they have changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, verify_server_name},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::TLS13,
};

use crate::{Address, authority::certs, refusal};

/// The names of the files in a `--tls-dir`, as Kubernetes has them in a secret.
pub(crate) const CA_FILE: &str = "ca.crt";
pub(crate) const CERTIFICATE_FILE: &str = "tls.crt";
pub(crate) const KEY_FILE: &str = "tls.key";

/// A certificate that is valid for no longer than this is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Bytes of a file; no bundle of certificates is longer.
const BYTES_MAX: u64 = 1 << 20;

/// Both ends agree on HTTP/2, as gRPC asks for.
const PROTOCOL: &[u8] = b"h2";

/// What a board speaks with browsers.
const VIEW_PROTOCOL: &[u8] = b"http/1.1";

/// Has TLS use ring where a library that connects on its own leaves the choice to the program, and would panic
/// without one.
pub fn prefer_ring() {
    let _chosen_before = ring::default_provider().install_default();
}

/// Why a `--tls-dir` cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error(
        "cannot read {}: {error}; --tls-dir needs {CA_FILE}, {CERTIFICATE_FILE} and {KEY_FILE}, \
         and `{}` says how to make them",
        path.display(), certs(&["issue", "--help"])
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The certificate cannot be used.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// Its file.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
}

/// TLS in both roles, with the certificates that are in a folder now.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    stamp: Stamp,
    certificate: CertificateDer<'static>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// For browsers, which show no certificate.
    view: Arc<ServerConfig>,
}

/// When each of the files was last written.
type Stamp = [Option<SystemTime>; 3];

impl Tls {
    pub(crate) fn load(folder: &Path) -> Result<Self, TlsError> {
        let loaded = Mutex::new(load(folder)?);
        Ok(Self(Arc::new(Inner { folder: folder.to_owned(), loaded })))
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.current().client
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current().server
    }

    pub(crate) fn view(&self) -> Arc<ServerConfig> {
        self.current().view
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Checks that peers who look for `address` take this side's certificate.
    pub(crate) fn check_name(&self, address: &Address) -> Result<(), TlsError> {
        let loaded = self.current();
        let path = self.0.folder.join(CERTIFICATE_FILE);
        ParsedCertificate::try_from(&loaded.certificate)
            .and_then(|certificate| verify_server_name(&certificate, address.name()))
            .map_err(|error| TlsError::Unusable { path, reason: refusal::own(&error) })
    }

    /// The files as they are now, or as they last could be used: whoever renews certificates
    /// need not stop a run. Connections in being stay as they are.
    fn current(&self) -> Loaded {
        let Inner { folder, loaded } = &*self.0;
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(folder);
        if stamp != loaded.stamp {
            match load(folder) {
                Ok(fresh) => {
                    tracing::info!("the certificates in {} have been renewed", folder.display());
                    *loaded = fresh;
                }
                Err(error) => tracing::warn!("going on with the certificates of before: {error}"),
            }
            loaded.stamp = stamp;
        }
        loaded.clone()
    }
}

fn stamp(folder: &Path) -> Stamp {
    [CA_FILE, CERTIFICATE_FILE, KEY_FILE]
        .map(|name| fs::metadata(folder.join(name)).and_then(|file| file.modified()).ok())
}

fn load(folder: &Path) -> Result<Loaded, TlsError> {
    // Looked at first: what changes from now on is loaded again.
    let stamp = stamp(folder);
    let roots = Arc::new(roots(&folder.join(CA_FILE))?);
    let path = folder.join(CERTIFICATE_FILE);
    let chain = certificates(&path)?;
    let unusable = |error| TlsError::Unusable { path: path.clone(), reason: refusal::own(&error) };
    let verifier = verifier(&roots).map_err(unusable)?;
    let now = UnixTime::now();
    check(&*verifier, &chain, now).map_err(unusable)?;
    if let Some(left) = expires_soon(&*verifier, &chain, now) {
        let days = left.as_secs() / (24 * 3600);
        tracing::warn!(
            "{} expires in {days} days: issue another one for the same hosts (`{}` says how)",
            path.display(),
            certs(&["issue", "--help"])
        );
    }
    let key_path = folder.join(KEY_FILE);
    let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?)
        .map_err(|_| TlsError::Malformed { path: key_path, what: "private key" })?;
    let client = client(roots, chain.clone(), key.clone_key()).map_err(unusable)?;
    let certificate = chain[0].clone();
    let view = view(chain.clone(), key.clone_key()).map_err(unusable)?;
    let server = server(verifier, chain, key).map_err(unusable)?;
    let (client, server, view) = (Arc::new(client), Arc::new(server), Arc::new(view));
    Ok(Loaded { stamp, certificate, client, server, view })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| TlsError::Unreadable { path: path.to_owned(), error })?;
    Ok(bytes)
}

/// The certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::Malformed { path: path.to_owned(), what: "certificate" })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable {
            path: path.to_owned(),
            reason: refusal::own(&error),
        })?;
    }
    Ok(roots)
}

/// The ring provider, with the ciphers in the order of their speed on this CPU.
fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let mut suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    if !has_aes() {
        suites.rotate_right(1);
    }
    Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() })
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

fn verifier(roots: &Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// Verifies this side's own certificate as its peers will.
fn check(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (own, others) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    verifier.verify_client_cert(own, others, now).map(drop)
}

/// How long a certificate is still valid, if that is not for long.
fn expires_soon(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Option<Duration> {
    let now = Duration::from_secs(now.as_secs());
    match check(verifier, chain, UnixTime::since_unix_epoch(now + SOON)) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => Some(Duration::from_secs(not_after.as_secs()).saturating_sub(now)),
        _ => None,
    }
}

/// Verifies at a moment that a chain is of the CA whose certificate is in `ca`.
pub(crate) fn check_issued(ca: &Path, pem: &[u8], when: SystemTime) -> Result<(), TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let when = when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    verifier(&Arc::new(roots(ca)?))
        .and_then(|verifier| check(&*verifier, &chain, UnixTime::since_unix_epoch(when)))
        .map_err(|error| TlsError::Unusable { path: ca.to_owned(), reason: refusal::own(&error) })
}

/// Whether each certificate of a PEM text, of which there is at least one, holds a name.
pub(crate) fn mentions(pem: &[u8], name: &str) -> bool {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let holds = |der: &CertificateDer<'_>| {
        der.as_ref().windows(name.len()).any(|window| window == name.as_bytes())
    };
    !found.is_empty() && found.iter().all(holds)
}

fn client(
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Certificates are looked at every time.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn view(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![VIEW_PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
