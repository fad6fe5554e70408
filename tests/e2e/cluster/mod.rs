//! On a real Kubernetes control plane. `cargo xtask test` builds it; without it these tests are left out (`--ignored` runs them
//! after `cargo xtask cluster build`).
//!
//! `admission` and `clients` need the API server alone; the others run the operator and verifiers as `world` starts them. `scale`,
//! `churn`, `rotation` and `emergency` are small here, and as large as somebody asks in `cargo xtask cluster`.

mod accepted;
mod admission;
mod bundle_key;
mod chart;
mod churn;
mod clients;
mod command_line;
mod emergency;
mod enforcement;
mod figures;
mod fleets;
mod foreign;
mod issuers;
mod keeping;
mod outages;
mod rights;
mod rings;
mod rotation;
mod scale;
mod sessions;
mod traces;
mod traffic;
mod upgrade;
mod world;
