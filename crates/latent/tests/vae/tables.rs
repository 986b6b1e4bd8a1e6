//! Latents are written as tables and read back.

use std::fs;

use images::PIXELS;

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
    // Coarser means are worse, but only slightly.
    assert!((f32_[2] - f16[2]).abs() < 0.01 && (f32_[2] - bits[2]).abs() < 1.0, "{said}");
    assert!((0.01..0.2).contains(&f32_[3]), "{said}");
}

/// Tables that other programs write with the same numbers.
#[test]
fn tables_of_other_programs_decode_to_the_same_digits() {
    let place = Place::new();
    let rows = [[0.5_f64, -1.25, 0.0, 2.0], [-0.75, 0.125, 3.0, -2.5]];
    let header = "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 4), }";
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16 + 1).to_le_bytes());
    array.extend(format!("{header}\n").bytes());
    for column in 0..4 {
        rows.iter().for_each(|row| array.extend(row[column].to_le_bytes()));
    }
    fs::write(place.path("float64.npy"), array).unwrap();
    let mut quoted = "\u{feff}\"\",\"mean_0\",\"mean_1\",\"mean_2\",\"mean_3\"\r\n".to_owned();
    let mut plain = ",0,1,2,3\n".to_owned();
    for (index, row) in rows.iter().enumerate() {
        quoted +=
            &format!("\"{index}\",\"{}\",\"{}\",\"{}\",\"{}\"\r\n", row[0], row[1], row[2], row[3]);
        plain += &format!("{index},{},{},{},{}\n", row[0], row[1], row[2], row[3]);
    }
    fs::write(place.path("quoted.csv"), quoted).unwrap();
    fs::write(place.path("plain.csv"), plain).unwrap();
    for name in ["float64.npy", "quoted.csv", "plain.csv"] {
        let said = place.vae(&format!("decode --input {name} --output {name}.npy"));
        assert!(said.contains("2 images"), "{said}");
        assert_eq!(place.read(&format!("{name}.npy")), place.read("float64.npy.npy"), "{name}");
    }
}
