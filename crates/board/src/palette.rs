//! Checks that the page's colours differ enough from their background and from each other, also for
//! people with colour blindness.

use std::collections::BTreeMap;

const STYLES: &str = include_str!("../assets/board.css");

/// The colours of lines, in the order of their use.
const LINES: [&str; 8] = ["one", "two", "three", "four", "five", "seven", "eight", "six"];

/// The least contrast of text, and of lines and marks, by WCAG 2.2 (1.4.3 and 1.4.11).
const TEXT_CONTRAST: f64 = 4.5;
const MARK_CONTRAST: f64 = 3.0;

/// The least distance, in CIE L*a*b*, of two colours that appear beside each other.
const DISTANCE: f64 = 20.0;

type Color = [f64; 3];

/// The matrices that simulate protanopia, deuteranopia and tritanopia, in linear RGB. Source: Machado,
/// Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency"
/// (2009), severity 1.
const VISIONS: [(&str, [Color; 3]); 4] = [
    ("full", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    (
        "protanopia",
        [
            [0.152_286, 1.052_583, -0.204_868],
            [0.114_503, 0.786_281, 0.099_216],
            [-0.003_882, -0.048_116, 1.051_998],
        ],
    ),
    (
        "deuteranopia",
        [
            [0.367_322, 0.860_646, -0.227_968],
            [0.280_085, 0.672_501, 0.047_413],
            [-0.011_820, 0.042_940, 0.968_881],
        ],
    ),
    (
        "tritanopia",
        [
            [1.255_528, -0.076_749, -0.178_779],
            [-0.078_411, 0.930_809, 0.147_602],
            [0.004_733, 0.691_367, 0.303_900],
        ],
    ),
];

/// The light and the dark colours by name, in linear RGB.
fn palettes() -> [BTreeMap<&'static str, Color>; 2] {
    let (light, dark) = STYLES.split_once("@media (prefers-color-scheme: dark)").unwrap();
    [light, dark].map(|styles| {
        let block = styles.split_once(":root {").unwrap().1.split_once('}').unwrap().0;
        let entries = block.split(';').filter_map(|entry| entry.trim().strip_prefix("--"));
        let entry = |entry: &'static str| {
            let (name, value) = entry.split_once(": #").unwrap();
            let channel = |at: usize| {
                let value = f64::from(u8::from_str_radix(&value[at..at + 2], 16).unwrap()) / 255.0;
                if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            (name, [channel(0), channel(2), channel(4)])
        };
        entries.map(entry).collect()
    })
}

fn luminance([red, green, blue]: Color) -> f64 {
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

fn contrast(one: Color, other: Color) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

fn seen(color: Color, vision: &[Color; 3]) -> Color {
    vision.map(|row| {
        let sum: f64 = row.iter().zip(color).map(|(weight, channel)| weight * channel).sum();
        sum.clamp(0.0, 1.0)
    })
}

/// A colour in CIE L*a*b*, for daylight (D65).
fn lab([red, green, blue]: Color) -> Color {
    let x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.950_47;
    let y = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    let z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.088_83;
    let root = |t: f64| if t > 0.008_856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
    let (x, y, z) = (root(x), root(y), root(z));
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn distance(one: Color, other: Color) -> f64 {
    lab(one).iter().zip(lab(other)).map(|(one, other)| (one - other).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn text_and_lines_stand_out() {
    for palette in palettes() {
        for ground in ["bg", "card"] {
            for (name, least) in [("fg", 7.0), ("dim", TEXT_CONTRAST), ("bad", TEXT_CONTRAST)] {
                let found = contrast(palette[name], palette[ground]);
                assert!(found >= least, "{name} on {ground}: {found:.2}");
            }
        }
        for name in LINES.iter().chain(&["good"]) {
            let found = contrast(palette[name], palette["bg"]);
            assert!(found >= MARK_CONTRAST, "{name}: {found:.2}");
        }
    }
}

#[test]
fn lines_can_be_told_apart_by_all() {
    // The colours of one chart: the loss and its test, and the first of a comparison.
    let beside = |count: usize| {
        (0..count).flat_map(move |one| (0..one).map(move |other| (LINES[one], LINES[other])))
    };
    for (scheme, palette) in ["light", "dark"].iter().zip(palettes()) {
        for (vision, matrix) in &VISIONS {
            // The colours of the parts of a rank's time are neighbours too.
            for (one, other) in beside(4).chain([("one", "wait"), ("four", "wait")]) {
                let seen = |name: &str| seen(palette[name], matrix);
                let found = distance(seen(one), seen(other));
                assert!(found >= DISTANCE, "{scheme}, {vision}: {one} and {other}: {found:.1}");
            }
        }
    }
}
