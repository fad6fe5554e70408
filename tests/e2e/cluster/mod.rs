//! On a real Kubernetes control plane. `cargo xtask test` builds it; without it these tests are left out (`--ignored` runs them
//! after `cargo xtask cluster build`).
//!
//! `admission` and `clients` need the API server alone; the others run the operator and verifiers as `world` starts them.

mod admission;
mod chart;
mod clients;
mod command_line;
mod enforcement;
mod outages;
mod rights;
mod rotation;
mod sessions;
mod traffic;
mod world;
