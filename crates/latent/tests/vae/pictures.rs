//! Pictures: of the right size, the same for the same seed, and showing what they claim.

use std::fs;

use picture::{Canvas, SIDE, WHITE};

use crate::harness::{Place, TEST_IMAGES, png};

#[test]
fn samples_depend_on_the_seed_and_the_temperature() {
    let place = Place::new();
    let said = place.vae("sample --count 10 --output a.png");
    assert_eq!(said, "Wrote a.png (10 digits)\n");
    place.vae("sample --count 10 --output b.png");
    place.vae("sample --count 10 --output c.png --seed 1");
    place.vae("sample --count 10 --output d.png --temperature 0");
    assert_eq!(place.read("a.png"), place.read("b.png"));
    assert_ne!(place.read("a.png"), place.read("c.png"));
    // Ten digits are four, four and two; without temperature all are the same.
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
    // More likely than under the prior, or there was no use in fitting.
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
    // A stroke as of a pen on paper, and paper full of squares.
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

#[test]
fn the_way_from_one_digit_to_another_begins_and_ends_there() {
    let place = Place::new();
    place.vae("interpolate --from 3 --to test:8 --steps 5 --gif way.gif");
    let (width, height, pixels) = png(&place.read("interpolation.png"));
    assert!(width > 5 * 2 * SIDE && height > 4 * SIDE);
    // Both ways have the same ends; in the middle they differ.
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
    // 300 images are a square of 18 by 17.
    assert_eq!(png(&place.read("projector/sprite.png")).0, 18 * SIDE);
}
