//! Commands that a person is told to type, written so that they work when they are pasted.
//!
//! [`CommandLine`] is a program with its arguments. Its text is what a shell reads: the program under
//! the name that it was called by, and each word quoted if it must be. This crate does not know the
//! meaning of the flags.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A command line; its text can be pasted into a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine(Vec<OsString>);

impl CommandLine {
    /// The running program, under the name that it was called by.
    #[must_use]
    pub fn this_program() -> Self {
        Self(vec![Caller::new().name()])
    }

    /// The running program with the arguments that it was called with.
    #[must_use]
    pub fn as_called() -> Self {
        Self::this_program().args(env::args_os().skip(1))
    }

    /// A program in the same folder as the running one.
    #[must_use]
    pub fn program_beside(name: &str) -> Self {
        Self(vec![Caller::new().beside(name)])
    }

    /// A program by its name or path.
    #[must_use]
    pub fn program(name: impl Into<OsString>) -> Self {
        Self(vec![name.into()])
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.0.push(argument.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.0.extend(arguments.into_iter().map(Into::into));
        self
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            let blank = if index == 0 { "" } else { " " };
            write!(f, "{blank}{}", quoted(word))?;
        }
        Ok(())
    }
}

/// How this program was started.
struct Caller {
    called: PathBuf,
    file: Option<PathBuf>,
    path: OsString,
}

impl Caller {
    fn new() -> Self {
        Self {
            called: env::args_os().next().map(PathBuf::from).unwrap_or_default(),
            file: env::current_exe().ok(),
            path: env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// The word that starts this program again.
    fn name(&self) -> OsString {
        let is_path = self.called.as_os_str().as_bytes().contains(&b'/');
        if (is_path && is_program(&self.called)) || (!is_path && self.finds(&self.called)) {
            return self.called.clone().into();
        }
        self.file.as_ref().unwrap_or(&self.called).clone().into()
    }

    /// The word that starts a program in the folder of this one.
    fn beside(&self, name: &str) -> OsString {
        let me = PathBuf::from(self.name());
        if me.as_os_str().as_bytes().contains(&b'/') {
            return me.with_file_name(name).into();
        }
        match self.file.as_ref().map(|file| file.with_file_name(name)) {
            Some(program) if !self.finds(Path::new(name)) => program.into(),
            _ => name.into(),
        }
    }

    /// Whether a shell finds a program of this name.
    fn finds(&self, name: &Path) -> bool {
        let mut folders = env::split_paths(&self.path);
        !name.as_os_str().is_empty() && folders.any(|folder| is_program(&folder.join(name)))
    }
}

/// Whether the path is an executable file.
#[must_use]
pub fn is_program(path: &Path) -> bool {
    let metadata = path.metadata();
    metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// A word quoted for a shell; unquoted if it has no character that a shell interprets.
#[must_use]
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+:,./-=".contains(byte);
    match word.to_str() {
        // zsh replaces `=name` by the path of the program `name`.
        Some(text) if text.bytes().all(|byte| is_plain(&byte)) && !text.starts_with('=') => {
            if text.is_empty() { "''".into() } else { text.into() }
        }
        Some(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => printed(word.as_bytes()),
    }
}

/// A word with bytes that a terminal does not show, as a call of `printf` with octal numbers. Every
/// shell has `printf`; not every shell knows `$'...'`.
fn printed(bytes: &[u8]) -> String {
    // A shell removes the line ends at the end of a command's output.
    let end = bytes.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
    let mut text = String::from("\"$(printf '");
    for (index, byte) in bytes[..end].iter().enumerate() {
        let is_shown = byte.is_ascii_alphanumeric() || b" _@+:,./=".contains(byte);
        match byte {
            b'%' => text += "%%",
            // A dash at the beginning would start an option.
            b'-' if index > 0 => text.push('-'),
            _ if is_shown => text.push(char::from(*byte)),
            _ => {
                let _infallible = write!(text, "\\{byte:03o}");
            }
        }
    }
    text += "')\"";
    if end < bytes.len() {
        let _infallible = write!(text, "'{}'", "\n".repeat(bytes.len() - end));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::ffi::OsStringExt as _, process::Command};

    use super::*;

    fn words() -> Vec<OsString> {
        let texts = [
            "plain",
            "a/b-c_d.e",
            "",
            "two words",
            "it's",
            "\"",
            "$HOME",
            "`id`",
            "a;b",
            "*",
            "~",
            "=ls",
            "a\\b",
            "#x",
            "!!",
            "{a,b}",
            "über",
            "tab\there",
            "line\nend",
            "end\n\n",
            "\n",
            "100%",
            "%s\n",
            "-n",
            "(x)",
            "a&b",
            "a|b",
            "<>",
            "[a]",
            "\u{7f}",
        ];
        let mut words: Vec<OsString> = texts.map(OsString::from).into();
        words.push(OsString::from_vec(b"bytes \xff\x80 'of' $any $(kind)".to_vec()));
        words.push(OsString::from_vec((1..=255).collect()));
        words
    }

    /// A shell reads the same words back, byte for byte.
    #[test]
    fn a_shell_reads_back_every_word() {
        let line = CommandLine::program("printf").arg("%s\\0").args(words()).to_string();
        let mut expected = Vec::new();
        for word in words() {
            expected.extend(word.as_bytes());
            expected.push(0);
        }
        for shell in ["sh", "bash"] {
            let output = Command::new(shell).args(["-c", &line]).output().unwrap();
            assert!(output.status.success(), "{shell}: {output:?}");
            assert!(output.stdout == expected, "{shell}: {line}");
        }
    }

    #[test]
    fn nothing_is_quoted_without_need() {
        let line = CommandLine::program("vae-worker").arg("--coordinator").arg("https://[::1]:7");
        assert_eq!(line.to_string(), "vae-worker --coordinator 'https://[::1]:7'");
        let line = CommandLine::program("bin/vae").args(["sample", "--seed=1", "a b"]);
        assert_eq!(line.to_string(), "bin/vae sample --seed=1 'a b'");
        assert_eq!(quoted(OsStr::from_bytes(b"a\xff'")), r#""$(printf 'a\377\047')""#);
    }

    #[test]
    fn a_program_is_called_as_this_one_was() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (me, other) = (make("me"), make("other"));
        let caller = |called: &Path, path: &Path| Caller {
            called: called.into(),
            file: Some(me.clone()),
            path: path.into(),
        };
        let elsewhere = Path::new("/nowhere");
        for (caller, name, beside) in [
            (caller(&me, elsewhere), me.as_path(), other.as_path()),
            (caller(Path::new("me"), folder.path()), Path::new("me"), Path::new("other")),
            // Neither PATH nor the path of the call leads to this program.
            (caller(Path::new("me"), elsewhere), &me, &other),
            (caller(Path::new("gone/me"), elsewhere), &me, &other),
            (caller(Path::new(""), elsewhere), &me, &other),
        ] {
            assert_eq!(
                (Path::new(&caller.name()), Path::new(&caller.beside("other"))),
                (name, beside)
            );
        }
        fs::remove_file(&other).unwrap();
        let caller = caller(Path::new("me"), folder.path());
        assert_eq!(Path::new(&caller.beside("other")), other, "where it is to be");
    }
}
