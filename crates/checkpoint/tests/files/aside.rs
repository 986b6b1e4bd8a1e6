//! A file that does not verify is moved out of the way of the run, and no file is lost.

use std::fs;
use std::os::unix::fs::symlink;

use checkpoint::{file_name, set_aside, verify};

use crate::{folder, steps, write};

#[test]
fn a_damaged_file_is_kept_under_a_free_name() {
    let (_root, directory) = folder();
    write(&directory, 1);
    let path = directory.path().join(file_name(2));
    for (content, ending) in [("one", ".damaged"), ("two", ".damaged-2"), ("", ".damaged-3")] {
        fs::write(&path, content).unwrap();
        let newest = directory.newest().unwrap();
        let said = set_aside(&path, &newest.damaged[0].1);
        let aside = format!("{}{ending}", path.display());
        assert!(said.ends_with(&format!("; it is kept as {aside}")), "{said}");
        assert!(!said.contains("restore it") && !said.contains("name a checkpoint"), "{said}");
        assert_eq!(fs::read_to_string(aside).unwrap(), content);
        assert_eq!(steps(&directory), [1]);
    }
    write(&directory, 2);
}

#[test]
fn a_folder_and_a_link_that_leads_nowhere_are_kept_too() {
    let (_root, directory) = folder();
    let (here, there) = (directory.path().join(file_name(2)), directory.path().join(file_name(3)));
    fs::create_dir(&here).unwrap();
    symlink("missing", &there).unwrap();
    let damaged = directory.newest().unwrap().damaged;
    assert_eq!(damaged.len(), 2);
    for (path, why) in &damaged {
        let said = set_aside(path, why);
        assert!(said.contains("is not a regular file; it is kept as"), "{said}");
    }
    assert_eq!(steps(&directory), [0_u64; 0]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_sound_file_that_has_replaced_it_stays() {
    let (_root, directory) = folder();
    let path = write(&directory, 2);
    let sound = fs::read(&path).unwrap();
    fs::write(&path, "damaged").unwrap();
    let newest = directory.newest().unwrap();
    let (_, why) = &newest.damaged[0];
    fs::write(&path, sound).unwrap();
    set_aside(&path, why);
    verify(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(set_aside(&path, why).ends_with("it is no longer there"));
}
