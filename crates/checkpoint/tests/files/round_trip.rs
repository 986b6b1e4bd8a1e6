//! Checkpoints are read back bit for bit, by this crate and by any reader of safetensors.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use checkpoint::{CheckpointError, Directory, EpochLedger, Metadata, TensorView, read, verify};
use proptest::prelude::*;

use crate::{folder, metadata, write};

#[test]
fn equal_checkpoints_are_equal_files_in_any_order() {
    let (_root, directory) = folder();
    let (_other_root, other) = folder();
    let [a, b] = [
        TensorView { name: "a", shape: &[1], data: &[1.0] },
        TensorView { name: "b", shape: &[], data: &[2.0] },
    ];
    let first = directory.write(&metadata(3), &[a, b]).unwrap();
    let second = other.write(&metadata(3), &[b, a]).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(second).unwrap());
    assert_eq!(first.file_name().unwrap(), "step-00000003.safetensors");
}

#[test]
fn another_reader_of_safetensors_sees_the_same() {
    let (_root, directory) = folder();
    let path = write(&directory, 9);
    let bytes = fs::read(&path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let fields = header.metadata().as_ref().unwrap();
    assert_eq!((&*fields["format_version"], &*fields["step"], &*fields["seed"]), ("1", "9", "42"));
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ours = read(&path).unwrap();
    assert_eq!(theirs.len(), ours.tensors.len());
    for (name, tensor) in &ours.tensors {
        let their = theirs.tensor(name).unwrap();
        let data: Vec<u8> = tensor.data.iter().flat_map(|float| float.to_le_bytes()).collect();
        assert_eq!((their.shape(), their.data()), (&tensor.shape[..], &data[..]));
    }
}

#[test]
fn a_file_of_the_same_step_and_tensors_is_left_alone() {
    let (_root, directory) = folder();
    let path = write(&directory, 4);
    let before = fs::metadata(&path).unwrap().ino();
    write(&directory, 4);
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);

    let mut damaged = fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&path, damaged).unwrap();
    write(&directory, 4);
    assert!(verify(&path).is_ok(), "a damaged one is replaced");

    let other = [TensorView { name: "a", shape: &[1], data: &[1.0] }];
    directory.write(&metadata(4), &other).unwrap();
    assert_eq!(read(&path).unwrap().tensors.len(), 1, "one with other tensors is replaced");
}

#[test]
fn others_may_read_it_as_far_as_the_umask_allows() {
    let (_root, directory) = folder();
    let probe = directory.path().join("probe");
    fs::write(&probe, []).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(write(&directory, 1)), mode(probe));
}

#[test]
fn tensors_which_contradict_themselves_are_refused_and_leave_nothing() {
    let (_root, directory) = folder();
    let one = |name, shape| TensorView { name, shape, data: &[1.0] };
    for tensors in [
        vec![one("a", &[2])],
        vec![one("a", &[usize::MAX, 2])],
        vec![one("a", &[1]), one("a", &[1])],
        vec![one("__metadata__", &[1])],
    ] {
        let error = directory.write(&metadata(1), &tensors).unwrap_err();
        assert!(matches!(error, CheckpointError::Tensor { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path().join("absent"));
    let error = directory.write(&metadata(1), &[]).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_bit_of_every_value_survives(
        values in prop::collection::btree_map(
            any::<String>().prop_filter("reserved", |name| name != "__metadata__"),
            prop::collection::vec(any::<u32>(), 0..300),
            0..5,
        ),
        run_id in any::<String>(),
        configuration in any::<String>(),
        (step, seed) in any::<(u64, u64)>(),
        ledger in prop::collection::vec(any::<(u64, u64)>(), 0..4),
        arithmetic in prop::collection::vec(any::<String>(), 0..3),
    ) {
        let (_root, directory) = folder();
        let ledger = ledger.into_iter().map(|(images, index_sum)| EpochLedger {
            images,
            index_sum,
            loss_terms: vec![images as f64 / 3.0],
            ..EpochLedger::default()
        });
        let metadata = Metadata { run_id, step, seed, configuration, ledger: ledger.collect(), arithmetic };
        let owned: Vec<_> = values
            .iter()
            .map(|(name, bits)| (name, [bits.len()], bits.iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<_>>()))
            .collect();
        let views: Vec<_> =
            owned.iter().map(|(name, shape, data)| TensorView { name, shape, data }).collect();
        let path = directory.write(&metadata, &views).unwrap();
        let back = directory.newest().unwrap().checkpoint.unwrap();
        prop_assert_eq!(&back.0, &path);
        prop_assert_eq!(&back.1.metadata, &metadata);
        prop_assert_eq!(back.1.tensors.len(), values.len());
        for (name, tensor) in &back.1.tensors {
            let bits: Vec<_> = tensor.data.iter().map(|float| float.to_bits()).collect();
            prop_assert_eq!(&bits, &values[name]);
        }
        prop_assert_eq!(verify(&path).unwrap().sha256, back.1.sha256);
    }
}
