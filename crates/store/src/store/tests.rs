//! The same stories with a store in memory and a store in a folder.

use std::fs;
use std::sync::Arc;

use checkpoint::{Metadata, TensorView};
use object_store::memory::InMemory;
use tempfile::TempDir;

use super::*;

/// An empty store of each kind, and a folder for its test.
fn stores() -> [(Store, TempDir); 2] {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let url = format!("file://{}/store/run", folders[1].path().display());
    let remote = Remote { objects: Arc::new(InMemory::new()), folder: "a/run".into(), hint: None };
    let memory = Store { url: "memory:///a/run".into(), remote };
    let [one, other] = folders;
    [(memory, one), (Store::open(&url).unwrap(), other)]
}

/// A folder of checkpoints within another.
fn directory(folder: &TempDir, name: &str) -> Directory {
    let directory = Directory::open(folder.path().join(name));
    directory.create().unwrap();
    directory
}

fn write(directory: &Directory, step: u64, length: usize) -> PathBuf {
    let metadata = Metadata { run_id: "run".into(), step, ..Metadata::default() };
    let data: Vec<f32> = (0..length).map(|index| (index as f32) + step as f32).collect();
    let tensor = TensorView { name: "a", shape: &[length], data: &data };
    directory.write(&metadata, &[tensor]).unwrap()
}

/// Writes bytes to the store without any check.
fn put_raw(store: &Store, name: &str, bytes: &[u8]) {
    let key = store.key(name);
    let put = store.remote.objects.put(&key, bytes.to_vec().into());
    store.block_on(async { put.await.map(drop) }).unwrap().unwrap();
}

#[test]
fn what_is_put_comes_back_byte_for_byte() {
    for (store, folder) in stores() {
        let (here, there) = (directory(&folder, "here"), directory(&folder, "there"));
        for step in [5, 40, 100_000_000] {
            store.put(&write(&here, step, 3)).unwrap();
        }
        assert_eq!(store.steps().unwrap(), [5, 40, 100_000_000]);
        let fetched = store.fetch(40, &there).unwrap();
        assert_eq!(fs::read(fetched).unwrap(), fs::read(write(&here, 40, 3)).unwrap());
        let newest = store.newest(None, &there).unwrap();
        assert_eq!(newest.file, Some(there.path().join("step-100000000.safetensors")));
        assert!(newest.damaged.is_empty());
        assert!(store.newest(Some(100_000_000), &there).unwrap().file.is_none());
        let missing = store.fetch(41, &there).unwrap_err();
        assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    }
}

#[test]
fn a_file_of_several_parts_appears_whole() {
    for (store, folder) in stores() {
        let (here, there) = (directory(&folder, "here"), directory(&folder, "there"));
        let file = write(&here, 1, 5 * PART_BYTES / 8);
        assert!(fs::metadata(&file).unwrap().len() > 2 * PART_BYTES as u64);
        store.put(&file).unwrap();
        let fetched = store.fetch(1, &there).unwrap();
        assert!(fs::read(fetched).unwrap() == fs::read(file).unwrap());
    }
}

#[test]
fn an_empty_folder_holds_nothing_and_makes_nothing() {
    for (store, folder) in stores() {
        assert!(store.steps().unwrap().is_empty());
        assert_eq!(store.config().unwrap(), None);
        let nowhere = Directory::open(folder.path().join("nowhere"));
        assert!(store.newest(None, &nowhere).unwrap().file.is_none());
        store.retain(1, 0).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn damaged_ones_are_named_by_their_url_and_the_one_before_them_is_used() {
    for (store, folder) in stores() {
        let (here, there) = (directory(&folder, "here"), directory(&folder, "there"));
        let sound = write(&here, 10, 3);
        store.put(&sound).unwrap();
        let mut flipped = fs::read(write(&here, 20, 3)).unwrap();
        *flipped.last_mut().unwrap() ^= 1;
        put_raw(&store, "step-00000020.safetensors", &flipped);
        // A checkpoint of another step than its name says.
        put_raw(&store, "step-00000030.safetensors", &fs::read(&sound).unwrap());
        put_raw(&store, "notes.txt", b"somebody else's");
        let newest = store.newest(None, &there).unwrap();
        assert_eq!(newest.file, Some(there.path().join("step-00000010.safetensors")));
        let names = ["step-00000030.safetensors", "step-00000020.safetensors"];
        assert_eq!(newest.damaged.len(), names.len());
        for (damaged, name) in newest.damaged.iter().zip(names) {
            assert!(damaged.to_string().contains(&store.object(name)), "{damaged}");
        }
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 1, "only the sound one stays");

        assert!(store.put(&here.path().join("step-00000020.safetensors")).is_ok());
        fs::write(here.path().join("step-00000040.safetensors"), &flipped[..100]).unwrap();
        let refused = store.put(&here.path().join("step-00000040.safetensors")).unwrap_err();
        assert!(matches!(refused, StoreError::Checkpoint(_)), "{refused}");
        assert_eq!(store.steps().unwrap(), [10, 20, 30], "what does not verify is not stored");
    }
}

#[test]
fn the_newest_stay_and_the_one_known_to_be_sound() {
    for (store, folder) in stores() {
        let here = directory(&folder, "here");
        for step in 1..=6 {
            store.put(&write(&here, step, 3)).unwrap();
        }
        put_raw(&store, "notes.txt", b"somebody else's");
        store.retain(3, 6).unwrap();
        assert_eq!(store.steps().unwrap(), [4, 5, 6]);
        // Step 6 is damaged, and the run went on from step 4.
        store.retain(1, 4).unwrap();
        assert_eq!(store.steps().unwrap(), [4, 6]);
        store.retain(0, 4).unwrap();
        assert_eq!(store.steps().unwrap(), [4, 6], "the newest is never deleted");
        let key = store.key("notes.txt");
        assert!(store.block_on(store.remote.objects.head(&key)).unwrap().is_ok());
    }
}

#[test]
fn a_folder_is_claimed_once() {
    for (store, _folder) in stores() {
        store.claim(b"ours").unwrap();
        store.claim(b"ours").unwrap();
        let refused = store.claim(b"theirs").unwrap_err();
        assert!(matches!(refused, StoreError::Exists { .. }), "{refused}");
        assert_eq!(store.config().unwrap().as_deref(), Some(&b"ours"[..]));
        store.put_config(b"ours, changed").unwrap();
        assert_eq!(store.config().unwrap().as_deref(), Some(&b"ours, changed"[..]));
    }
}
