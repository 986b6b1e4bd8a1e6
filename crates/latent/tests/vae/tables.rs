//! Latents as tables, there and back.

use data::PIXELS;

use crate::harness::{LATENT, Place, TEST_IMAGES};

#[test]
fn every_format_decodes_to_the_same_digits() {
    let place = Place::new();
    let said = place.vae("encode --output latents.npy");
    for line in ["f32 ", "f16 ", "8 bits "] {
        assert!(said.lines().any(|text| text.starts_with(line)), "{said}");
    }
    place.vae("encode --output latents.csv");
    place.vae("encode --output latents.parquet");
    for format in ["npy", "csv", "parquet"] {
        place.vae(&format!("decode --input latents.{format} --output {format}.npy"));
        place.vae(&format!("decode --input latents.{format} --output {format}.png"));
    }
    let digits = place.read("npy.npy");
    let body = 4 * TEST_IMAGES as usize * PIXELS;
    assert_eq!(digits.len() % 64, body % 64);
    assert!(digits.len() > body && digits.len() < body + 200);
    for format in ["csv", "parquet"] {
        assert_eq!(place.read(&format!("{format}.npy")), digits);
        assert_eq!(place.read(&format!("{format}.png")), place.read("npy.png"));
    }
}

#[test]
fn the_report_adds_up() {
    let place = Place::new();
    let said = place.vae("encode --split train");
    let of = |name: &str| -> Vec<f64> {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().map(|number| number.parse().unwrap()).collect()
    };
    let [f32_, f16, bits] = ["f32", "f16", "8 bits"].map(of);
    assert_eq!(f32_[0], (2000 * LATENT * 4) as f64);
    assert_eq!(f16[0], (2000 * LATENT * 2) as f64);
    assert_eq!(bits[0], (2000 * LATENT + 8 * LATENT) as f64);
    // Coarser means are worse, but by next to nothing.
    assert!((f32_[2] - f16[2]).abs() < 0.01 && (f32_[2] - bits[2]).abs() < 1.0, "{said}");
    assert!((0.01..0.2).contains(&f32_[3]), "{said}");
}
