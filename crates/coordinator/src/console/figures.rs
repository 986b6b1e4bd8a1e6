//! Formats the numbers of a run for people: an epoch in a line of at most 80 columns, progress in the
//! width of the terminal. A number that is not known is left out.

use std::{
    collections::VecDeque,
    fmt::{self, Display, Formatter},
    time::{Duration, Instant},
};

use crate::terms::{Terms, figure};

/// Columns of a line that fits any terminal.
const COLUMNS: usize = 80;

/// Characters of a loss: a large loss is shown with fewer digits behind the point.
const LOSS_WIDTH: usize = 6;

/// The most characters of a metric's name, and the characters that a longer name is cut to.
const NAME_WIDTH: usize = 8;
const SHORT_NAME_WIDTH: usize = 3;

/// Columns of the shortest and of the longest bar.
const BAR_MIN: usize = 10;
const BAR_MAX: usize = 40;

/// Reports that the remaining time is estimated from: those of the last quarter of a minute.
const REPORTS: usize = 60;

/// The progress of training.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    pub(crate) epochs: u32,
    pub(crate) step: u64,
    pub(crate) steps: u64,
    pub(crate) loss: Option<f64>,
    pub(crate) rate: Option<Rate>,
}

/// The speed of training.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    /// The task's word for examples, in the plural.
    pub(crate) examples: String,
}

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} {}/s", self.per_second, self.examples)
    }
}

impl Display for Progress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { epoch, epochs, step, steps, loss, rate } = self;
        write!(f, "epoch {epoch}/{epochs} step {step}/{steps}")?;
        if let Some(loss) = loss {
            write!(f, " loss {}", figure(*loss))?;
        }
        if let Some(rate) = rate {
            write!(f, " {rate}")?;
        }
        Ok(())
    }
}

/// Progress within `width` columns: with a bar if it fits, and without the last words if they do not
/// fit.
pub(super) fn fitted(progress: &Progress, remaining: Option<Duration>, width: usize) -> String {
    let Progress { epoch, epochs, step, steps, loss, rate } = progress;
    let (step, steps) = (*step, *steps);
    let epoch = format!("Epoch {epoch}/{epochs}");
    let words: Vec<String> = [
        Some(format!("{step}/{steps} steps")),
        loss.map(|loss| format!("loss {}", short(loss))),
        rate.as_ref().map(Rate::to_string),
        remaining.map(|time| format!("{} left", duration(time))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let line = |words: &[String], bar: &str| format!("{epoch} {bar}{}", words.join(", "));
    let bar = width.saturating_sub(line(&words, "[] ").len()).min(BAR_MAX);
    if bar >= BAR_MIN {
        let filled = (step.min(steps) * bar as u64).checked_div(steps).unwrap_or_default();
        let filled = usize::try_from(filled).unwrap_or(bar);
        let bar = format!("[{}{}] ", "#".repeat(filled), ".".repeat(bar - filled));
        return line(&words, &bar);
    }
    let mut shorter = (1..=words.len()).rev().map(|count| line(&words[..count], ""));
    let fits = shorter.find(|line| line.len() <= width);
    fits.unwrap_or_else(|| epoch.chars().take(width).collect())
}

/// Estimates the remaining time of training.
#[derive(Debug, Default)]
pub(super) struct Remaining {
    reports: VecDeque<(Instant, u64)>,
    steps: u64,
}

impl Remaining {
    pub(super) fn note(&mut self, progress: &Progress) {
        self.note_at(Instant::now(), progress);
    }

    fn note_at(&mut self, now: Instant, progress: &Progress) {
        if self.reports.len() == REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back((now, progress.step));
        self.steps = progress.steps;
    }

    /// The remaining time; none if it is not known.
    pub(super) fn time(&self) -> Option<Duration> {
        let ((begun, first), (now, last)) = (self.reports.front()?, self.reports.back()?);
        let took = now.checked_duration_since(*begun).filter(|took| !took.is_zero())?;
        let left = self.steps.checked_sub(*last)? as f64;
        let time = took.as_secs_f64() / last.checked_sub(*first)? as f64 * left;
        Duration::try_from_secs_f64(time).ok()
    }
}

/// The end of an epoch in one line.
#[derive(Clone, Debug)]
pub(crate) struct EpochLine<'a> {
    pub(crate) epoch: u64,
    pub(crate) epochs: u32,
    pub(crate) train: &'a Terms,
    pub(crate) test_loss: Option<f64>,
    pub(crate) rate: Option<Rate>,
}

impl EpochLine<'_> {
    /// The parts of the line, with all metrics of the task or with the loss alone.
    fn parts(&self, with_all: bool) -> Vec<String> {
        let shown = |name: &str, value: f64| format!("{name} {}", short(value));
        let terms =
            self.train.iter().map(|(metric, value)| shown(abbreviated(&metric.name), value));
        let epoch = format!("Epoch {}/{}", self.epoch, self.epochs);
        let parts = [epoch].into_iter().chain(terms.take(if with_all { usize::MAX } else { 1 }));
        parts
            .chain(self.test_loss.map(|loss| shown("test loss", loss)))
            .chain(self.rate.as_ref().map(Rate::to_string))
            .collect()
    }
}

/// A metric's name, cut if it is long.
fn abbreviated(name: &str) -> &str {
    match name.char_indices().nth(NAME_WIDTH) {
        Some(_) => name.get(..SHORT_NAME_WIDTH).unwrap_or(name),
        None => name,
    }
}

