//! Outputs that are not new regular files: devices, pipes, links, and files that exist already.

use std::{
    fs::{self, Permissions},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, PermissionsExt as _, symlink},
    },
    path::Path,
    process::Command,
    thread,
};

use crate::harness::{Place, png, run_dir};

/// The program on the small model, in a folder.
fn vae(place: &Place, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vae"));
    command.args(arguments.split_whitespace()).arg("--checkpoint").arg(run_dir());
    command.current_dir(place.path(""));
    command
}

#[test]
fn a_device_stays_a_device() {
    let place = Place::new();
    let node = place.path("null");
    let made = Command::new("mknod").arg(&node).args(["c", "1", "3"]).output().unwrap();
    let mut devices = vec!["/dev/null"];
    devices.extend(made.status.success().then_some("null"));
    symlink("/dev/null", place.path("link.npy")).unwrap();
    symlink("link.npy", place.path("link.png")).unwrap();
    for command in ["sample --count 4", "traverse", "map", "encode"] {
        let all = if command == "encode" { vec!["link.npy"] } else { devices.clone() };
        for device in all.into_iter().chain((command != "encode").then_some("link.png")) {
            place.vae(&format!("{command} --output {device}"));
            let kind = fs::metadata(place.path(device)).unwrap().file_type();
            assert!(kind.is_char_device(), "{command} --output {device}");
        }
    }
    assert!(place.path("link.npy").is_symlink() && place.path("link.png").is_symlink());
    let model = run_dir().display();
    let message = place.refused(&format!("sample --output /dev/full --checkpoint {model}"));
    assert!(message.contains("cannot write /dev/full: No space left"), "{message}");
}

#[test]
fn a_picture_to_standard_output_is_nothing_but_the_picture() {
    let place = Place::new();
    place.vae("sample --count 4 --output file.png");
    symlink("/dev/stdout", place.path("out.png")).unwrap();
    // Standard output is a pipe, then a file written from its beginning, then a file opened for appending.
    let piped = vae(&place, "sample --count 4 --output out.png").output().unwrap();
    assert!(piped.status.success());
    assert_eq!(piped.stdout, place.read("file.png"));
    assert!(String::from_utf8_lossy(&piped.stderr).contains("Wrote out.png (4 images)"));

    let file = fs::File::create(place.path("redirected.png")).unwrap();
    let run = vae(&place, "sample --count 4 --output out.png").stdout(file).status().unwrap();
    assert!(run.success());
    assert_eq!(place.read("redirected.png"), place.read("file.png"));

    fs::write(place.path("log"), "before").unwrap();
    let log = fs::OpenOptions::new().append(true).open(place.path("log")).unwrap();
    assert!(
        vae(&place, "sample --count 4 --output out.png").stdout(log).status().unwrap().success()
    );
    assert_eq!(place.read("log"), [b"before", &place.read("file.png")[..]].concat());
}

#[test]
fn a_pipe_gets_the_picture_and_stays_a_pipe() {
    let place = Place::new();
    let pipe = place.path("pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut run = vae(&place, "sample --count 4 --output pipe.png");
    // A program that fails before it opens the pipe leaves this thread behind.
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    let run = run.output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let (width, ..) = png(&reader.join().unwrap());
    assert!(width > 0);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn what_is_overwritten_keeps_its_links_and_its_mode() {
    let place = Place::new();
    fs::create_dir(place.path("kept")).unwrap();
    fs::write(place.path("kept/mine.png"), "old").unwrap();
    fs::set_permissions(place.path("kept/mine.png"), Permissions::from_mode(0o600)).unwrap();
    symlink("kept/mine.png", place.path("link.png")).unwrap();
    place.vae("sample --output link.png");
    assert_eq!(fs::read_link(place.path("link.png")).unwrap(), Path::new("kept/mine.png"));
    png(&place.read("kept/mine.png"));
    let mode = fs::metadata(place.path("kept/mine.png")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(place.path("kept")).unwrap().count(), 1, "nothing stays beside it");
}

#[test]
fn a_path_that_is_no_text_is_as_good_as_any() {
    let place = Place::new();
    let name = |bytes: &'static [u8]| std::ffi::OsStr::from_bytes(bytes);
    let run = |command: &mut Command| {
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    symlink(run_dir(), place.path("").join(name(b"run\xff"))).unwrap();
    let mut sample = Command::new(env!("CARGO_BIN_EXE_vae"));
    sample.current_dir(place.path("")).arg("sample").arg("--checkpoint").arg(name(b"run\xff"));
    run(sample.arg("--output").arg(name(b"\xfe.png")));
    png(&fs::read(place.path("").join(name(b"\xfe.png"))).unwrap());
    let mut walk = Command::new(env!("CARGO_BIN_EXE_vae"));
    walk.current_dir(place.path("")).args(["interpolate", "--to", "3", "--output", "walk.png"]);
    run(walk.arg("--checkpoint").arg(run_dir()).arg("--from").arg(name(b"\xfe.png")));
    assert_eq!(place.files().len(), 3);
}

/// A file of another program is not replaced under a name that the user has not given.
#[test]
fn files_of_others_stay() {
    let (place, model) = (Place::new(), format!("--checkpoint {}", run_dir().display()));
    for (command, name) in [
        ("export --output .", "README.md"),
        ("export --output .", "encoder.onnx"),
        ("export --format safetensors --output .", "model.safetensors"),
        ("map --output map.png --projector .", "metadata.tsv"),
        ("map --output map.png --projector .", "projector_config.pbtxt"),
        ("sample", "samples.png"),
        ("map", "map.png"),
        ("encode", "latents.npy"),
    ] {
        fs::write(place.path(name), "mine").unwrap();
        let message = place.refused(&format!("{command} {model}"));
        assert!(message.contains(&format!("{name} is there already")), "{message}");
        assert_eq!(place.read(name), b"mine");
        fs::remove_file(place.path(name)).unwrap();
    }
    assert!(place.files().is_empty());
    // The program replaces its own files, and any other file that the user names.
    for _ in 0..2 {
        place.vae("export --output .");
        place.vae("map --projector .");
        place.vae("sample");
    }
    fs::write(place.path("mine.png"), "mine").unwrap();
    place.vae("sample --output mine.png");
    png(&place.read("mine.png"));
}

/// The page's computations in a browser are tested in tests/explore.rs.
#[test]
fn a_page_to_explore_is_one_file_that_asks_for_no_other() {
    let place = Place::new();
    let said = place.vae("explore --count 50");
    let run = run_dir().display();
    let wrote = format!("Wrote latent.html (50 images to explore), from {run}/checkpoints/step-");
    assert!(said.starts_with(&wrote) && said.lines().count() == 1, "{said}");
    let page = String::from_utf8(place.read("latent.html")).unwrap();
    assert!(page.contains("default-src 'none'; script-src 'sha256-"));
    assert!(!page.contains("{{"), "a place of the page was left open");
    for word in ["http:", "https:", "src=", "@import", "url(", "'unsafe-"] {
        assert!(!page.contains(word), "{word}");
    }
    // The program replaces its own page, and equal input gives equal bytes.
    place.vae("explore --count 50");
    assert_eq!(String::from_utf8(place.read("latent.html")).unwrap(), page);
    let message = place.refused(&format!(
        "explore --projection tsne --count 5 --output t.html --checkpoint {}",
        run_dir().display()
    ));
    assert!(message.contains("t-SNE needs 8 images at least, there are 5"), "{message}");
}
