//! Events: what people see under `kubectl describe`. Never in the way of work: a full queue drops them, and the log has them.

mod telling;

use std::sync::Arc;

use countersign_api::cluster::FIELD_MANAGER;
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::Client;
use tokio::sync::mpsc;

use self::telling::{Said, Teller};
use crate::registry::{EventFate, Registry};

/// How many may wait to be written.
const WAITING: usize = 2048;
/// The longest note that the API server takes, bytes.
const MAX_NOTE: usize = 1024;

/// Where events go.
#[derive(Clone, Debug)]
pub struct Events {
    waiting: mpsc::Sender<Said>,
    registry: Arc<Registry>,
}

impl Events {
    /// Begins to write events, one after the other, in a task of its own that ends with the last handle.
    /// What becomes of them is counted in `registry`.
    pub fn new(client: Client, identity: &str, registry: Arc<Registry>) -> Self {
        let mut teller = Teller::new(client, FIELD_MANAGER, identity);
        let (sender, mut waiting) = mpsc::channel::<Said>(WAITING);
        let counted = registry.clone();
        tokio::spawn(async move {
            while let Some(said) = waiting.recv().await {
                let fate = match teller.tell(&said, Timestamp::now()).await {
                    Ok(()) => EventFate::Written,
                    Err(error) => {
                        tracing::debug!(%error, reason = said.reason, "an event could not be written");
                        EventFate::Failed
                    }
                };
                counted.counts().events.count(fate);
            }
        });
        Self { waiting: sender, registry }
    }

    /// Something that is as it should be.
    pub fn normal(&self, regarding: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.send("Normal", regarding, reason, &note.into());
    }

    /// Something that a person should look at.
    pub fn warning(&self, regarding: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.send("Warning", regarding, reason, &note.into());
    }

    fn send(&self, type_: &'static str, regarding: &ObjectReference, reason: &str, note: &str) {
        let said = Said { type_, reason: reason.to_owned(), note: bounded(note).to_owned(), regarding: regarding.clone() };
        if self.waiting.try_send(said).is_err() {
            self.registry.counts().events.count(EventFate::Dropped);
            tracing::debug!(reason, "too many events at once; this one is dropped");
        }
    }
}

/// As much of a note as is taken.
fn bounded(note: &str) -> &str {
    &note[..note.floor_char_boundary(MAX_NOTE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_by_bytes_and_between_characters() {
        for (note, expected) in [
            ("short".to_owned(), 5),
            ("a".repeat(1024), 1024),
            ("a".repeat(1025), 1024),
            ("ü".repeat(600), 1024),
            (format!("a{}", "ü".repeat(600)), 1023),
        ] {
            assert_eq!(bounded(&note).len(), expected, "{}", note.len());
        }
    }
}
