//! What a process tells of itself: metrics, log lines, spans.
//!
//! Each process declares its metrics once, with their meaning ([`families!`]); what `/metrics` says and the reference page are
//! both made of that. This crate knows the formats and no metric or span, and depends on nothing of Countersign.

pub mod exposition;
pub mod reference;
pub mod traces;

pub use exposition::{Exposition, Family, Kind, Samples};
pub use traces::{Endpoint, Format, InvalidEndpoint, Traces, TracesError, install};
