//! Numbers as the values of flags. A value out of range is an error of its flag, even if the value
//! begins with a dash.

use std::{any::TypeId, fmt::Display, ops::RangeInclusive, str::FromStr};

use clap::Command;

/// Makes each flag with a number take the next argument as its value, in the command and its subcommands.
/// So `--epochs -1` is an error of `--epochs`, and not an unknown flag `-1`.
#[must_use]
pub fn accept_negative_numbers(command: Command) -> Command {
    let numbers = [
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
    ];
    let command = command.mut_args(|arg| {
        let value = arg.get_value_parser().type_id();
        let is_flag = arg.get_long().is_some() && arg.get_action().takes_values();
        let is_number = is_flag && numbers.iter().any(|number| value == *number);
        if is_number { arg.allow_hyphen_values(true) } else { arg }
    });
    command.mut_subcommands(accept_negative_numbers)
}

/// The parser of a whole number from a range.
pub fn whole<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let (min, max) = (range.start(), range.end());
        number.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
    }
}

/// The parser of a number that satisfies `holds`; `wanted` is the condition in words, after "must be".
pub fn real(
    wanted: impl Display,
    holds: fn(f64) -> bool,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    let wanted = wanted.to_string();
    move |text| {
        let number = text.parse().ok().filter(|number| holds(*number));
        number.ok_or_else(|| format!("must be {wanted}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction, value_parser};

    use super::*;

    fn command() -> Command {
        let count = Arg::new("count").long("count").value_parser(whole(1..=9_u32));
        let rate = Arg::new("rate").long("rate").value_parser(real("positive", |rate| rate > 0.0));
        let name = Arg::new("name").long("name").value_parser(value_parser!(String));
        let flag = Arg::new("flag").long("flag").action(ArgAction::SetTrue);
        let part = Command::new("part").arg(count.clone());
        accept_negative_numbers(
            Command::new("whole").args([count, rate, name, flag]).subcommand(part),
        )
    }

    #[test]
    fn a_number_out_of_its_range_is_an_error_of_its_flag() {
        for (line, words) in [
            ("--count -1", "invalid value '-1' for '--count <count>': must be a whole number from"),
            ("--count 10", "invalid value '10' for '--count <count>'"),
            ("--count 1.5", "from 1 to 9"),
            ("--count five", "'five'"),
            ("--count --flag", "invalid value '--flag' for '--count <count>'"),
            ("--rate -1e-3", "invalid value '-1e-3' for '--rate <rate>': must be positive"),
            ("--rate -inf", "'-inf' for '--rate"),
            ("--rate nan", "must be positive"),
            ("part --count -1", "'-1' for '--count"),
            // For a flag that takes a text, the next flag is not a value.
            ("--name --flag", "a value is required for '--name"),
            ("-1", "unexpected argument '-1'"),
        ] {
            let words_of_line = ["whole"].into_iter().chain(line.split(' '));
            let error = command().try_get_matches_from(words_of_line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
        let matches = command().try_get_matches_from(["whole", "--count", "9", "--rate", "1e-3"]);
        let matches = matches.unwrap();
        assert_eq!(matches.get_one::<u32>("count"), Some(&9));
        assert_eq!(matches.get_one::<f64>("rate"), Some(&1e-3));
    }
}
