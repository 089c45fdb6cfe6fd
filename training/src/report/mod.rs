//! From a grid of scenarios and policies to what people read: runs on all cores, intervals over seeds, tables, plots.

pub mod canvas;
pub mod grid;
pub mod interval;
pub mod kept;
pub mod plot;
pub mod results;
pub mod timeline;

pub use grid::{Cell, Grid, Progress, Run};
pub use interval::Interval;
pub use kept::KeptRuns;
pub use results::{Baseline, Metric, Results};
