//! Declared sessions: from a Session object to a Secret with a token that is always good.
//!
//! One reconciler with one job: **observe** (the Session, its policy's view, the Secret, what the feed has ended), **plan**
//! ([`plan()`], a pure function of that), **apply** (end what must end, durably; then the Secret), **status** (patched only on
//! change). What holds always:
//! - A session id stands in the status before a token carries it, so every token that may live can be ended by name.
//! - A session id is ended in its policy's bundle before the status says so.
//! - A Secret is written only when this Session's uid is on it and nobody else made it.
//! - What the caches hold may be older than what was written: every write names the version that it was decided on.

mod apply;
mod delivered;
mod delivering;
mod lately;
mod owners;
mod plan;
mod queue;
mod secret;
mod status;
mod steps;
mod times;
mod work;

pub use self::work::run;

#[cfg(test)]
pub(crate) mod tests;
