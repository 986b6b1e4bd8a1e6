//! The peak of a core's units that multiply and add floats, which no product can exceed: a loop of
//! independent instructions on registers.
//!
//! Does not know what is measured meanwhile.

#![allow(unsafe_code, reason = "a loop of instructions that no compiler changes")]

use super::statistics::Summary;
use std::time::Instant;

/// Turns of the loop in a sample, which takes some 0.1 ms.
const TURNS: u64 = 20_000;
/// Number of samples; samples in which the thread lost its core do not change their median.
const SAMPLES: usize = 51;
/// Instructions in a turn. Each has a sum of its own, so that no unit waits for a result; AVX2 has
/// registers for so many.
const SUMS: u64 = 12;
/// A multiplication and an addition.
const OPERATIONS: u64 = 2;

/// How the loop runs on this CPU: the floats in a register, and the function that does so many turns.
type Loop = (u64, fn(u64));

/// Thousand millions of operations a second of one thread. None on a CPU that has neither AVX-512
/// nor AVX2 with FMA.
pub(super) fn gigaflops() -> Option<f64> {
    let (lanes, turn) = of_this_cpu()?;
    let operations = (TURNS * SUMS * lanes * OPERATIONS) as f64;
    let rates = (0..SAMPLES).map(|_| {
        let begun = Instant::now();
        turn(TURNS);
        operations / begun.elapsed().as_nanos() as f64
    });
    Some(Summary::of(rates)?.median)
}

#[cfg(not(target_arch = "x86_64"))]
fn of_this_cpu() -> Option<Loop> {
    None
}

#[cfg(target_arch = "x86_64")]
fn of_this_cpu() -> Option<Loop> {
    /// Defines a function that does the loop in registers of a kind.
    macro_rules! turn {
        ($name:ident, $kind:literal) => {
            fn $name(turns: u64) {
                // SAFETY: it is called where the CPU has these registers; it touches no memory.
                unsafe {
                    std::arch::asm!(
                        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12",
                        "vxorps xmm\\n, xmm\\n, xmm\\n",
                        ".endr",
                        "2:",
                        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
                        concat!("vfmadd231ps ", $kind, "\\n, ", $kind, "12, ", $kind, "12"),
                        ".endr",
                        "dec {turns}",
                        "jnz 2b",
                        "vzeroupper",
                        turns = inout(reg) turns => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                        out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                        out("xmm10") _, out("xmm11") _, out("xmm12") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    turn!(avx512, "zmm");
    turn!(avx2, "ymm");
    if is_x86_feature_detected!("avx512f") {
        return Some((16, avx512));
    }
    let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    has_avx2.then_some((8, avx2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_with_such_units_has_a_peak() {
        let peak = gigaflops();
        assert_eq!(peak.is_some(), of_this_cpu().is_some());
        assert!(peak.is_none_or(|peak| peak.is_finite() && peak > 0.0), "{peak:?}");
    }
}
