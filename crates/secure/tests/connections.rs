//! Two ends of a connection with different certificates and tokens: which connections are accepted, and
//! which reasons the refused ends get.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use secure::{
    Address, Security,
    authority::{Validity, init, issue},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The bytes that the server sends first, as HTTP/2 servers do.
const GREETING: &[u8] = b"\0greetings";

fn authority() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), Validity::days(1)).unwrap();
    folder
}

fn host(authority: &TempDir, name: &str) -> PathBuf {
    issue(authority.path(), &[name.to_owned()], Validity::days(30)).unwrap()
}

fn security(folder: &Path) -> Security {
    Security::load(Some(folder), None, false).unwrap()
}

/// Serves until the test ends. An accepted client gets the greeting, and then its own bytes back.
async fn serve(security: &Security) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    let accepted = security.accept(TcpListenerStream::new(listener));
    tokio::spawn(async move {
        tokio::pin!(accepted);
        while let Some(Ok(mut stream)) = accepted.next().await {
            tokio::spawn(async move {
                let _gone = stream.write_all(GREETING).await;
                let _gone = stream.flush().await;
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() {
                    let _gone = stream.write_all(&byte).await;
                    let _gone = stream.flush().await;
                }
            });
        }
    });
    address
}

/// Connects and sends a byte; gives the error, if there is one.
async fn talk(security: &Security, to: &Address) -> Result<(), String> {
    talk_to(to, security, to).await
}

/// The same with the server at `place`, whose certificate is expected to be for `to`.
async fn talk_to(place: &Address, security: &Security, to: &Address) -> Result<(), String> {
    let open = TcpStream::connect((place.host(), place.port()));
    let talk = async {
        let mut stream = security.connect(to, open).await?;
        let mut answer = [0; GREETING.len() + 1];
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_exact(&mut answer).await?;
        assert_eq!((&answer[..GREETING.len()], answer[GREETING.len()]), (GREETING, b'x'));
        Ok::<_, std::io::Error>(())
    };
    talk.await.map_err(|error| error.to_string())
}

async fn refused(client: &Security, to: &Address, words: &str) {
    let reason = talk(client, to).await.unwrap_err();
    assert!(reason.contains(words), "{reason:?}, not {words:?}");
}

