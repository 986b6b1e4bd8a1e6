//! Pictures have the right size, are the same for the same seed, and show the right content.

use std::{fs, path::Path};

use picture::{Align, BLACK, Canvas, GREY, WHITE};

/// Pixels along a side of an image.
const SIDE: usize = 28;

use crate::harness::{Place, TEST_IMAGES, plain, png, run_dir, train};

#[test]
fn samples_depend_on_the_seed_and_the_temperature() {
    let place = Place::new();
    // A link to the run, such as runs/latest: the run's own name is said.
    std::os::unix::fs::symlink(run_dir(), place.path("latest")).unwrap();
    let said = place.vae_of(Path::new("latest"), "sample --count 10 --output a.png");
    let run = run_dir().display();
    let wrote = format!("Wrote a.png (10 images), from {run}/checkpoints/step-");
    assert!(said.starts_with(&wrote) && said.lines().count() == 1, "{said}");
    place.vae("sample --count 10 --output b.png");
    place.vae("sample --count 10 --output c.png --seed 1");
    place.vae("sample --count 10 --output d.png --temperature 0");
    assert_eq!(place.read("a.png"), place.read("b.png"));
    assert_ne!(place.read("a.png"), place.read("c.png"));
    // Ten digits fill rows of four, four and two. At temperature 0 all digits are equal.
    let (width, height, pixels) = png(&place.read("d.png"));
    assert_eq!((width, height), (4 * 2 * SIDE, 3 * 2 * SIDE));
    let row = |y: usize| &pixels[y * width..(y + 1) * width];
    for y in 0..2 * SIDE {
        assert_eq!(row(y)[..2 * SIDE], row(y)[2 * SIDE..4 * SIDE]);
        assert_eq!(row(y), row(y + 2 * SIDE));
    }
}

#[test]
fn a_mixture_is_fitted_on_the_fly_or_before_with_the_same_samples() {
    let place = Place::new();
    let sample = "sample --sampler gmm --count 9";
    let said = place.vae(&format!("{sample} --components 3 --output now.png"));
    assert!(said.starts_with("Test latents: "), "{said}");
    place.vae("fit-gmm --components 3 --output gmm.safetensors");
    place.vae(&format!("{sample} --gmm gmm.safetensors --output before.png"));
    assert_eq!(place.read("now.png"), place.read("before.png"));
    // The latents must be more likely under the mixture than under the prior.
    let nats: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(nats[0] < nats[1], "{said}");
}

#[test]
fn test_images_stand_above_their_reconstructions() {
    let place = Place::new();
    let said = place.vae("reconstruct --count 12");
    assert_eq!(said.lines().count(), 14, "{said}");
    let losses: Vec<f64> = said
        .lines()
        .skip(1)
        .take(12)
        .map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap())
        .collect();
    assert!(losses.iter().all(|loss| (20.0..500.0).contains(loss)), "{losses:?}");
    let (width, ..) = png(&place.read("reconstructions.png"));
    assert_eq!(width, 10 * (2 * SIDE + 6) + 6);
}

#[test]
fn a_persons_own_pictures_are_told_from_digits() {
    let place = Place::new();
    // A stroke like that of a pen on paper, and paper full of squares.
    let mut one = Canvas::new(200, 300, WHITE);
    one.fill(95, 40, 18, 210, [30, 30, 60]);
    let mut squares = Canvas::new(256, 256, [0; 3]);
    for cell in 0..64 {
        if (cell + cell / 8) % 2 == 0 {
            squares.fill(cell % 8 * 32, cell / 8 * 32, 32, 32, WHITE);
        }
    }
    for (name, canvas) in [("one.png", one), ("squares.png", squares)] {
        fs::write(place.path(name), canvas.png().unwrap()).unwrap();
    }
    let said = place.vae("reconstruct --input one.png squares.png --output own.png");
    let share = |name: &str| -> f64 {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().rev().nth(3).unwrap().parse().unwrap()
    };
    assert!(share("one.png") < 90.0, "{said}");
    assert!(share("squares.png") > 99.0, "{said}");
}

