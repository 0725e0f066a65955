//! Experiments: detectors that differ in one thing or another, measured on one data set.
//!
//! A [`Sweep`] is data, the rows of a table; [`table`] and [`figure`] are those of the method's paper, [`Axes`] makes one
//! of all combinations. [`run`] trains what a sweep lacks, measures it and keeps both in a folder, so that the same call
//! goes on after it was stopped, and sweeps share what they have in common. [`Results`] puts what was measured beside the
//! paper's figures, where they are known, and is written by [`Results::write`] and the feature `report`.
//!
//! ```no_run
//! use invad::sweep::{self, Axes, SweepOptions, Swept};
//! use invad::{Control, data::Dataset};
//!
//! # fn main() -> invad::Result<()> {
//! let dataset = Dataset::open("data", &[])?;
//! let axes = Axes::default().denoisers(vec!["small".into(), "small-mlp".into()]);
//! let options = SweepOptions::new("out/sweep").steps(Some(300));
//! match sweep::run(&axes.sweep(), &dataset, &options, |_| Control::Continue)? {
//!     Swept::Done(results) => results.write("out/sweep")?,
//!     Swept::Stopped(so_far) => so_far.write("out/sweep")?, // The same call goes on.
//! }
//! # Ok(())
//! # }
//! ```

mod axes;
mod engine;
mod kept;
mod measure;
mod measuring;
mod notes;
mod paper;
mod plan;
mod reconstruct;
mod results;
mod setting;
mod tables;
mod trained;
mod unreadable;
mod write;

pub use axes::Axes;
pub use engine::{Event, SweepOptions, Swept, run};
pub use measure::{CategoryMeasured, Measurement};
pub use paper::{Figure, published};
pub use results::{Results, Row as ResultRow};
pub use setting::{Method, Row, Score, Setting, Sweep};
pub use tables::{FIGURES, TABLES, figure, table};
pub use unreadable::Unreadable;
#[cfg(feature = "report")]
pub(crate) use write::{PROTOCOLS, number};