#[tokio::test]
async fn two_hosts_of_one_authority_talk_and_no_others() {
    let (ours, theirs) = (authority(), authority());
    let server = serve(&security(&host(&ours, "a.example"))).await;
    let client = security(&host(&ours, "b.example"));
    talk(&client, &server).await.unwrap();
    let stranger = security(&host(&theirs, "b.example"));
    refused(&stranger, &server, "is not of the CA in ca.crt").await;
    // A client that accepts the server's certificate, but whose own certificate the server refuses.
    let mixed = host(&theirs, "mixed.example");
    let folder = tempfile::tempdir().unwrap();
    for file in ["tls.crt", "tls.key"] {
        fs::copy(mixed.join(file), folder.path().join(file)).unwrap();
    }
    let both = [fs::read(ours.path().join("ca.crt")), fs::read(theirs.path().join("ca.crt"))];
    let both: Vec<u8> = both.into_iter().flat_map(Result::unwrap).collect();
    fs::write(folder.path().join("ca.crt"), both).unwrap();
    refused(&security(folder.path()), &server, "does not take this side's certificate").await;
    talk(&client, &server).await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_for_its_host() {
    let ours = authority();
    let (a, b) = (host(&ours, "10.1.2.3"), host(&ours, "b.example"));
    let server = serve(&security(&a)).await;
    let elsewhere = Address::on("127.0.0.2", server.port()).unwrap();
    let reason = talk_to(&server, &security(&b), &elsewhere).await.unwrap_err();
    assert!(reason.contains("is not for 127.0.0.2") && reason.contains("10.1.2.3"), "{reason}");
    let check = |name: &str| security(&a).check_name(&Address::on(name, 1).unwrap());
    check("10.1.2.3").unwrap();
    check("localhost").unwrap();
    let reason = check("10.1.2.4").unwrap_err().to_string();
    assert!(reason.contains("tls.crt") && reason.contains("--host 10.1.2.4"), "{reason}");
    let wild = security(&host(&ours, "*.workers.example"));
    wild.check_name(&Address::on("worker-7.workers.example", 1).unwrap()).unwrap();
    assert!(wild.check_name(&Address::on("a.b.workers.example", 1).unwrap()).is_err());
}

#[tokio::test]
async fn one_side_with_tls_and_one_without() {
    let ours = authority();
    let secured = security(&host(&ours, "a.example"));
    let plain = Security::default();
    let plain_server = serve(&plain).await;
    refused(&secured, &plain_server, "does not speak TLS").await;
    refused(&plain, &serve(&secured).await, "it speaks TLS, and this side does not").await;
    talk(&plain, &plain_server).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_renewed_is_used_from_then_on() {
    let ours = authority();
    let (a, b) = (host(&ours, "a.example"), host(&ours, "b.example"));
    let (server, client) = (security(&a), security(&b));
    let address = serve(&server).await;
    talk(&client, &address).await.unwrap();
    // The new certificates are of an authority that the client does not know.
    let theirs = authority();
    let other = host(&theirs, "a.example");
    for file in ["ca.crt", "tls.key", "tls.crt"] {
        fs::copy(other.join(file), a.join(file)).unwrap();
    }
    refused(&client, &address, "is not of the CA").await;
    // Files that cannot be used change nothing.
    fs::write(b.join("tls.key"), "nothing").unwrap();
    refused(&client, &address, "is not of the CA").await;
    for file in ["ca.crt", "tls.key", "tls.crt"] {
        fs::copy(other.join(file), b.join(file)).unwrap();
    }
    talk(&client, &address).await.unwrap();
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let ours = authority();
    let folder = host(&ours, "a.example");
    let reason = |folder: &Path| Security::load(Some(folder), None, false).unwrap_err().to_string();
    assert!(reason(Path::new("/nowhere")).contains("/nowhere/ca.crt"));
    fs::write(folder.join("tls.key"), "nothing").unwrap();
    assert!(reason(&folder).contains("tls.key holds no private key"));
    let other = host(&ours, "b.example");
    fs::copy(other.join("tls.key"), folder.join("tls.key")).unwrap();
    assert!(reason(&folder).contains("do not belong together"), "{}", reason(&folder));
    let theirs = authority();
    fs::copy(host(&theirs, "a.example").join("tls.crt"), other.join("tls.crt")).unwrap();
    assert!(reason(&other).contains("is not of the CA in ca.crt"), "{}", reason(&other));
    let past = SystemTime::now() - DAY * 3;
    let validity = Validity { not_before: past - DAY, not_after: past };
    let old = issue(ours.path(), &["old.example".into()], validity).unwrap();
    assert!(reason(&old).contains("has expired 3 days ago"), "{}", reason(&old));
    let future = SystemTime::now() + DAY;
    let validity = Validity { not_before: future, not_after: future + DAY };
    let early = issue(ours.path(), &["early.example".into()], validity).unwrap();
    assert!(reason(&early).contains("not valid yet"), "{}", reason(&early));
}

#[test]
fn an_authority_is_made_once_and_keeps_its_keys_to_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    let ours = authority();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let before = fs::read(ours.path().join("ca.key")).unwrap();
    let again = init(ours.path(), Validity::days(1)).unwrap_err().to_string();
    assert!(again.contains("is there already and stays"), "{again}");
    assert_eq!(fs::read(ours.path().join("ca.key")).unwrap(), before);
    let folder = host(&ours, "::1");
    for private in ["ca.key", "token"] {
        assert_eq!(mode(ours.path().join(private)), 0o600, "{private}");
    }
    for private in ["tls.key", "token"] {
        assert_eq!(mode(folder.join(private)), 0o600, "{private}");
    }
    assert!(!folder.join("ca.key").exists());
    let nowhere = tempfile::tempdir().unwrap();
    let none = issue(nowhere.path(), &["a".into()], Validity::days(1)).unwrap_err().to_string();
    assert!(none.contains("certs init --dir"), "{none}");
    for wrong in ["", "a b", "../a", "-", "https://a", "*.a"] {
        let error = issue(ours.path(), &[wrong.to_owned()], Validity::days(1)).unwrap_err();
        assert!(error.to_string().contains("--host"), "{error}");
    }
}

#[test]
fn beyond_loopback_only_with_tls_and_token() {
    let ours = authority();
    let folder = host(&ours, "a.example");
    let far: Address = "10.0.0.1:1".parse().unwrap();
    let near: Address = "127.0.0.1:1".parse().unwrap();
    let closed = security(&folder);
    closed.permit("--listen", &far).unwrap();
    let insecure = Security::load(None, None, true).unwrap();
    insecure.permit("--listen", &far).unwrap();
    assert!(insecure.warning().is_some() && closed.warning().is_none());
    let token = Security::load(None, Some(&folder.join("token")), false).unwrap();
    fs::remove_file(folder.join("token")).unwrap();
    let tls = security(&folder);
    for (open, missing) in [
        (Security::default(), "there is neither: give --tls-dir and --token-file"),
        (token, "there is no TLS: give --tls-dir"),
        (tls, "there is no token: give --token-file"),
    ] {
        open.permit("--listen", &near).unwrap();
        let error = open.permit("--listen", &far).unwrap_err().to_string();
        for words in ["--listen 10.0.0.1:1", missing, "certs --help", "--insecure"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
