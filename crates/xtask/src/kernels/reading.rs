//! Checks of the compiled kernels. PTX gives the rounding of each operation, which the compiler to
//! machine code keeps. The machine code gives the registers and the memory that a kernel uses.

/// The most registers that a thread of these kernels may use: with more, a block does not fit. All other
/// kernels have blocks of 256 threads, and a multiprocessor should run several blocks.
const REGISTERS_MAX: [(&str, u32); 3] = [("_small", 128), ("_large", 255), ("_gradients", 255)];
const REGISTERS_MAX_OTHERS: u32 = 64;

/// The bytes of local memory that kernels use for indexed arrays: the stack of the shard tree.
const STACK: [(&str, u32); 3] = [("update", 128), ("partials", 128), ("totals", 768)];

/// Operations that round. Without `.rn` the compiler may fuse them, or choose the rounding.
const ROUNDED: [&str; 7] = ["add", "sub", "mul", "fma", "div", "rcp", "sqrt"];

/// Instructions that do not round to nearest as in IEEE 754, or that treat subnormal numbers as zero.
pub(super) fn roundings(ptx: &str) -> Vec<String> {
    let instructions = ptx.lines().filter_map(instruction).filter(|name| !rounds_to_nearest(name));
    let mut found: Vec<_> = instructions.map(|name| format!("{name} rounds otherwise")).collect();
    found.sort();
    found.dedup();
    found
}

/// The name of the instruction in a line: the word after its predicate.
fn instruction(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let first = words.next()?;
    let name = if first.starts_with('@') { words.next()? } else { first };
    Some(name.trim_end_matches(';'))
}

fn rounds_to_nearest(name: &str) -> bool {
    let mut parts = name.split('.');
    let Some(operation) = parts.next() else { return true };
    let parts: Vec<_> = parts.collect();
    let is_float = parts.iter().any(|part| ["f32", "f64", "f16"].contains(part));
    if !is_float {
        return true;
    }
    let is_exact =
        !parts.contains(&"ftz") && !parts.contains(&"approx") && !parts.contains(&"full");
    let is_rounded = ROUNDED.contains(&operation);
    let is_known = !["mad", "ex2", "lg2", "sin", "cos", "rsqrt", "tanh"].contains(&operation);
    is_exact && is_known && (!is_rounded || parts.contains(&"rn"))
}

/// Kernels that use more than the tables above allow, or that keep registers in memory.
pub(super) fn resources(usage: &str) -> Vec<String> {
    let words: Vec<_> = usage.split_whitespace().collect();
    let mut breaches = Vec::new();
    let mut kernels = 0;
    for (place, _) in words.iter().enumerate().filter(|(_, word)| **word == "Function") {
        let [name, used @ ..] = &words[place + 1..] else { continue };
        let name = name.trim_end_matches(':');
        let value = |key: &str| {
            let found =
                used.iter().take(8).find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
            found.and_then(|value| value.parse::<u32>().ok())
        };
        let (Some(registers), Some(stack), Some(local)) =
            (value("REG"), value("STACK"), value("LOCAL"))
        else {
            breaches.push(format!("the resource usage of {name} is missing"));
            continue;
        };
        kernels += 1;
        let allowed = REGISTERS_MAX.iter().find(|(ending, _)| name.ends_with(ending));
        let allowed = allowed.map_or(REGISTERS_MAX_OTHERS, |(_, allowed)| *allowed);
        if registers > allowed {
            breaches.push(format!("{name} uses {registers} registers, but {allowed} are allowed"));
        }
        let allowed =
            STACK.iter().find(|(kernel, _)| *kernel == name).map_or(0, |(_, bytes)| *bytes);
        if stack > allowed || local > 0 {
            let bytes = stack + local;
            breaches
                .push(format!("{name} keeps {bytes} bytes in memory, but {allowed} are allowed"));
        }
    }
    if kernels == 0 {
        breaches.push("no kernel is listed".to_owned());
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_that_round_otherwise_are_named() {
        let good = "\tfma.rn.f32 \t%f1, %f2;\n@%p1 bra \t$L__BB0_2;\nadd.s64 %rd1;\nsqrt.rn.f32 %f;\n\
                    setp.lt.f32 %p1;\nneg.f32 %f2;\ncvt.rn.f32.s32 %f1;";
        assert_eq!(roundings(good), Vec::<String>::new());
        for bad in
            ["mul.f32", "add.ftz.rn.f32", "sqrt.approx.f32", "@%p2 ex2.approx.f32", "mad.rn.f64"]
        {
            assert_eq!(roundings(&format!("{good}\n{bad} \t%f1;")).len(), 1, "{bad}");
        }
    }

    #[test]
    fn kernels_that_take_too_much_are_named() {
        let line = |name: &str, registers: u32, stack: u32| {
            format!(
                " Function {name}:\n  REG:{registers} STACK:{stack} SHARED:0 LOCAL:0 CONSTANT[0]:592\n"
            )
        };
        let good = line("update", 30, 128) + &line("layer_large", 175, 0);
        assert_eq!(resources(&good), Vec::<String>::new());
        assert_eq!(resources(&(good.clone() + &line("latent", 65, 0))).len(), 1);
        assert_eq!(resources(&(good + &line("layer_small", 64, 8))).len(), 1);
        assert_eq!(resources("").len(), 1);
    }
}
