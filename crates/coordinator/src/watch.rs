//! `status --watch`: shows a run in the terminal while it trains. It repeats the request that `status`
//! sends once.

mod screen;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use protocol::{
    convert::{path_from_wire, printable},
    wire::{Phase, StatusReply, WorkerStatus},
};

use self::screen::{Key, Line, Screen};
use crate::{args::StatusArgs, status, terms::with_unit};

/// Time between two requests.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long a key is waited for before the screen is drawn again.
const KEY_TIMEOUT: Duration = Duration::from_millis(50);

/// The most losses that are kept: more than a terminal has columns.
const LOSSES_MAX: usize = 1024;

/// The heights of a bar within a line of the chart, from none to full.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Heights of a bar within a line, beside none.
const EIGHTHS: usize = BARS.len() - 1;

/// Lines of the chart of losses.
const CHART_HEIGHT: usize = 3;

/// Columns of the bar that shows the progress.
const PROGRESS_WIDTH: usize = 40;

/// The widths of the table's columns but the last one.
const WIDTHS: [usize; 6] = [6, 20, 14, 10, 9, 10];

const HEADS: [&str; 7] = ["Rank", "Host", "State", "Step", "Heard", "Memory", "Waits for"];

/// The most ranks that are named in the column "Waits for".
const NAMED: usize = 4;

/// Lines of events that are shown.
const EVENTS_HEIGHT: usize = 3;

/// The data that the screen shows.
#[derive(Debug, Default)]
struct View {
    status: StatusReply,
    /// The losses that were reported, the newest last, and the step of the newest.
    losses: Vec<f64>,
    reported_step: Option<u64>,
    /// Why the last request failed, and since when requests fail.
    silent: Option<(String, Instant)>,
}

impl View {
    fn take_in(&mut self, status: StatusReply) {
        let loss = status.metrics.first().map(|metric| metric.value);
        if status.reported_step != self.reported_step {
            self.losses.extend(loss.filter(|loss| loss.is_finite()));
            let surplus = self.losses.len().saturating_sub(LOSSES_MAX);
            self.losses.drain(..surplus);
        }
        self.reported_step = status.reported_step;
        (self.status, self.silent) = (status, None);
    }
}

/// Shows the run until a person presses q.
pub(crate) fn watch(args: &StatusArgs) -> Result<()> {
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "--watch needs a terminal: use status, or status --json"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let mut view = View::default();
    // If the first request fails, the command ends with that error.
    view.take_in(runtime.block_on(status::ask(args))?);
    let mut screen = Screen::open().context("cannot draw on the terminal")?;
    let mut asked = Instant::now();
    loop {
        let (height, width) = screen.size();
        screen.show(&lines(&view, width), height).context("cannot draw on the terminal")?;
        let key = screen.key(KEY_TIMEOUT).context("cannot read from the terminal")?;
        if matches!(key, Some(Key::Quit)) {
            return Ok(());
        }
        if asked.elapsed() >= INTERVAL {
            match runtime.block_on(status::ask(args)) {
                Ok(status) => view.take_in(status),
                Err(error) => {
                    let since = view.silent.take().map_or_else(Instant::now, |(_, since)| since);
                    view.silent = Some((error.to_string(), since));
                }
            }
            asked = Instant::now();
        }
    }
}

