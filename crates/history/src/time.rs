//! A moment of the wall clock, in the form of rows: RFC 3339 in UTC, to the millisecond.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// The first and last moment that RFC 3339 can write, in milliseconds since 1970.
const MS_MIN: i64 = -62_167_219_200_000;
const MS_MAX: i64 = 253_402_300_799_999;

/// A moment between the years 0 and 9999, to the millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    unix_ms: i64,
}

impl Time {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(MS_MAX))
    }

    /// The moment `unix_ms` milliseconds after the beginning of 1970 in UTC.
    #[must_use]
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        Self { unix_ms: unix_ms.clamp(MS_MIN, MS_MAX) }
    }

    /// Milliseconds since the beginning of 1970 in UTC.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        self.unix_ms
    }

    /// Seconds since the beginning of 1970 in UTC.
    #[must_use]
    pub fn unix_seconds(self) -> f64 {
        self.unix_ms as f64 / 1e3
    }
}

/// The date `days` days after 1970-01-01, as (year, month, day). The algorithm counts years from
/// March, so that a leap day is the last day of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days + 719_468;
    let era = from_march_0000.div_euclid(146_097);
    let day_of_era = from_march_0000.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year_of_era + era * 400 + later, month, day)
}

/// Days from 1970-01-01 to a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.unix_ms.div_euclid(DAY_MS));
        let ms = self.unix_ms.rem_euclid(DAY_MS);
        let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
        let (seconds, ms) = (ms / 1000 % 60, ms % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
    }
}

/// The text is no moment by RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time by RFC 3339, as in 2026-03-01T12:00:00Z")]
pub struct InvalidTime;

impl FromStr for Time {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        parse(text).ok_or(InvalidTime)
    }
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn parse(text: &str) -> Option<Time> {
    let (date, rest) = (text.get(..10)?, text.get(11..)?);
    let is_separated = matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '));
    let mut date = date.split('-');
    let year = number(date.next()?, 4)?;
    let month = number(date.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = number(date.next()?, 2).filter(|day| (1..=31).contains(day))?;
    let at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.split(':');
    let hours = number(clock.next()?, 2).filter(|hours| *hours < 24)?;
    let minutes = number(clock.next()?, 2).filter(|minutes| *minutes < 60)?;
    let seconds = number(clock.next()?, 2).filter(|seconds| *seconds <= 60)?;
    let ms = milliseconds(fraction)?;
    let rest = (date.next(), clock.next());
    let whole = days(year, month, day) * 86_400 + hours * 3600 + minutes * 60 + seconds;
    let moment = (whole - offset(zone)?) * 1000 + ms;
    (is_separated && rest == (None, None)).then(|| Time::from_unix_ms(moment))
}

/// The milliseconds in the digits behind the point.
fn milliseconds(fraction: &str) -> Option<i64> {
    let is_number = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let digits = fraction.bytes().chain(*b"000").take(3);
    is_number.then(|| digits.fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0')))
}

/// Seconds by which a zone is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some(sign * (number(hours, 2)? * 3600 + number(minutes, 2)? * 60))
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Time;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a time by RFC 3339 or Unix seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_f64<E>(self, seconds: f64) -> Result<Time, E> {
                Ok(Time::from_unix_ms((seconds * 1e3).round() as i64))
            }

            fn visit_u64<E>(self, seconds: u64) -> Result<Time, E> {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                Ok(Time::from_unix_ms(seconds.saturating_mul(1000)))
            }

            fn visit_i64<E>(self, seconds: i64) -> Result<Time, E> {
                Ok(Time::from_unix_ms(seconds.saturating_mul(1000)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_and_read_back() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_772_366_400_250, "2026-03-01T12:00:00.250Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (MS_MIN, "0000-01-01T00:00:00.000Z"),
            (MS_MAX, "9999-12-31T23:59:59.999Z"),
        ];
        for (unix_ms, text) in cases {
            let time = Time::from_unix_ms(unix_ms);
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        }
        for day in (-700_000..2_900_000).step_by(7) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
        assert!(Time::now().unix_seconds() > 1.7e9);
    }

    #[test]
    fn other_forms_are_read() {
        let read = |json: &str| serde_json::from_str::<Time>(json).map(Time::unix_ms).ok();
        assert_eq!(read("\"2026-03-01T12:00:00.250123456Z\""), Some(1_772_366_400_250));
        assert_eq!(read("\"2026-03-01 13:00:00+01:00\""), Some(1_772_366_400_000));
        assert_eq!(read("\"2026-03-01T11:30:00.5-00:30\""), Some(1_772_366_400_500));
        assert_eq!(read("1772366400.25"), Some(1_772_366_400_250));
        assert_eq!(read("1772366400"), Some(1_772_366_400_000));
        assert_eq!(read("-5"), Some(-5000));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        let cases = ["", "now", "2026-03-01", "2026-13-01T00:00:00Z", "2026-03-01T00:00:00"];
        let more = ["2026-03-01T24:00:00Z", "2026-03-01T00:00:00.Z", "2026-03-0\u{e9}T00:00:00Z"];
        for text in cases.into_iter().chain(more) {
            assert_eq!(text.parse::<Time>(), Err(InvalidTime), "{text}");
        }
        assert!(serde_json::from_str::<Time>("1e300").is_ok(), "held to what can be written");
    }
}
