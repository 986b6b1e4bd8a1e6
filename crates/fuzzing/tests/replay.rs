//! Feeds every fuzz target with its seeds and, for a bounded time, with mutations of them.
//!
//! The mutations are the same on every run, so that a failure repeats. To replay the corpus of a
//! longer fuzzing run, put its files into `seeds/`.

use std::{
    fs, panic,
    path::Path,
    time::{Duration, Instant},
};

use fuzzing::TARGETS;

/// Mutations of each seed.
const MUTATIONS: u64 = 4000;

/// The longest time for the mutations of one seed; on a slow disk they would take longer.
const TIME_MAX: Duration = Duration::from_secs(5);

/// The most bytes by which the process may grow; no input is larger than a few KB.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Numbers at the edges of ranges, where readers may fail.
const EDGES: [u64; 6] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, u64::MAX];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                2 => bytes.truncate(at),
                3 => bytes.insert(at.min(bytes.len()), self.below(256) as u8),
                4 => {
                    let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                    let edge = &edge[..[1, 2, 4, 8][self.below(4)]];
                    bytes.iter_mut().skip(at).zip(edge).for_each(|(byte, edge)| *byte = *edge);
                }
                _ => {
                    let end = at + self.below(bytes.len() - at);
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
    }
}

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

// One test for all targets, so that no other test's memory is counted.
#[test]
fn no_input_makes_a_reader_panic_or_take_memory() {
    let before = peak();
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (number, seed) in seeds.iter().enumerate() {
            target(seed);
            let begun = Instant::now();
            for mutation in 0..MUTATIONS {
                let mut bytes = seed.clone();
                Random(mutation).mutate(&mut bytes);
                let fed = panic::catch_unwind(|| target(&bytes));
                assert!(fed.is_ok(), "{name}, seed {number}, mutation {mutation}: {bytes:?}");
                if begun.elapsed() > TIME_MAX {
                    break;
                }
            }
        }
    }
    let grown = peak() - before;
    assert!(grown < GROWTH_BYTES_MAX, "the readers took {grown} bytes");
}