/// The lines of the screen, each cut to `width` columns.
fn lines(view: &View, width: usize) -> Vec<Line> {
    let status = &view.status;
    let mut lines = heading(view).to_vec();
    let title = match status.metrics.first() {
        Some(loss) => {
            let (name, unit) = (printable(&loss.name), printable(&loss.unit));
            format!("{name} {}", with_unit(loss.value, &unit))
        }
        None => "Loss: not known yet".to_owned(),
    };
    lines.extend([Line::plain(""), Line::bold("Progress"), Line::plain(progress(status))]);
    lines.extend([Line::plain(""), Line::bold(title)]);
    lines.extend(chart(&view.losses, width).map(Line::plain));
    lines.extend([Line::plain(""), Line::bold("Workers")]);
    lines.push(Line::dim(row(HEADS.map(str::to_owned))));
    lines.extend(status.connected.iter().map(|worker| Line::plain(row(cells(worker, status)))));
    lines.extend([Line::plain(""), Line::bold("What ended generations, newest first")]);
    let recent = status.recent_errors.iter().rev().take(EVENTS_HEIGHT);
    lines.extend(recent.map(|what| Line::plain(printable(what).to_string())));
    lines.extend([Line::plain(""), Line::dim("q closes this view; the run goes on")]);
    lines.into_iter().map(|line| line.cut(width)).collect()
}

fn heading(view: &View) -> [Line; 3] {
    let status = &view.status;
    let directory = path_from_wire(&status.run_directory);
    let directory = printable(&directory.to_string_lossy()).to_string();
    let rate = status
        .examples_per_second
        .map_or_else(String::new, |rate| format!(", {rate:.0} {}s/s", printable(&status.example)));
    let phase = printable(&status.phase).to_string();
    let generation = status.generation;
    let third = match (&view.silent, &status.waiting_for[..]) {
        (Some((why, since)), _) => {
            Line::red(format!("no answer for {} s: {why}", since.elapsed().as_secs()))
        }
        (None, "") => Line::plain(""),
        (None, what) => {
            Line::yellow(format!("{} ({:.0} s)", printable(what), status.waiting_seconds))
        }
    };
    [
        Line::bold(format!("Run {} in {directory}", printable(&status.run_id))),
        Line::plain(format!("{phase}: generation {generation}{rate}")),
        third,
    ]
}

fn progress(status: &StatusReply) -> String {
    let ratio = status.step as f64 / status.steps.max(1) as f64;
    let done = (ratio.clamp(0.0, 1.0) * PROGRESS_WIDTH as f64) as usize;
    let bar = "█".repeat(done) + &"░".repeat(PROGRESS_WIDTH - done);
    let StatusReply { epoch, epochs, step, steps, .. } = status;
    format!("{bar}  epoch {epoch}/{epochs}  step {step}/{steps}")
}

/// The lines of a chart with a bar for each of the last losses, the highest line first.
fn chart(losses: &[f64], width: usize) -> impl Iterator<Item = String> {
    let bars = bars(losses, width);
    (0..CHART_HEIGHT).rev().map(move |line| {
        let height = |bar: &usize| bar.saturating_sub(line * EIGHTHS).min(EIGHTHS);
        bars.iter().map(|bar| BARS[height(bar)]).collect()
    })
}

/// A line of the table of workers.
fn row(cells: [String; 7]) -> String {
    let widths = WIDTHS.into_iter().chain([0]);
    let cell = |(cell, width): (String, usize)| match width {
        0 => cell,
        // A blank separates the cells.
        _ => format!("{:width$}", cell.chars().take(width - 1).collect::<String>()),
    };
    cells.into_iter().zip(widths).map(cell).collect()
}

/// A bar for each of the last losses, as many as fit into `width`.
fn bars(losses: &[f64], width: usize) -> Vec<usize> {
    let losses = &losses[losses.len().saturating_sub(width)..];
    let low = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let high = losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = (high - low).max(f64::MIN_POSITIVE);
    // The lowest loss has a visible bar too.
    let most = (CHART_HEIGHT * EIGHTHS - 1) as f64;
    let bar = |loss: &f64| (1.0 + (loss - low) / range * most) as usize;
    losses.iter().map(bar).collect()
}

