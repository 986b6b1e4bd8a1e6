//! TLS 1.3 with certificates on both sides. The files of a `--tls-dir` are checked when they are
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

use crate::{Address, authority::certs, rejection};

/// The names of the files in a `--tls-dir`, as in a TLS secret of Kubernetes.
pub(crate) const CA_FILE: &str = "ca.crt";
pub(crate) const CERTIFICATE_FILE: &str = "tls.crt";
pub(crate) const KEY_FILE: &str = "tls.key";

/// A certificate that expires within this time causes a warning.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The most bytes of a file; no bundle of certificates is longer.
const BYTES_MAX: u64 = 1 << 20;

/// The ALPN protocol of gRPC: HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// The ALPN protocol between a board and browsers.
const VIEW_PROTOCOL: &[u8] = b"http/1.1";

/// Makes ring the default TLS provider of this process. A library that opens its own connections
/// panics without a default.
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
    /// A file does not hold a certificate or a key.
    #[error("{} holds no {what} in PEM", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The expected content.
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

/// TLS in both roles, with the current certificates of a folder.
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
    /// The server's settings for browsers, which have no certificate.
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

    /// Checks that peers that connect to `address` accept this side's certificate.
    pub(crate) fn check_name(&self, address: &Address) -> Result<(), TlsError> {
        let loaded = self.current();
        let path = self.0.folder.join(CERTIFICATE_FILE);
        ParsedCertificate::try_from(&loaded.certificate)
            .and_then(|certificate| verify_server_name(&certificate, address.name()))
            .map_err(|error| TlsError::Unusable { path, reason: rejection::own(&error) })
    }

    /// The current files, or the last usable ones. So certificates can be renewed while a run goes
    /// on. Existing connections keep the old ones.
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
                Err(error) => tracing::warn!("going on with the old certificates: {error}"),
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
    // Read first: a file that changes from now on is loaded again.
    let stamp = stamp(folder);
    let roots = Arc::new(roots(&folder.join(CA_FILE))?);
    let path = folder.join(CERTIFICATE_FILE);
    let chain = certificates(&path)?;
    let unusable =
        |error| TlsError::Unusable { path: path.clone(), reason: rejection::own(&error) };
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
            reason: rejection::own(&error),
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

/// Verifies this side's own certificate as its peers do.
fn check(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (own, others) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    verifier.verify_client_cert(own, others, now).map(drop)
}

/// How long a certificate is still valid, if it expires within [`SOON`].
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

/// Verifies that the CA in the file `ca` has issued a chain, which is valid at the time `when`.
pub(crate) fn check_issued(ca: &Path, pem: &[u8], when: SystemTime) -> Result<(), TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let when = when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    verifier(&Arc::new(roots(ca)?))
        .and_then(|verifier| check(&*verifier, &chain, UnixTime::since_unix_epoch(when)))
        .map_err(|error| TlsError::Unusable { path: ca.to_owned(), reason: rejection::own(&error) })
}

/// Whether a PEM text has certificates, and all of them contain a name.
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
    // Every connection verifies the certificates.
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