impl Display for EpochLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (all, without_terms) = (self.parts(true), self.parts(false));
        let wide = all.join("  ");
        let narrow = if all.join(" ").len() <= COLUMNS { all } else { without_terms };
        f.write_str(&if wide.len() <= COLUMNS { wide } else { narrow.join(" ") })
    }
}

/// A loss in few characters.
fn short(loss: f64) -> String {
    if loss.abs() < 1.0 {
        return figure(loss);
    }
    let digits = [2, 1, 0].map(|digits| format!("{loss:.digits$}"));
    let [.., whole] = digits.clone();
    digits.into_iter().find(|text| text.len() <= LOSS_WIDTH).unwrap_or(whole)
}

/// A time in its two largest units.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(values: &[f64]) -> Terms {
        let metrics = ["loss", "reconstruction", "kl"]
            .map(|name| config::Metric { name: name.into(), unit: "nats".into() });
        Terms::new(&metrics, values)
    }

    fn rate(per_second: f64) -> Option<Rate> {
        Some(Rate { per_second, examples: "images".into() })
    }

    fn epoch(epoch: u64, epochs: u32, train: &[f64], rate: Option<Rate>) -> String {
        let (train, test_loss) = (&terms(train), train.first().copied());
        EpochLine { epoch, epochs, train, test_loss, rate }.to_string()
    }

    #[test]
    fn an_epoch_is_one_line_of_at_most_eighty_columns() {
        let usual = epoch(1, 5, &[200.43, 196.14, 4.29], rate(20_376.4));
        let expected =
            "Epoch 1/5  loss 200.43  rec 196.14  kl 4.29  test loss 200.43  20376 images/s";
        assert_eq!(usual, expected);
        let cases = [
            epoch(100, 100, &[123.45, 111.22, 12.23], rate(123_456.0)),
            epoch(100, 100, &[12_345.67, 12_345.67, 12_345.67], rate(999_999.0)),
            epoch(100, 100, &[-12_345.67, -12_345.67, 345.67], rate(999_999.0)),
            epoch(100_000, 100_000, &[1e12, 1e12, 1e3], rate(1e7)),
        ];
        for line in &cases {
            assert!(line.len() <= 80, "{} columns: {line}", line.len());
            assert!(line.starts_with("Epoch 100") && line.ends_with(" images/s"), "{line}");
        }
        assert!(cases[0].contains("kl 12.23 ") && cases[1].contains("test loss 12346 "));
        assert_eq!(epoch(2, 5, &[], None), "Epoch 2/5");
    }

    #[test]
    fn losses_take_few_characters() {
        let cases = [
            (0.0, "0.00"),
            (123.456, "123.46"),
            (1234.56, "1234.6"),
            (-123.456, "-123.5"),
            (0.031_25, "0.0312"),
            (0.000_012_3, "1.2e-5"),
        ];
        for (loss, text) in cases {
            assert_eq!(short(loss), text);
        }
        assert_eq!((short(123_456.7), short(1_234_567.8)), ("123457".into(), "1234568".into()));
    }

    fn progress(step: u64) -> Progress {
        let (epoch, epochs, steps) = (4, 5, 1175);
        Progress { epoch, epochs, step, steps, loss: Some(115.8), rate: rate(20_376.) }
    }

    #[test]
    fn progress_fits_any_terminal() {
        let left = Some(Duration::from_secs(17));
        let wide = fitted(&progress(470), left, 79);
        let words = "470/1175 steps, loss 115.80, 20376 images/s, 17 s left";
        assert_eq!(wide, format!("Epoch 4/5 [####........] {words}"));
        assert!(fitted(&progress(1175), left, 500).contains(&format!("[{}]", "#".repeat(BAR_MAX))));
        assert_eq!(fitted(&progress(470), left, 66), format!("Epoch 4/5 {words}"));
        assert_eq!(fitted(&progress(470), left, 30), "Epoch 4/5 470/1175 steps");
        for width in 0..200 {
            assert!(fitted(&progress(470), left, width).len() <= width, "{width}");
        }
    }

    #[test]
    fn before_the_first_report_there_are_no_numbers_that_need_one() {
        let begun = Progress { loss: None, rate: None, ..progress(828) };
        let line = fitted(&begun, Remaining::default().time(), 79);
        assert!(line.ends_with("] 828/1175 steps"), "{line}");
        assert_eq!(begun.to_string(), "epoch 4/5 step 828/1175");
    }

    #[test]
    fn the_remaining_time_is_that_at_the_present_pace() {
        let mut remaining = Remaining::default();
        let begun = Instant::now();
        let note = |remaining: &mut Remaining, seconds, step| {
            remaining.note_at(begun + Duration::from_secs(seconds), &progress(step));
        };
        assert_eq!(remaining.time(), None);
        note(&mut remaining, 0, 828);
        assert_eq!(remaining.time(), None, "a resumed run has not done its first steps just now");
        note(&mut remaining, 0, 830);
        assert_eq!(remaining.time(), None, "in no time");
        note(&mut remaining, 10, 928);
        assert_eq!(remaining.time().map(|time| time.as_millis()), Some(24_700));
        let times = [(59, "59 s"), (61, "1 min 1 s"), (7300, "2 h 1 min"), (90_000, "1 d 1 h")];
        for (seconds, text) in times {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
