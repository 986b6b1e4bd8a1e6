//! Runs are read from their folders.

use std::fs;

use super::{
    compare::compare,
    found::{self, Run},
    *,
};

/// Writes a complete run of two epochs.
fn put(runs: &Path, name: &str, config: &str, digest: &str, losses: [f64; 2]) -> PathBuf {
    let path = runs.join(name);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("config.json"), config).unwrap();
    let mut rows = String::new();
    for (epoch, loss) in (1..).zip(losses) {
        let step = epoch * 10;
        rows += &format!(
            "{{\"kind\":\"steps\",\"generation\":1,\"epoch\":{epoch},\"step\":{step},\"steps\":10,\
             \"examples\":640,\"seconds\":0.5,\"loss\":{}}}\n{{\"kind\":\"epoch\",\"step\":{step},\
             \"epoch\":{epoch},\"loss\":1,\"test_loss\":{loss}}}\n",
            2.0 * loss
        );
    }
    fs::write(path.join(history::METRICS), rows).unwrap();
    let summary = format!("{{\"epochs\":2,\"steps\":20,\"digest\":\"{digest}\"}}");
    fs::write(path.join("summary.json"), summary).unwrap();
    path
}

fn config(batch_size: u32, hidden: u32) -> String {
    format!(
        "{{\"run_id\":\"abc\",\"name\":\"wide\",\"training\":{{\"batch_size\":{batch_size},\"seed\":\
         0,\"task\":{{\"name\":\"vae\",\"example\":\"image\",\"metrics\":[{{\"name\":\"loss\",\
         \"unit\":\"nats\"}}],\"options\":{{\"hidden_dim\":{hidden}}}}}}},\"operation\":{{\
         \"epochs\":2,\"workers\":2}}}}"
    )
}

#[test]
fn a_table_has_a_line_for_each_run() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path();
    assert!(table::show(runs, false).unwrap().starts_with("No runs in "));
    let path = put(runs, "one", &config(64, 400), "0123456789abcdef", [120.0, 110.25]);
    put(runs, "damaged", "{", "", [1.0, 1.0]);
    fs::create_dir(runs.join("no-run")).unwrap();
    std::os::unix::fs::symlink("one", runs.join("latest")).unwrap();
    for folder in [runs, &path] {
        let text = table::show(folder, false).unwrap();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0][..3], ["NAME", "STATE", "EPOCHS"]);
        let expected = ["wide", "complete", "2/2", "110.25", "1280", "0123456789ab", "-"];
        assert_eq!(lines[1], expected);
    }
    let json: serde_json::Value = serde_json::from_str(&table::show(runs, true).unwrap()).unwrap();
    assert_eq!((&json[0]["test_loss"], &json[0]["epoch"]), (&110.25.into(), &2.into()));
    let error = table::show(&runs.join("none"), false).unwrap_err().to_string();
    assert!(error.contains("name the folder that the runs are in"), "{error}");
}

#[test]
fn a_comparison_shows_what_differs_and_what_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, hidden, digest| {
        let config = config(64, hidden).replace("\"name\":\"wide\",", "");
        Run::read(&put(folder.path(), name, &config, digest, [120.0, 110.0])).unwrap()
    };
    let text = compare(&[run("a", 400, "11"), run("b", 400, "11"), run("c", 800, "22")]);
    assert!(text.contains("hidden-dim"), "{text}");
    for same in ["batch-size", "workers", "seed"] {
        assert!(!text.contains(same), "{text}");
    }
    assert!(text.contains("same bits: a, b") && !text.contains("a, b, c"), "{text}");
    assert!(text.contains("test loss, epoch 2  110.00"), "{text}");
    assert!(compare(&[run("a", 400, "11"), run("b", 400, "11")]).contains("same flags"));
}

#[test]
fn curves_and_tables_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "one", &config(64, 400), "00", [120.0, 30.0]);
    let run = Run::read(&path).unwrap();
    let [png, svg] = ["curves.png", "curves.svg"].map(|name| folder.path().join(name));
    plot::plot(std::slice::from_ref(&run), &[png.clone(), svg.clone()]).unwrap();
    assert!(fs::read(png).unwrap().starts_with(b"\x89PNG"));
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.contains("<polyline") && svg.contains(">wide</text>"), "{svg}");
    let error = plot::plot(std::slice::from_ref(&run), &[PathBuf::from("curves.jpg")]).unwrap_err();
    assert!(error.to_string().contains("must end in .png or .svg"), "{error}");
    let table = folder.path().join("table.csv");
    assert!(export::csv(&run, &table).unwrap().starts_with("4 rows in "));
    let table = fs::read_to_string(table).unwrap();
    assert!(table.starts_with("kind,time,generation,epoch,step,examples,"), "{table}");
    assert!(table.lines().nth(2).unwrap().ends_with(",1,120"), "{table}");
}

