//! `status --watch`: shows a run in the terminal while it trains. It repeats the request that `status`
//! sends once.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use protocol::{
    convert::{path_from_wire, printable},
    wire::{Phase, StatusReply, WorkerStatus},
};
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Style, Stylize as _},
    text::Line,
    widgets::{Block, Gauge, List, Paragraph, Row, Sparkline, Table},
};

use crate::{args::StatusArgs, status};

/// Time between two requests.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long a key is waited for before the screen is drawn again.
const KEY_TIMEOUT: Duration = Duration::from_millis(50);

/// The most losses that are kept: more than a terminal has columns.
const LOSSES_MAX: usize = 1024;

/// Number of different heights of a bar.
const BAR_HEIGHTS: f64 = 1000.0;

/// The most ranks that are named in the column "Waits for".
const NAMED: usize = 4;

/// Lines of events that are shown.
const EVENTS_HEIGHT: u16 = 3;

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
    let mut terminal = ratatui::try_init().context("cannot draw on the terminal")?;
    let mut asked = Instant::now();
    let watched = loop {
        if let Err(error) = terminal.draw(|frame| draw(frame, &view)) {
            break Err(error);
        }
        match ends() {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
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
    };
    ratatui::try_restore().context("cannot give the terminal back")?;
    watched.context("cannot draw on the terminal")
}

/// Whether a person presses a key that ends the command.
fn ends() -> io::Result<bool> {
    if !event::poll(KEY_TIMEOUT)? {
        return Ok(false);
    }
    let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event::read()? else {
        return Ok(false);
    };
    let is_control_c =
        modifiers.contains(KeyModifiers::CONTROL) && matches!(code, KeyCode::Char('c' | 'd'));
    let ends = matches!(code, KeyCode::Char('q') | KeyCode::Esc) || is_control_c;
    Ok(kind == KeyEventKind::Press && ends)
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let status = &view.status;
    let rows = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(3),
        Constraint::Length(5),
        Constraint::Min(5),
        Constraint::Length(EVENTS_HEIGHT + 2),
        Constraint::Length(1),
    ]);
    let [head, progress, losses, workers, events, foot] = rows.areas(frame.area());
    frame.render_widget(Paragraph::new(heading(view)), head);

    let ratio = status.step as f64 / status.steps.max(1) as f64;
    let label =
        format!("epoch {}/{}  step {}/{}", status.epoch, status.epochs, status.step, status.steps);
    let gauge = Gauge::default().block(Block::bordered().title(" Progress ")).label(label);
    frame.render_widget(gauge.ratio(ratio.clamp(0.0, 1.0)), progress);

    let title = match status.metrics.first() {
        Some(loss) => {
            format!(" {} {:.2} {} ", printable(&loss.name), loss.value, printable(&loss.unit))
        }
        None => " Loss: not known yet ".to_owned(),
    };
    let width = usize::from(losses.width.saturating_sub(2));
    let bars = bars(&view.losses, width);
    let sparkline = Sparkline::default().block(Block::bordered().title(title)).data(bars);
    frame.render_widget(sparkline, losses);

    let heads = Row::new(["Rank", "Host", "State", "Step", "Heard", "Memory", "Waits for"]);
    let widths = [
        Constraint::Length(6),
        Constraint::Min(12),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Min(16),
    ];
    let lines = status.connected.iter().map(|worker| Row::new(cells(worker, status)));
    let table = Table::new(lines, widths).header(heads.style(Style::new().bold()));
    frame.render_widget(table.block(Block::bordered().title(" Workers ")), workers);

    let recent = status.recent_errors.iter().rev().take(usize::from(EVENTS_HEIGHT));
    let recent = recent.map(|what| Line::from(printable(what).to_string()));
    let list =
        List::new(recent).block(Block::bordered().title(" What ended generations, newest first "));
    frame.render_widget(list, events);
    frame.render_widget(Line::from("q closes this view; the run goes on").dim(), foot);
}

fn heading(view: &View) -> Vec<Line<'static>> {
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
            Line::from(format!("no answer for {} s: {why}", since.elapsed().as_secs())).red()
        }
        (None, "") => Line::default(),
        (None, what) => {
            Line::from(format!("{} ({:.0} s)", printable(what), status.waiting_seconds)).yellow()
        }
    };
    vec![
        Line::from(format!("Run {} in {directory}", printable(&status.run_id))).bold(),
        Line::from(format!("{phase}: generation {generation}{rate}")),
        third,
    ]
}

/// A bar for each of the last losses, as many as fit into `width`.
fn bars(losses: &[f64], width: usize) -> Vec<u64> {
    let losses = &losses[losses.len().saturating_sub(width)..];
    let low = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let high = losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = (high - low).max(f64::MIN_POSITIVE);
    // The lowest loss has a visible bar too.
    let bar = |loss: &f64| (1.0 + (loss - low) / range * BAR_HEIGHTS) as u64;
    losses.iter().map(bar).collect()
}

fn cells(worker: &WorkerStatus, status: &StatusReply) -> Vec<String> {
    let megabytes = |bytes: u64| format!("{} MB", bytes / 1_000_000);
    let state = match worker.phase {
        None => "joined",
        Some(_) if !worker.member => "not a member",
        Some(_) => status::phase_name(worker.phase()),
    };
    vec![
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
    use ratatui::{Terminal, backend::TestBackend};

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

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_screen_shows_the_run() {
        let mut view = View::default();
        view.take_in(status(10, 200.0));
        view.take_in(status(10, 200.0));
        view.take_in(status(20, 150.25));
        assert_eq!(view.losses, [200.0, 150.25], "a report counts once");
        let screen = drawn(&view, 110, 40);
        let words =
            ["Run abc", "step 20/100", "loss 150.25 nats", "ranks 1, 2", "312 MB", "is gone"];
        for word in words {
            assert!(screen.contains(word), "{word}:\n{screen}");
        }
        view.silent = Some(("no coordinator answers".into(), Instant::now()));
        assert!(drawn(&view, 110, 40).contains("no answer for 0 s"));
        // Any size of the terminal works.
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            drawn(&view, width, height);
        }
    }

    #[test]
    fn bars_tell_losses_apart() {
        assert_eq!(bars(&[], 10), [0; 0]);
        assert_eq!(bars(&[5.0, 5.0], 10), [1, 1]);
        assert_eq!(bars(&[9.0, 3.0, 2.0, 1.0], 3), [1001, 501, 1]);
    }
}
