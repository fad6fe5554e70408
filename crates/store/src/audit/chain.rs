//! The chain as a value: each event's hash covers the event and the hash before it.

use aws_lc_rs::digest::{Context, SHA256};

use super::{AuditEvent, KeptEvent};

/// A place in a policy's chain. The first event's place is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Rises by one.
    pub place: i64,
    /// SHA-256 of the hash before it and the event.
    pub hash: [u8; 32],
}

/// A chain as far as it was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    head: Link,
}

/// Why an event does not continue a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// Events between were removed, or put in.
    #[error("event {found} stands where event {expected} should")]
    Place {
        /// The place that comes next.
        expected: i64,
        /// The place that came.
        found: i64,
    },
    /// It was changed, or what was before it.
    #[error("event {place} is not what was sealed")]
    Hash {
        /// Its place.
        place: i64,
    },
    /// The chain up to here was made anew.
    #[error("event {place} is sealed otherwise than it was when its hash was logged")]
    Rewritten {
        /// Its place.
        place: i64,
    },
    /// It was never sealed.
    #[error("event {id} is not in the chain")]
    Unsealed {
        /// Its number.
        id: i64,
    },
    /// The last events were removed.
    #[error("the chain ends at event {found}, and was sealed up to event {expected}")]
    End {
        /// Where it should end.
        expected: i64,
        /// Where it does.
        found: i64,
    },
}

/// Names the encoding, so that another may follow it one day.
const ENCODING: &[u8] = b"countersign audit 1\0";

impl Chain {
    /// A chain that goes on from `head`: of a policy without events [`Chain::EMPTY`].
    pub const fn from(head: Link) -> Self {
        Self { head }
    }

    /// A chain without events.
    pub const EMPTY: Self = Self { head: Link { place: 0, hash: [0; 32] } };

    /// Where it ends.
    pub const fn head(&self) -> Link {
        self.head
    }

    /// Adds an event.
    pub fn push(&mut self, event: &AuditEvent) -> Link {
        let place = self.head.place.saturating_add(1);
        self.head = Link { place, hash: hash(&self.head.hash, place, event) };
        self.head
    }

    /// Follows an event that says to be the next.
    pub fn follow(&mut self, kept: &KeptEvent) -> Result<(), Break> {
        let link = kept.link.ok_or(Break::Unsealed { id: kept.id })?;
        let mut next = *self;
        let expected = next.push(&kept.event);
        if link.place != expected.place {
            return Err(Break::Place { expected: expected.place, found: link.place });
        }
        if link.hash != expected.hash {
            return Err(Break::Hash { place: link.place });
        }
        *self = next;
        Ok(())
    }
}

/// The canonical encoding: every field in order, each led by its length, an absent one told from an empty one.
fn hash(before: &[u8; 32], place: i64, event: &AuditEvent) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(ENCODING);
    context.update(before);
    context.update(&place.to_be_bytes());
    context.update(&event.time.0.to_be_bytes());
    let fields = [
        Some(event.policy.as_str()),
        Some(event.kind.as_str()),
        Some(event.severity.word()),
        event.subject.as_deref(),
        event.session.as_deref(),
        event.ip.as_deref(),
        event.user_agent.as_deref(),
        event.request.as_deref(),
        Some(event.details.as_str()),
    ];
    for field in fields {
        match field {
            None => context.update(&[0]),
            Some(text) => {
                context.update(&[1]);
                context.update(&(text.len() as u64).to_be_bytes());
                context.update(text.as_bytes());
            }
        }
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}