fn cells(worker: &WorkerStatus, status: &StatusReply) -> [String; 7] {
    let megabytes = |bytes: u64| format!("{} MB", bytes / 1_000_000);
    let state = match worker.phase {
        None => "joined",
        Some(_) if !worker.member => "not a member",
        Some(_) => status::phase_name(worker.phase()),
    };
    [
        worker.rank.map_or_else(|| "spare".into(), |rank| rank.to_string()),
        printable(&worker.host).to_string(),
        state.to_owned(),
        worker.step.map(|step| step.to_string()).unwrap_or_default(),
        format!("{:.1} s", worker.silent_seconds),
        worker.memory_bytes.map(megabytes).unwrap_or_default(),
        waits_for(worker, status),
    ]
}

/// The members that a member waits for: those that compute or save, and are not ahead.
fn waits_for(worker: &WorkerStatus, status: &StatusReply) -> String {
    if !worker.member || worker.phase.is_none() || worker.phase() != Phase::Waiting {
        return String::new();
    }
    let is_behind = |other: &&WorkerStatus| {
        let busy = other.member && other.phase.is_some() && other.phase() != Phase::Waiting;
        busy && other.step <= worker.step
    };
    let ranks: Vec<u32> =
        status.connected.iter().filter(is_behind).filter_map(|w| w.rank).collect();
    let named = ranks.iter().take(NAMED).map(u32::to_string).collect::<Vec<_>>().join(", ");
    match ranks.len() {
        0 => String::new(),
        count if count > NAMED => format!("ranks {named} and {} more", count - NAMED),
        1 => format!("rank {named}"),
        _ => format!("ranks {named}"),
    }
}

#[cfg(test)]
mod tests {
    use protocol::wire::MetricValue;

    use super::*;

    fn worker(rank: u32, phase: Phase) -> WorkerStatus {
        WorkerStatus {
            rank: Some(rank),
            host: "one".into(),
            member: true,
            step: Some(7),
            phase: Some(phase.into()),
            memory_bytes: Some(312_000_000),
            ..WorkerStatus::default()
        }
    }

    fn status(step: u64, loss: f64) -> StatusReply {
        StatusReply {
            run_id: "abc".into(),
            phase: "training".into(),
            step,
            steps: 100,
            metrics: vec![MetricValue { name: "loss".into(), unit: "nats".into(), value: loss }],
            reported_step: Some(step),
            connected: vec![
                worker(0, Phase::Waiting),
                worker(1, Phase::Computing),
                worker(2, Phase::Saving),
            ],
            recent_errors: vec!["rank 3 is gone: killed".into()],
            ..StatusReply::default()
        }
    }

    fn drawn(view: &View, width: usize) -> String {
        let lines = lines(view, width);
        assert!(lines.iter().all(|line| line.text.chars().count() <= width));
        lines.iter().map(|line| line.text.clone() + "\n").collect()
    }

    #[test]
    fn a_screen_shows_the_run() {
        let mut view = View::default();
        view.take_in(status(10, 200.0));
        view.take_in(status(10, 200.0));
        view.take_in(status(20, 150.25));
        assert_eq!(view.losses, [200.0, 150.25], "a report counts once");
        let screen = drawn(&view, 110);
        let words =
            ["Run abc", "step 20/100", "loss 150.25 nats", "ranks 1, 2", "312 MB", "is gone"];
        for word in words {
            assert!(screen.contains(word), "{word}:\n{screen}");
        }
        view.silent = Some(("no coordinator answers".into(), Instant::now()));
        assert!(drawn(&view, 110).contains("no answer for 0 s"));
        // Any width of the terminal works.
        for width in [0, 1, 20, 300] {
            drawn(&view, width);
        }
    }

    #[test]
    fn bars_tell_losses_apart() {
        assert_eq!(bars(&[], 10), [0; 0]);
        assert_eq!(bars(&[5.0, 5.0], 10), [1, 1]);
        assert_eq!(bars(&[9.0, 3.0, 2.0, 1.0], 3), [24, 12, 1]);
        let lines: Vec<String> = chart(&[3.0, 2.0, 1.0], 10).collect();
        assert_eq!(lines, ["█  ", "█▄ ", "██▁"]);
    }
}