/// The loss of a picture depends on neither its position nor the pictures beside it.
#[test]
fn the_loss_of_a_picture_does_not_depend_on_its_place() {
    let place = Place::new();
    let mut names = Vec::new();
    for index in 0..5_usize {
        let mut canvas = Canvas::new(60, 80, WHITE);
        canvas.fill(20 + 3 * index, 10, 6 + index, 60, [10 * index as u8; 3]);
        let name = format!("{index}.png");
        fs::write(place.path(&name), canvas.png().unwrap()).unwrap();
        names.push(name);
    }
    let lines = |files: &[&str]| -> Vec<String> {
        let files = files.join(" ");
        let said = place.vae(&format!("reconstruct --input {files} --output o.png"));
        let mut lines: Vec<String> =
            said.lines().filter(|line| line.contains(".png: ")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let together = lines(&names);
    assert_eq!(together.len(), 5);
    let backwards: Vec<&str> = names.iter().copied().rev().collect();
    assert_eq!(lines(&backwards), together);
    for (name, line) in names.iter().zip(&together) {
        assert_eq!(lines(&[name]), std::slice::from_ref(line));
    }
    // So many copies that the picture is also in the second batch.
    assert_eq!(lines(&[names[1]; 260])[259], together[1]);
}

#[test]
fn empty_pictures_have_one_answer() {
    let place = Place::new();
    for (name, side, level) in [
        ("black28", 28, 0),
        ("white28", 28, 255),
        ("grey28", 28, 90),
        ("black100", 100, 0),
        ("white100", 100, 255),
    ] {
        let name = format!("{name}.png");
        let canvas = Canvas::new(side, side, [level; 3]);
        fs::write(place.path(&name), canvas.png().unwrap()).unwrap();
        let model = format!("--checkpoint {}", run_dir().display());
        let expected = format!(
            "error: there is nothing on the picture {name}: it is all of one colour, or nothing on \
             it is much darker or lighter than the rest\n"
        );
        for command in
            [format!("reconstruct --input {name}"), format!("interpolate --from {name} --to 3")]
        {
            assert_eq!(place.refused(&format!("{command} {model}")), expected);
        }
    }
}

/// The part of a picture from a corner, as rows of its samples.
fn part(bytes: &[u8], [left, top, width, height]: [usize; 4]) -> Vec<Vec<u8>> {
    let (all, rows, pixels) = png(bytes);
    let samples = pixels.len() / (all * rows);
    let row = |y: usize| {
        let pixels = &pixels[(y * all + left) * samples..][..width * samples];
        pixels.chunks(samples).map(|pixel| pixel[0]).collect()
    };
    (top..top + height).map(row).collect()
}

#[test]
fn names_of_rows_and_files_are_whole() {
    let place = Place::new();
    // The expected text is drawn with enough room on all sides.
    let text = |text: &str, colour, canvas: (usize, usize), place: (usize, usize), align| {
        let mut drawn = Canvas::new(canvas.0, canvas.1, WHITE);
        drawn.text(place.0, place.1, align, colour, text);
        drawn.png().unwrap()
    };
    place.vae("interpolate --from 3 --to 8 --steps 3");
    let names = 9 * 7 + 2 * 6;
    for (row, name) in ["linear", "spherical"].into_iter().enumerate() {
        let y = 6 + row * (2 * SIDE + 6);
        let found = part(&place.read("interpolation.png"), [0, y, names, 2 * SIDE]);
        let expected = text(name, BLACK, (names, 2 * SIDE), (names - 6, SIDE), Align::Right);
        assert_eq!(found, part(&expected, [0, 0, names, 2 * SIDE]), "{name}");
    }

    let mut one = Canvas::new(200, 300, WHITE);
    one.fill(95, 40, 18, 210, [30, 30, 60]);
    for name in ["one.png", "a-long-name-of-a-picture.png"] {
        fs::write(place.path(name), one.png().unwrap()).unwrap();
    }
    place.vae("reconstruct --input one.png a-long-name-of-a-picture.png --output names.png");
    let wide = 20 * 7;
    for (column, name) in ["one.png", "..e-of-a-picture.png"].into_iter().enumerate() {
        let area = [6 + column * (wide + 6), 6 + 4 * SIDE + 16, wide, 16];
        let expected = text(name, GREY, (wide, 16), (wide / 2, 8), Align::Centre);
        assert_eq!(
            part(&place.read("names.png"), area),
            part(&expected, [0, 0, wide, 16]),
            "{name}"
        );
    }
    // The line at the foot fits below a single picture.
    place.vae("reconstruct --count 1 --output single.png");
    let (width, height, _) = png(&place.read("single.png"));
    let foot = "image, reconstruction, nats";
    let expected = text(foot, GREY, (width, 16), (6, 8), Align::Left);
    let found = part(&place.read("single.png"), [0, height - 18, width, 16]);
    assert_eq!(found, part(&expected, [0, 0, width, 16]));
    assert!(width > 27 * 7 + 6);
}

#[test]
fn one_and_two_latents_have_a_map_of_their_own() {
    let place = Place::new();
    for latent_dim in [1, 2] {
        let mut variant = plain();
        variant.options.latent_dim = latent_dim;
        let run_dir = place.path("run");
        train(&variant, &run_dir);
        let plain = format!("plain-{latent_dim}.png");
        place.vae_of(&run_dir, &format!("map --output {plain}"));
        let with_grid = format!("grid-{latent_dim}.png");
        place.vae_of(&run_dir, &format!("map --grid --output {with_grid}"));
        assert!(png(&place.read(&with_grid)).0 > png(&place.read(&plain)).0);
        // The caption names latents, not principal components.
        let caption = match latent_dim {
            1 => "across: latent 0; up: a row for each class",
            _ => "across: latent 0; up: latent 1",
        };
        let mut expected = Canvas::new(560, 16, WHITE);
        expected.text(280, 8, Align::Centre, GREY, caption);
        let found = part(&place.read(&plain), [64, 44 + 560 + 36 - 8, 560, 16]);
        assert_eq!(found, part(&expected.png().unwrap(), [0, 0, 560, 16]));
        fs::remove_dir_all(run_dir).unwrap();
    }
}

#[test]
fn the_way_from_one_digit_to_another_begins_and_ends_there() {
    let place = Place::new();
    place.vae("interpolate --from 3 --to test:8 --steps 5 --gif way.gif");
    let (width, height, pixels) = png(&place.read("interpolation.png"));
    assert!(width > 5 * 2 * SIDE && height > 4 * SIDE);
    // Both ways have the same ends, and differ in the middle.
    let digit = |row: usize, column: usize| -> Vec<u8> {
        let (left, top) = (width - 6 - (5 - column) * 2 * SIDE, 6 + row * (2 * SIDE + 6));
        (0..2 * SIDE)
            .flat_map(|y| pixels[(top + y) * width + left..][..2 * SIDE].to_vec())
            .collect()
    };
    assert_eq!(digit(0, 0), digit(1, 0));
    assert_eq!(digit(0, 4), digit(1, 4));
    assert_ne!(digit(0, 2), digit(1, 2));
    assert_ne!(digit(0, 0), digit(0, 4));
    assert!(place.read("way.gif").starts_with(b"GIF89a"));
}

#[test]
fn a_strip_a_dimension() {
    let place = Place::new();
    let said = place.vae("traverse --steps 7 --from 0");
    assert!(said.contains("4 dimensions"), "{said}");
    let (_, height, _) = png(&place.read("traversal.png"));
    assert!(height > 4 * 2 * SIDE);
}

#[test]
fn the_map_has_its_grid_and_its_projector() {
    let place = Place::new();
    place.vae("map --output plain.png");
    place.vae("map --grid --projector projector");
    let (plain, with_grid) = (png(&place.read("plain.png")), png(&place.read("map.png")));
    assert!(with_grid.0 > plain.0 && with_grid.1 == plain.1);
    let text = |name: &str| String::from_utf8(place.read(name)).unwrap();
    let tensors = text("projector/tensors.tsv");
    assert_eq!(tensors.lines().count(), TEST_IMAGES as usize);
    assert!(tensors.lines().all(|line| line.split('\t').count() == 4));
    assert_eq!(text("projector/metadata.tsv").lines().count(), TEST_IMAGES as usize + 1);
    assert!(text("projector/projector_config.pbtxt").contains("sprite.png"));
    // 300 images fill a grid of 18 by 17.
    assert_eq!(png(&place.read("projector/sprite.png")).0, 18 * SIDE);
}

#[test]
fn near_latents_are_near_on_a_map_by_t_sne() {
    let place = Place::new();
    let map = |name: &str, threads: &str| {
        let run_dir = run_dir().display();
        let arguments = format!("map --projection tsne --output {name} --checkpoint {run_dir}");
        // rayon's own number of threads must make no difference.
        let output = place.command(&arguments).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        place.read(name)
    };
    let (first, second) = (map("first.png", "1"), map("second.png", "3"));
    assert_eq!(first, second);
    place.vae("map --projection pca --output pca.png");
    place.vae("map --output plain.png");
    assert_eq!(place.read("pca.png"), place.read("plain.png"));
    let (tsne, pca) = (png(&first), png(&place.read("pca.png")));
    assert_eq!((tsne.0, tsne.1), (pca.0, pca.1));
    let mut expected = Canvas::new(560, 16, WHITE);
    let caption = "t-SNE: near images are near; axes and far distances mean nothing";
    expected.text(280, 8, Align::Centre, GREY, caption);
    let found = part(&first, [64, 44 + 560 + 36 - 8, 560, 16]);
    assert_eq!(found, part(&expected.png().unwrap(), [0, 0, 560, 16]));
}

#[test]
fn a_map_by_t_sne_that_would_show_nothing_is_refused() {
    let place = Place::new();
    let said = place.refused("map --projection tsne --grid");
    assert!(said.contains("leave out --grid, or say --projection pca"), "{said}");
    let mut variant = plain();
    variant.options.latent_dim = 2;
    let run_dir = place.path("run");
    train(&variant, &run_dir);
    let said = place.refused("map --projection tsne --checkpoint run");
    assert!(said.contains("with latent dimension 2"), "{said}");
}
