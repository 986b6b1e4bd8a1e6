//! The numbers of a run as people read them: an epoch in a line of at most 80 columns, progress in
//! the width that there is. What is not known is left out.

use std::{
    collections::VecDeque,
    fmt::{self, Display, Formatter},
    time::{Duration, Instant},
};

use protocol::wire::Losses;

/// Columns of a line that fits any terminal.
const COLUMNS: usize = 80;

/// Characters of a loss: of a large one, less is shown behind the point.
const LOSS_WIDTH: usize = 6;

/// Columns of the shortest and of the longest bar.
const BAR_MIN: usize = 10;
const BAR_MAX: usize = 40;

/// Reports that the remaining time is estimated from: those of the last quarter of a minute.
const REPORTS: usize = 60;

/// How far training is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    pub(crate) epochs: u32,
    pub(crate) step: u64,
    pub(crate) steps: u64,
    /// Nats per image.
    pub(crate) loss: Option<f64>,
    pub(crate) images_per_second: Option<f64>,
}

impl Display for Progress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { epoch, epochs, step, steps, loss, images_per_second } = *self;
        write!(f, "epoch {epoch}/{epochs} step {step}/{steps}")?;
        if let Some(loss) = loss {
            write!(f, " loss {loss:.2}")?;
        }
        if let Some(rate) = images_per_second {
            write!(f, " {rate:.0} images/s")?;
        }
        Ok(())
    }
}

/// Progress within `width` columns: with a bar if there is room, without its last words if there
/// is not enough.
pub(super) fn fitted(progress: &Progress, remaining: Option<Duration>, width: usize) -> String {
    let Progress { epoch, epochs, step, steps, loss, images_per_second } = *progress;
    let epoch = format!("Epoch {epoch}/{epochs}");
    let words: Vec<String> = [
        Some(format!("{step}/{steps} steps")),
        loss.map(|loss| format!("loss {}", short(loss))),
        images_per_second.map(|rate| format!("{rate:.0} images/s")),
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

/// Estimates the time that training still takes.
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

    /// The time that is left; none while nothing is known of it.
    pub(super) fn time(&self) -> Option<Duration> {
        let ((begun, first), (now, last)) = (self.reports.front()?, self.reports.back()?);
        let took = now.checked_duration_since(*begun).filter(|took| !took.is_zero())?;
        let left = self.steps.checked_sub(*last)? as f64;
        let time = took.as_secs_f64() / last.checked_sub(*first)? as f64 * left;
        Duration::try_from_secs_f64(time).ok()
    }
}

/// The end of an epoch in one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EpochLine {
    pub(crate) epoch: u64,
    pub(crate) epochs: u32,
    pub(crate) train: Option<Losses>,
    /// Nats per image, as the other losses.
    pub(crate) test_loss: Option<f64>,
    pub(crate) images_per_second: Option<f64>,
}

impl EpochLine {
    fn parts(&self, with_terms: bool) -> Vec<String> {
        let loss = |name: &str, of: Option<f64>| of.map(|loss| format!("{name} {}", short(loss)));
        let term = |of: fn(&Losses) -> f64| self.train.as_ref().map(of).filter(|_| with_terms);
        [
            Some(format!("Epoch {}/{}", self.epoch, self.epochs)),
            loss("loss", self.train.map(|train| train.loss)),
            loss("rec", term(|train| train.reconstruction)),
            loss("KL", term(|train| train.kl)),
            loss("test loss", self.test_loss),
            self.images_per_second.map(|rate| format!("{rate:.0} images/s")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Display for EpochLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (all, without_terms) = (self.parts(true), self.parts(false));
        let wide = all.join("  ");
        let narrow = if all.join(" ").len() <= COLUMNS { all } else { without_terms };
        f.write_str(&if wide.len() <= COLUMNS { wide } else { narrow.join(" ") })
    }
}

/// A loss in few characters.
fn short(loss: f64) -> String {
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

    fn losses(loss: f64, reconstruction: f64, kl: f64) -> Option<Losses> {
        Some(Losses { loss, reconstruction, kl })
    }

    fn epoch(epoch: u64, epochs: u32, train: Option<Losses>, rate: Option<f64>) -> String {
        let test_loss = train.map(|train| train.loss);
        EpochLine { epoch, epochs, train, test_loss, images_per_second: rate }.to_string()
    }

    #[test]
    fn an_epoch_is_one_line_of_at_most_eighty_columns() {
        let usual = epoch(1, 5, losses(200.43, 196.14, 4.29), Some(20_376.4));
        let expected =
            "Epoch 1/5  loss 200.43  rec 196.14  KL 4.29  test loss 200.43  20376 images/s";
        assert_eq!(usual, expected);
        let cases = [
            epoch(100, 100, losses(123.45, 111.22, 12.23), Some(123_456.0)),
            epoch(100, 100, losses(12_345.67, 12_345.67, 12_345.67), Some(999_999.0)),
            epoch(100, 100, losses(-12_345.67, -12_345.67, 345.67), Some(999_999.0)),
            epoch(100_000, 100_000, losses(1e12, 1e12, 1e3), Some(1e7)),
        ];
        for line in &cases {
            assert!(line.len() <= 80, "{} columns: {line}", line.len());
            assert!(line.starts_with("Epoch 100") && line.ends_with(" images/s"), "{line}");
        }
        assert!(cases[0].contains("KL 12.23 ") && cases[1].contains("test loss 12346 "));
        assert_eq!(epoch(2, 5, None, None), "Epoch 2/5");
    }

    #[test]
    fn losses_take_few_characters() {
        let cases = [(0.0, "0.00"), (123.456, "123.46"), (1234.56, "1234.6"), (-123.456, "-123.5")];
        for (loss, text) in cases {
            assert_eq!(short(loss), text);
        }
        assert_eq!((short(123_456.7), short(1_234_567.8)), ("123457".into(), "1234568".into()));
    }

    fn progress(step: u64) -> Progress {
        let (epoch, epochs, steps) = (4, 5, 1175);
        Progress { epoch, epochs, step, steps, loss: Some(115.8), images_per_second: Some(20_376.) }
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
        let begun = Progress { loss: None, images_per_second: None, ..progress(828) };
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
