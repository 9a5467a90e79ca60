//! livepool (under construction).
mod deadline;
pub mod event;
mod net;
mod telemetry;