#[test]
fn the_files_of_a_run_are_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "one", &config(64, 400), "00", [120.0, 30.0]);
    let other = put(folder.path(), "two", &config(64, 400), "00", [120.0, 30.0]);
    fs::create_dir(other.join("samples")).unwrap();
    fs::hard_link(path.join("metrics.jsonl"), folder.path().join("hard.csv")).unwrap();
    std::os::unix::fs::symlink(path.join("config.json"), folder.path().join("link.csv")).unwrap();
    let run = Run::read(&path).unwrap();
    for file in ["one/metrics.jsonl", "one/metrics.000001.jsonl", "two/config.json", "one/lock"] {
        let error = export::csv(&run, &folder.path().join(file)).unwrap_err().to_string();
        assert!(error.contains("it belongs to the run in"), "{file}: {error}");
    }
    let error = export::csv(&run, &folder.path().join("link.csv")).unwrap_err().to_string();
    assert!(error.contains("it belongs to the run in"), "{error}");
    let error = export::csv(&run, &folder.path().join("hard.csv")).unwrap_err().to_string();
    assert!(error.contains("it is read from"), "{error}");
    let samples = other.join("samples/epoch-001.png");
    let error = plot::plot(std::slice::from_ref(&run), &[samples]).unwrap_err().to_string();
    assert!(error.contains("it belongs to the run in"), "{error}");
    assert_eq!(newest(&path), 4, "the metrics are complete");
    // A file of the user's own may be in the folder of a run.
    for _ in 0..2 {
        assert!(export::csv(&run, &path.join("table.csv")).unwrap().starts_with("4 rows in "));
    }
    assert!(export::csv(&run, Path::new("/dev/full")).unwrap_err().to_string().contains("space"));
}

/// The number of valid rows of a run.
fn newest(path: &Path) -> usize {
    history::newest_rows(path).unwrap().count()
}

#[test]
fn pictures_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "one", &config(64, 400), "00", [120.0, 30.0]);
    let run = [Run::read(&path).unwrap()];
    let [png, svg] = ["curves.png", "curves.svg"].map(|name| folder.path().join(name));
    for file in [&png, &svg] {
        let usual = [png.clone(), svg.clone()];
        plot::check(&usual, false, &run).unwrap();
        plot::plot(&run, &usual).unwrap();
        plot::check(&usual, false, &run).unwrap();
        fs::write(file, "mine").unwrap();
        let error = plot::check(&usual, false, &run).unwrap_err().to_string();
        assert!(error.contains("nothing shows that Lockstep has written it"), "{error}");
        plot::check(&usual, true, &run).unwrap();
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = put(folder.path(), "damaged", "{", "", [1.0, 1.0]);
    let error = table::show(&damaged, false).unwrap_err().to_string();
    assert!(error.contains("config.json is not a run's configuration"), "{error}");
    let error = table::show(folder.path(), true).unwrap_err().to_string();
    assert!(error.starts_with("of 1 run in ") && error.ends_with("none can be read"), "{error}");
    let path = put(folder.path(), "one", &config(64, 400), "00", [120.0, 30.0]);
    let mut rows = fs::read(path.join(history::METRICS)).unwrap();
    rows.splice(0..0, b"\xff\xfe\nno row\n".iter().copied());
    fs::write(path.join(history::METRICS), rows).unwrap();
    assert_eq!(Run::read(&path).unwrap().bad_lines, 2);
}

#[test]
fn pipes_in_place_of_files_are_errors_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    for name in ["metrics.jsonl", "config.json"] {
        let run = format!("without-{name}");
        let path = put(folder.path(), &run, &config(64, 400), "00", [120.0, 30.0]);
        pipe(&path.join(name));
        let error = format!("{:#}", Run::read(&path).unwrap_err());
        assert!(error.contains(name) && error.contains("it is not a regular file"), "{error}");
    }
    // A run without its summary or its events can be read.
    let path = put(folder.path(), "one", &config(64, 400), "00", [120.0, 30.0]);
    for name in ["summary.json", "events.jsonl", "lock"] {
        fs::write(path.join(name), "").unwrap();
        pipe(&path.join(name));
    }
    assert_eq!(Run::read(&path).unwrap().tests.len(), 2);
    assert!(table::show(folder.path(), false).unwrap().contains("wide"));
}

#[test]
fn names_from_a_file_cannot_command_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let run = |folder_name: &str, name: &str| {
        let config = config(64, folder_name.len() as u32).replace("wide", name);
        let config = config.replace("\"seed\":0", &format!("\"flag{name}\":\"{name}\""));
        Run::read(&put(folder.path(), folder_name, &config, "00", [120.0, 110.0])).unwrap()
    };
    let runs = [run("a", r"\u001b[31mred"), run("bc", r"one\ntwo\u202e")];
    let curves = folder.path().join("curves.svg");
    plot::plot(&runs, std::slice::from_ref(&curves)).unwrap();
    let table = table::show(folder.path(), false).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");
    for text in [table, compare(&runs), fs::read_to_string(curves).unwrap()] {
        let is_bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(is_bad) && text.contains("one two"), "{text:?}");
    }
}

#[test]
fn a_run_that_is_not_there_is_an_error() {
    let error = found::locate(Path::new("no/such/run")).unwrap_err().to_string();
    assert!(error.contains("no/such/run holds no run") && error.contains("name"), "{error}");
}
