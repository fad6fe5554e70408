//! The `countersign` command, run as a user would.

mod dev;
mod documented;
mod environment;
mod keys;
mod policies;
mod rig;
mod toolkit;
