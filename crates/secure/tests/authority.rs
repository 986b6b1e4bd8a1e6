//! Which files an authority writes, and which files it does not touch.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use secure::authority::{Validity, init, issue};

fn issued(dir: &Path, host: &str) -> Result<std::path::PathBuf, secure::authority::AuthorityError> {
    issue(dir, &[host.to_owned()], Validity::days(7))
}

#[test]
fn a_certificate_is_issued_again_over_its_own() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), Validity::days(7)).unwrap();
    let host = issued(folder.path(), "a.example").unwrap();
    let first = fs::read(host.join("tls.crt")).unwrap();
    issued(folder.path(), "a.example").unwrap();
    assert_ne!(fs::read(host.join("tls.crt")).unwrap(), first);
    let mut names: Vec<_> =
        fs::read_dir(&host).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ca.crt", "tls.crt", "tls.key", "token", "view-token"]);
    let read = |name: &str| fs::read(host.join(name)).unwrap();
    assert_ne!(read("token"), read("view-token"));
    for (name, mode) in [("tls.key", 0o600), ("token", 0o600), ("view-token", 0o600)] {
        let metadata = fs::metadata(host.join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn an_issue_that_was_cut_off_is_made_good() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), Validity::days(7)).unwrap();
    let host = issued(folder.path(), "a.example").unwrap();
    fs::remove_file(host.join("tls.crt")).unwrap();
    issued(folder.path(), "a.example").unwrap();
    assert!(host.join("tls.crt").exists());
}

#[test]
fn files_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), Validity::days(7)).unwrap();
    let host = folder.path().join("b.example");
    fs::create_dir(&host).unwrap();
    for name in ["tls.key", "tls.crt", "token", "view-token", "ca.crt"] {
        let path = host.join(name);
        fs::write(&path, "mine").unwrap();
        let message = issued(folder.path(), "b.example").unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()) && message.contains("--dir"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&host).unwrap().count(), 1);
        fs::remove_file(&path).unwrap();
    }
    issued(folder.path(), "b.example").unwrap();
    fs::write(host.join("tls.crt"), "mine").unwrap();
    let message = issued(folder.path(), "b.example").unwrap_err().to_string();
    assert!(message.contains("tls.crt"), "{message}");
    assert_eq!(fs::read(host.join("tls.crt")).unwrap(), b"mine");
}

#[test]
fn a_part_of_an_authority_is_named_with_what_to_do() {
    for name in ["token", "ca.key", "ca.crt", "view-token"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), "mine").unwrap();
        let message = init(folder.path(), Validity::days(7)).unwrap_err().to_string();
        let path = folder.path().join(name);
        assert!(message.starts_with(path.to_str().unwrap()), "{message}");
        assert!(message.contains("move it away") && !message.contains("certs issue"), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), Validity::days(7)).unwrap();
    let message = init(folder.path(), Validity::days(7)).unwrap_err().to_string();
    assert!(message.contains("certs issue"), "{message}");
    let key = folder.path().join("ca.key");
    fs::write(&key, "no key").unwrap();
    let message = issued(folder.path(), "a.example").unwrap_err().to_string();
    assert!(message.starts_with(&format!("{} is not a private key", key.display())), "{message}");
}
