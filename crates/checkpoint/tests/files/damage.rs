//! Every kind of damage: the error names the file, and the checkpoint before it is used.

use std::fs;
use std::sync::LazyLock;

use checkpoint::{CheckpointError, read, verify};
use proptest::prelude::*;

use crate::{folder, write};

/// The error of `read` for a file with these bytes; `verify` must give the same.
fn refusal(bytes: &[u8]) -> Option<CheckpointError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let error = read(file.path()).err();
    let same = verify(file.path()).err();
    assert_eq!(error.as_ref().map(ToString::to_string), same.map(|error| error.to_string()));
    if let Some(error) = &error {
        let line = error.to_string();
        assert!(line.contains(&file.path().display().to_string()), "{line} names the file");
        assert_eq!(line.lines().count(), 1, "{line:?} is one line");
    }
    error
}

/// The bytes of a sound checkpoint. It is written once, because every write waits for the disk.
fn sound() -> &'static [u8] {
    static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let (_root, directory) = folder();
        fs::read(write(&directory, 10)).unwrap()
    });
    assert!(refusal(&SOUND).is_none());
    &SOUND
}

#[test]
fn every_flipped_bit_is_found() {
    let sound = sound();
    let data = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut bytes = sound.to_vec();
            bytes[at] ^= 1 << bit;
            let error = refusal(&bytes).unwrap_or_else(|| panic!("bit {bit} of byte {at}"));
            let of_tensors = matches!(error, CheckpointError::TensorsDamaged { .. });
            assert_eq!(of_tensors, at >= data, "bit {bit} of byte {at}: {error}");
        }
    }
}

#[test]
fn every_truncation_is_found_and_says_how_much_is_missing() {
    let sound = sound();
    for found in 1..sound.len() {
        match refusal(&sound[..found]) {
            Some(CheckpointError::Truncated { expected, found: length, .. }) => {
                assert!(length == found as u64 && expected > length);
            }
            other => panic!("{found} bytes: {other:?}"),
        }
    }
    assert!(matches!(refusal(&[]), Some(CheckpointError::Empty { .. })));
}

#[test]
fn a_file_that_goes_on_is_too_long() {
    let mut bytes = sound().to_vec();
    bytes.push(0);
    assert!(matches!(refusal(&bytes), Some(CheckpointError::TooLong { .. })));
}

#[test]
fn foreign_files_are_told_apart() {
    let with_header = |json: &str| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes
    };
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1], &[0; 8]);
    let other = safetensors::serialize([("a", tensor.unwrap())], None).unwrap();
    assert!(matches!(refusal(&other), Some(CheckpointError::Foreign { .. })));
    let version = with_header(r#"{"__metadata__":{"format_version":"2"}}"#);
    assert!(
        matches!(refusal(&version), Some(CheckpointError::Version { found, .. }) if found == "2")
    );
    let bare = with_header(r#"{"__metadata__":{"format_version":"1"}}"#);
    assert!(matches!(refusal(&bare), Some(CheckpointError::Metadata { key: "header_sha256", .. })));
    for bytes in [&b"PK\x03\x04 a zip file, for instance"[..], &[0xff; 64], &with_header("{}x")] {
        assert!(matches!(refusal(bytes), Some(CheckpointError::NotSafetensors { .. })));
    }
}

#[test]
fn claims_beyond_the_file_cost_nothing() {
    let claim = |json: &str| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        assert!(refusal(&bytes).is_some(), "{json}");
    };
    let huge = u64::MAX / 8 * 4;
    claim(&format!(
        r#"{{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{huge}]}}}}"#,
        huge / 4
    ));
    claim(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,4]}}"#);
    claim(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}"#);
    claim(&"[".repeat(100_000));
    let mut length = u64::MAX.to_le_bytes().to_vec();
    length.extend(b"{}");
    assert!(refusal(&length).is_some());
}

#[test]
fn a_pipe_or_a_folder_is_not_opened() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(read(root.path()), Err(CheckpointError::NotAFile { .. })));
    let pipe = root.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(read(&pipe), Err(CheckpointError::NotAFile { .. })));
    let missing = read(&root.path().join("missing")).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
}

#[test]
fn damaged_ones_are_named_and_the_one_before_is_used() {
    let (_root, directory) = folder();
    let paths: Vec<_> = (1..=5).map(|step| write(&directory, step)).collect();
    let mut flipped = fs::read(&paths[4]).unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&paths[4], flipped).unwrap();
    fs::write(&paths[3], []).unwrap();
    // A sound file under the name of another step.
    fs::copy(&paths[0], &paths[2]).unwrap();

    let newest = directory.newest().unwrap();
    let (path, checkpoint) = newest.checkpoint.unwrap();
    assert_eq!((&path, checkpoint.metadata.step), (&paths[1], 2));
    let named: Vec<_> = newest.damaged.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(named, [paths[4].clone(), paths[3].clone(), paths[2].clone()]);
    assert!(matches!(newest.damaged[0].1, CheckpointError::TensorsDamaged { .. }));
    assert!(matches!(newest.damaged[1].1, CheckpointError::Empty { .. }));
    assert!(matches!(newest.damaged[2].1, CheckpointError::Misnamed { step: 1, .. }));
}

#[test]
fn nothing_sound_is_not_an_error() {
    let (_root, directory) = folder();
    assert!(directory.newest().unwrap().checkpoint.is_none());
    fs::write(write(&directory, 1), b"x").unwrap();
    let newest = directory.newest().unwrap();
    assert!(newest.checkpoint.is_none());
    assert_eq!(newest.damaged.len(), 1);
    let absent = checkpoint::Directory::open(directory.path().join("absent"));
    assert!(absent.newest().unwrap().checkpoint.is_none());
}

/// A pattern for JSON similar to a header.
const HEADER: &str = concat!(
    r#"\{("(a|__metadata__|format_version)":"#,
    r#"(\{"dtype":"F32","shape":\[[0-9]{0,20}\],"data_offsets":\[0,[0-9]{1,20}\]\}"#,
    r#"|"1"|\{"format_version":"1"\}),?){0,3}\}"#
);

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(refusal(&bytes).is_some());
    }

    #[test]
    fn random_headers_never_panic(json in HEADER, data in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.extend(data);
        prop_assert!(refusal(&bytes).is_some());
    }

    #[test]
    fn several_changes_at_once_are_found(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let sound = sound();
        let mut bytes = sound.to_vec();
        for (at, change) in changes {
            bytes[at.index(sound.len())] ^= change;
        }
        bytes.truncate(1 + cut.index(sound.len()));
        prop_assert!(bytes == *sound || refusal(&bytes).is_some());
    }
}
