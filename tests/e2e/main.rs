//! End to end: the real `countersign` and `countersign-verifier`, a real Redis, and nothing of the workspace's own code, so
//! that what is tested is what others see.
//!
//! In `cluster`, the same on a real Kubernetes control plane: `countersign-operator` and verifiers under pods' names.
//!
//! `rig` starts and stops the parts, `forge` makes tokens (good and otherwise) with an independent implementation, `http`
//! speaks HTTP byte by byte. The tests are in `attacks` (on an issuer), `clients` (others' programs), `contract` (every call),
//! `corpus` (forged, malformed and abusive requests), `faults` (what Redis, processes, disks and clocks do), `history` (positions),
//! `load` (slow and many clients), `people` (their accounts) and `traces`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod attacks;
mod clients;
mod cluster;
mod contract;
mod corpus;
mod demo;
mod faults;
mod forge;
mod history;
mod http;
mod load;
mod made_up;
mod people;
mod rig;
mod traces;
