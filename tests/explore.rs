//! The page of `vae explore` in a real browser: it is one file, computes the same as `vae`, and can
//! be used with mouse, keyboard and touch, in light and dark colours.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use thirtyfour::Key;

use crate::{
    board::get,
    harness::{
        Browser, ENDLESS, Place, SMALL, board_of, coordinator, coordinator_at, coordinator_in,
        programs, wait_until,
    },
    own_data::pictures,
};

/// The largest allowed difference between the page's numbers and those of `vae`: their orders of
/// addition differ.
const TOLERANCE: f64 = 1e-3;

/// Runs `vae` on the run of a place; returns its output.
fn vae(place: &Place, arguments: &str) -> String {
    let mut command = Command::new(programs().join("vae"));
    command.args(arguments.split_whitespace()).arg("--checkpoint").arg(&place.run_dir);
    command.current_dir(place.path("")).env("XDG_CACHE_HOME", cache(place));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("vae ends", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The cache folder of the place if it has its own data set, else the cache of the user.
fn cache(place: &Place) -> std::path::PathBuf {
    let own = place.path("cache");
    if own.exists() { own } else { std::env::var_os("XDG_CACHE_HOME").unwrap_or_default().into() }
}

/// A run on MNIST.
fn mnist(flags: &str) -> Place {
    mnist_of(&format!("{SMALL} {flags}"))
}

fn mnist_of(flags: &str) -> Place {
    let place = Place::new();
    let flags = format!("--workers 2 --spawn --epochs 1 {flags}");
    coordinator_at(&place, &flags).wait().succeeded();
    place
}

/// A run on colour pictures with an even width and an odd height.
fn coloured(flags: &str) -> Place {
    let place = Place::new();
    pictures(&place.path("pictures"));
    let environment = format!("XDG_CACHE_HOME={}", cache_of(&place));
    let flags = format!(
        "--listen 127.0.0.1:0 --run-dir run --shards 1 --workers 1 --spawn --epochs 1 --batch-size 8 \
         --hidden-dim 16 --latent-dim 3 --dataset pictures {flags}"
    );
    coordinator_in(&environment, &place, &flags).wait().succeeded();
    place
}

fn cache_of(place: &Place) -> String {
    let folder = place.path("cache");
    fs::create_dir_all(&folder).unwrap();
    folder.display().to_string()
}

/// Opens the page in a browser, and waits until it can be used.
fn open(browser: &Browser, place: &Place) {
    let url = format!("file://{}", place.path("latent.html").display());
    browser.open(&url);
    browser.wait_for("document.documentElement.dataset.ready");
    let foreign: Vec<String> = browser
        .requests()
        .into_iter()
        .filter(|request| *request != url && !request.starts_with("blob:"))
        .collect();
    assert!(foreign.is_empty(), "the page asks for {foreign:?}");
}

/// The numbers of an .npy file of f32.
fn npy(path: &Path) -> Vec<f64> {
    let bytes = fs::read(path).unwrap();
    let begin = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let values = bytes[begin..].as_chunks::<4>().0.iter();
    values.map(|value| f64::from(f32::from_le_bytes(*value))).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_object().map(|object| object.values().collect::<Vec<_>>());
    let values = values.unwrap_or_else(|| value.as_array().unwrap().iter().collect());
    values.into_iter().map(|value| value.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < TOLERANCE, "{what}: {apart} apart");
}

/// Checks the page's computation: images decoded from latents, and the latents of an image.
fn assert_computes(browser: &Browser, decoded: &[(Vec<f32>, Vec<f64>)], means: &[f64], name: &str) {
    for (z, expected) in decoded {
        let ask = format!(
            "return explorer.ask({{ kind: 'latents', z: Float32Array.from({}) }})
                 .then(({{ pixels }}) => Array.from(pixels))",
            json!(z)
        );
        assert_near(&numbers(&browser.eval(&ask)), expected, name);
    }
    // An image's latents, compared with those of `vae encode`.
    let dim = decoded[0].0.len();
    for index in [0, 3] {
        let ask = format!(
            "return explorer.ask({{ kind: 'measure', pixels: explorer.image({index}) }})
                 .then(({{ z }}) => Array.from(z))"
        );
        let found = numbers(&browser.eval(&ask));
        // A record of the table: index, label, means, log-variances.
        assert_near(&found, &means[(2 * dim + 2) * index + 2..][..dim], name);
    }
    assert!(browser.complaints().is_empty(), "{name}: {:?}", browser.complaints());
}

/// The page's figures over all its images: the use of each latent, and the origin of the map.
fn surveyed(browser: &Browser) -> [Vec<f64>; 2] {
    ["use", "origin"].map(|name| numbers(&browser.eval(&format!("return explorer.meta.{name}"))))
}

#[test]
fn the_page_decodes_and_encodes_as_vae_does() {
    let Some(browser) = Browser::new() else { return };
    let conv = "--architecture conv --shards 2 --batch-size 8 --train-images 400 --test-images 40 \
                --hidden-dim 16 --latent-dim 5";
    for (name, place) in [
        ("dense", mnist("")),
        ("gaussian", mnist("--likelihood gaussian")),
        ("conv", mnist_of(conv)),
        ("colour", coloured("")),
        ("colour conv", coloured("--architecture conv")),
    ] {
        vae(&place, "explore --output latent.html");
        vae(&place, "encode --output latents.npy");
        open(&browser, &place);
        let dim = browser.eval("return explorer.meta.latent").as_u64().unwrap() as usize;
        let places: Vec<Vec<f32>> = (0..4)
            .map(|row| {
                (0..dim).map(move |d| ((row * dim + d) as f32 * 0.618_034).fract() * 4.0 - 2.0)
            })
            .map(Iterator::collect)
            .collect();
        let row = |z: &Vec<f32>| z.iter().map(f32::to_string).collect::<Vec<_>>().join(",") + "\n";
        fs::write(place.path("z.csv"), places.iter().map(row).collect::<String>()).unwrap();
        vae(&place, "decode --input z.csv --output decoded.npy");
        let expected = npy(&place.path("decoded.npy"));
        let rows = expected.chunks(expected.len() / places.len()).map(<[f64]>::to_vec);
        let decoded: Vec<_> = places.into_iter().zip(rows).collect();
        let means = npy(&place.path("latents.npy"));
        assert_computes(&browser, &decoded, &means, name);
        let alone = surveyed(&browser);

        // The same on the board, which has the checkpoint but no libtorch.
        let run = place.run_dir.display().to_string();
        let environment = format!("XDG_CACHE_HOME={}", cache(&place).display());
        let flags = format!("board {run} --listen 127.0.0.1:0");
        let shown = match place.path("cache").exists() {
            true => coordinator_in(&environment, &place, &flags),
            false => coordinator(&place, &flags),
        };
        let board = board_of(&shown);
        browser.open(&board);
        browser.wait_for("!document.querySelector('#to-latent').hidden");
        browser.click("#to-latent");
        browser.wait_for("document.documentElement.dataset.ready");
        assert_computes(&browser, &decoded, &means, &format!("{name} on the board"));
        for (found, expected) in surveyed(&browser).iter().zip(&alone) {
            assert_near(found, expected, &format!("{name} on the board"));
        }
        let requests = browser.requests();
        let is_foreign = |url: &&String| !url.starts_with(&board) && !url.starts_with("blob:");
        let foreign: Vec<_> =
            requests.iter().filter(|url| !url.starts_with("file:")).filter(is_foreign).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        if name == "dense" {
            browser.resize(1280, 1400);
            browser.picture("board-latent");
            browser.assert_accessible("the explorer on the board");
        }
    }
}

#[test]
fn the_board_shows_the_newest_checkpoint_of_a_run_that_goes_on() {
    let Some(browser) = Browser::new() else { return };
    let place = Place::new();
    // Both boards have time to read a checkpoint before the next one.
    let flags = format!(
        "--workers 1 --spawn --board 127.0.0.1:0 {SMALL} {ENDLESS} --checkpoint-every-epochs 10"
    );
    let run = coordinator_at(&place, &flags);
    let board = board_of(&run);
    // A run that does not exist, before there is a checkpoint.
    let (status, said) = get(&board, "/api/latent?run=nothing");
    assert_eq!(status, 404, "{said}");
    let step = |text: &str| -> u64 {
        let digits = text.split("step ").nth(1).unwrap();
        digits.split(',').next().unwrap().parse().unwrap()
    };
    let look = || {
        browser.open(&format!("{board}/latent"));
        browser.wait_for("document.documentElement.dataset.ready");
        step(&browser.text("#model"))
    };
    wait_until("there is a checkpoint", || place.newest_step() > 0);
    let first = look();
    assert!(first > 0);
    wait_until("there is another one", || place.newest_step() > first);
    assert!(look() > first);
    // Parts of an earlier checkpoint are refused, so that a page never mixes two checkpoints.
    for (path, expected) in [
        (format!("/api/latent/parameters?step={first}"), 409),
        ("/api/latent/parameters".to_owned(), 400),
        ("/api/latent/../../config.json".to_owned(), 404),
    ] {
        assert_eq!(get(&board, &path).0, expected, "{path}");
    }

    // A board on another machine has neither the checkpoint nor the data set.
    let line = run.wait_for_line("Listening on ");
    let url = line.rsplit(' ').next().unwrap();
    let nothing = place.path("nothing");
    let environment = format!("XDG_CACHE_HOME={}", nothing.display());
    let flags = format!("board --coordinator {url} --listen 127.0.0.1:0");
    let relay = coordinator_in(&environment, &place, &flags);
    let remote = board_of(&relay);
    wait_until("the model comes", || get(&remote, "/api/latent").0 == 200);
    browser.open(&format!("{remote}/latent"));
    browser.wait_for("document.documentElement.dataset.ready");
    assert!(step(&browser.text("#model")) > first);
    assert!(browser.text("#model").contains("test images of mnist"));
    // Both boards give the same bytes when they have the same checkpoint.
    wait_until("both boards show the same model", || {
        let shown = [&board, &remote].map(|board| get(board, "/api/latent").1);
        let step = step(&shown[0]);
        let arrays = |board: &str| {
            ["parameters", "levels", "labels"].map(|name| {
                let (status, said) = get(board, &format!("/api/latent/{name}?step={step}"));
                let (_, array) = said.split_once("\r\n\r\n").unwrap();
                (status == 200).then(|| array.to_owned())
            })
        };
        let both = [arrays(&board), arrays(&remote)];
        both[0] == both[1] && both.concat().iter().all(Option::is_some)
    });
    run.signal(Signal::KILL);
    run.wait();
    // The relay still has the last model that the coordinator sent.
    assert_eq!(get(&remote, "/api/latent").0, 200);
}

#[test]
fn what_is_drawn_on_the_page_is_reconstructed_by_vae() {
    let Some(browser) = Browser::new() else { return };
    for (name, place) in [("mnist", mnist("")), ("colour", coloured(""))] {
        vae(&place, "explore");
        browser.resize(1280, 1400);
        open(&browser, &place);
        assert_eq!(browser.text("#unusual"), "Nothing is drawn yet.");
        browser.draw("#drawing", &[(-40, -50), (30, -50), (-10, 40)]);
        browser.wait_for("unusual.textContent.startsWith('Loss')");
        let downloads = json!({ "behavior": "allow", "downloadPath": place.path("") });
        browser.cdp("Browser.setDownloadBehavior", downloads);
        browser.click("#keep");
        let drawing = place.path("drawing.png");
        wait_until("the drawing is saved", || drawing.exists());
        let said = vae(&place, "reconstruct --mean --input drawing.png --output mean.png");
        let [page, tool] = [browser.text("#unusual"), said.lines().last().unwrap().to_owned()];
        let told = said.lines().find(|line| line.starts_with("drawing.png: ")).unwrap_or(&tool);
        let words = |text: &str| -> Vec<f64> {
            text.split([' ', ',', ':']).filter_map(|word| word.parse().ok()).collect()
        };
        // The loss and the share; the page prints the KL between them.
        let (page, told) = (words(&page), words(told));
        let (page, told) = ([page[0], page[2]], [told[0], told[1]]);
        let near = page.iter().zip(&told).all(|(a, b)| (a - b).abs() < 0.02 + TOLERANCE * b.abs());
        assert!(near, "{name}: the page says {page:?}, vae {told:?}");
        browser.picture(&format!("explore-drawing-{name}"));
        browser.click("#clear");
        browser.wait_for("unusual.textContent === 'Nothing is drawn yet.'");
    }
}

#[test]
fn the_map_the_sliders_and_the_path_follow_mouse_and_keyboard() {
    let Some(browser) = Browser::new() else { return };
    let place = mnist("");
    for projection in ["pca", "tsne"] {
        vae(&place, &format!("explore --projection {projection}"));
        browser.resize(1280, 1400);
        open(&browser, &place);
        let pixels = "Array.from(decoded.getContext('2d').getImageData(0, 0, 28, 28).data).join()";
        let changes = |act: &dyn Fn()| {
            browser.eval(&format!("window.before = {pixels}"));
            act();
            browser.wait_for(&format!("{pixels} !== window.before"));
        };
        changes(&|| browser.draw("#map", &[(90, 60)]));
        // The click at the end of the path holds the point.
        assert_eq!(browser.eval("return hold.getAttribute('aria-pressed')"), "true");
        browser.eval("map.focus()");
        browser.press(Key::Escape);
        browser.wait_for("hold.getAttribute('aria-pressed') === 'false'");
        changes(&|| {
            for _ in 0..8 {
                browser.press(Key::Left + Key::Up);
            }
        });
        browser.press("++");
        browser.eval("document.querySelector('#sliders input').focus()");
        changes(&|| browser.press(Key::Home));
        browser.wait_for("document.querySelector('#sliders output').innerText === '-4.00'");
        let path = "sphere.toDataURL()";
        browser.eval(&format!("window.before = {path}"));
        browser.click("#to");
        browser.wait_for(&format!("{path} !== window.before"));
        browser.picture(&format!("explore-light-{projection}"));
        browser.assert_accessible("the explorer");
        assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    }
    // In dark colours, then in the size of a phone.
    browser.prefer("dark");
    browser.wait_for("getComputedStyle(document.body).backgroundColor === 'rgb(22, 22, 26)'");
    browser.picture("explore-dark");
    browser.assert_accessible("the explorer in the dark");
    browser.resize(390, 844);
    browser.wait_for("document.documentElement.scrollWidth <= innerWidth");
    browser.picture("explore-phone");
}

/// The map of the training images shows all 60,000 points.
#[test]
fn seventy_thousand_points_are_drawn_and_found() {
    let Some(browser) = Browser::new() else { return };
    let place = mnist_of("--shards 2 --batch-size 256 --hidden-dim 16 --latent-dim 4");
    vae(&place, "explore --split train");
    browser.resize(1280, 1400);
    open(&browser, &place);
    assert!(browser.text("#model").contains("60000 training images of mnist"));
    let drawn = "(() => { const c = map.getContext('2d'); \
                 const d = c.getImageData(0, 0, map.width, map.height).data; let n = 0; \
                 for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n > 20000; })()";
    browser.wait_for(drawn);
    browser.picture("explore-train");
}
