//! Progress: a bar on a terminal, a line now and then elsewhere.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use invad::backbones::{self, Backbone};
use invad::denoisers::Recompute;
use invad::device::Plan;
use invad::train::StepReport;
use invad::weights::Fetched;
use invad::{Event, Result};

use super::note;
use super::table::comparison_table;

/// Between two lines, where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Runs `print` while no bar is on the screen.
pub fn beside_bars<R>(print: impl FnOnce() -> R) -> R {
    BARS.suspend(print)
}

/// Takes all bars away.
pub fn clear() {
    BARS.clear().ok();
}

/// Standard error, beside the bars.
pub struct BesideBars;

impl Write for BesideBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        beside_bars(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// How far a piece of work is.
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    total: u64,
    /// How many were done before, and are done now.
    before: Option<u64>,
    done: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    line: Instant,
}

impl Progress {
    /// Work of `total` units.
    pub fn new(what: &'static str, total: u64, unit: &'static str) -> Self {
        let style = "{prefix:>12} {wide_bar} {pos}/{len} {msg} {rate} ETA {eta} ";
        let bar = io::stderr().is_terminal().then(|| {
            BARS.add(ProgressBar::new(total))
                .with_style(
                    ProgressStyle::with_template(style).expect("a valid template").with_key(
                        "rate",
                        |state: &ProgressState, out: &mut dyn fmt::Write| {
                            write!(out, "{:.1}/s", state.per_sec()).ok();
                        },
                    ),
                )
                .with_prefix(what)
        });
        let now = Instant::now();
        Self { what, unit, total, before: None, done: 0, bar, started: now, line: now }
    }

    /// `done` units are done. Work that was taken up again does not start at 1.
    pub fn set(&mut self, done: u64, message: impl FnOnce() -> String) {
        let before = *self.before.get_or_insert_with(|| {
            if let Some(bar) = &self.bar {
                bar.set_position(done - 1);
                bar.reset_eta();
            }
            done - 1
        });
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_message(message());
            bar.set_position(done);
        } else if self.line.elapsed() >= INTERVAL && done < self.total {
            self.line = Instant::now();
            let rate = (done - before) as f64 / self.started.elapsed().as_secs_f64();
            let left = (self.total - done) as f64 / rate;
            let (what, total) = (self.what, self.total);
            let message = Some(message()).filter(|m| !m.is_empty());
            let message = message.map_or(String::new(), |m| format!("{m}, "));
            note(format!("{what}: {done}/{total}, {message}{rate:.1}/s, {left:.0} s left"));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
    }

    /// Takes the bar away and says how long it took.
    pub fn finish(self) -> Duration {
        self.end();
        let elapsed = self.started.elapsed();
        let done = self.done - self.before.unwrap_or(0);
        let seconds = elapsed.as_secs_f64();
        note(format!("{}: {done} {} in {seconds:.1} s", self.what, self.unit));
        elapsed
    }
}

/// A training's memory in one line.
fn plan_line(plan: &Plan, recompute: Recompute) -> String {
    let parts: Vec<_> =
        plan.bytes().map(|(purpose, bytes)| format!("{purpose} {}", mebibytes(bytes))).collect();
    let (total, again) = (mebibytes(plan.total()), recompute.name());
    format!("memory: {total} MiB ({}), recomputing {again}", parts.join(", "))
}

/// As a number of MiB.
pub fn mebibytes(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / (1 << 20) as f64)
}

/// `rate`: images a second.
fn message(loss: f64, report: StepReport, rate: f64) -> String {
    let norm = report.gradient_norm;
    let mut message = format!("loss {loss:.4}, gradient {norm:.3}, {rate:.1} images/s");
    if report.loss_scale != 1.0 {
        let skipped = if report.skipped { ", skipped" } else { "" };
        message += &format!(", scale {}{skipped}", report.loss_scale);
    }
    message
}

/// The progress of [`invad::fit`].
#[derive(Default)]
pub struct FitProgress {
    phase: Option<Progress>,
    loss: Option<f64>,
    /// When the first step was done, and the images of those after it.
    trained: Option<(Instant, usize)>,
    times: Vec<(&'static str, Duration)>,
}

impl FitProgress {
    /// Shows what was done or found.
    pub fn show(&mut self, event: &Event) {
        match *event {
            Event::Fetched(Fetched { bytes, of, .. }) => {
                let [done, total] = [bytes, of.unwrap_or(bytes)].map(|n| (n >> 20).max(1));
                self.phase("weights", total, "MiB").set(done, String::new);
            }
            Event::Features { done, total } => {
                self.phase("features", total as u64, "images").set(done as u64, String::new);
            }
            Event::Plan { plan, recompute } => {
                self.end_phase();
                note(plan_line(plan, recompute));
            }
            Event::Step { report, total } => {
                // Smoothed: the loss of single batches jumps with the timesteps drawn.
                let loss = self.loss.map_or(report.loss, |l| l + 0.05 * (report.loss - l));
                self.loss = Some(loss);
                let (began, images) = self.trained.get_or_insert_with(|| (Instant::now(), 0));
                let rate = *images as f64 / began.elapsed().as_secs_f64();
                *images += report.images;
                self.phase("training", total, "steps")
                    .set(report.step, || message(loss, report, rate));
            }
            Event::Calibration { done, total } => {
                self.phase("calibration", total as u64, "images").set(done as u64, String::new);
            }
            Event::Comparison { done, total } => {
                self.phase("comparison", total as u64, "images").set(done as u64, String::new);
            }
            Event::Compared(comparison) => {
                self.end_phase();
                note(comparison_table(comparison));
            }
            Event::Unreadable(e) => log::warn!("{e}; the image is left out"),
            Event::Warning(warning) => log::warn!("{warning}"),
            _ => {}
        }
    }

    /// Nothing more comes. How long each phase took.
    pub fn finish(mut self) -> Vec<(&'static str, Duration)> {
        self.end_phase();
        self.times
    }

    fn end_phase(&mut self) {
        if let Some(phase) = self.phase.take() {
            self.times.push((phase.what, phase.finish()));
        }
    }

    fn phase(&mut self, what: &'static str, total: u64, unit: &'static str) -> &mut Progress {
        if self.phase.as_ref().is_none_or(|phase| phase.what != what) {
            self.end_phase();
        }
        self.phase.get_or_insert_with(|| Progress::new(what, total, unit))
    }
}

/// A backbone by name, whose weights may have to be fetched.
pub fn fetched(name: &str) -> Result<Arc<dyn Backbone>> {
    let mut progress = FitProgress::default();
    let backbone = backbones::named_with(name, &mut |f| progress.show(&Event::Fetched(f)));
    progress.finish();
    backbone
}
