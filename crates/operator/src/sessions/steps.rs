//! What there is to do about a session, and what its status shall say.

use countersign_core::time::UnixMillis;

use super::{delivered::Delivered, times::Ends};

/// What to do, in this order; the status comes last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) outcome: Outcome,
    /// When to look again, if nothing happens before.
    pub(super) wake: Option<UnixMillis>,
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// See to it that the session doesn't go before it is ended.
    Protect,
    /// End a session id on every verifier.
    End {
        session_id: String,
        /// Until then a token of it may live.
        until: UnixMillis,
    },
    /// Note a new session id in the status, before any token carries it.
    Begin { session_id: String },
    /// Make a token and write the Secret.
    Deliver { session_id: String, ends: Ends, first: bool },
    /// Write the Secret around the token that is in it.
    Refresh { ends: Ends },
    /// Delete a Secret that is no longer asked for.
    Discard { name: String },
    /// Let the session go.
    Release,
}

/// What the status shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A good token is delivered: this one, or the one that the steps make.
    Issued { session_id: String, token: Option<Delivered> },
    /// Somebody has to decide or edit something.
    Refused { reason: Reason, message: String },
    /// It goes on by itself, as soon as that is over. A token that still lives is as good as before.
    Waiting { message: String, token: Option<Delivered> },
    /// What it says already.
    #[default]
    Unchanged,
}

/// Why a session has no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    PolicyNotFound,
    NotPermitted,
    SecretConflict,
    Suspended,
    Expired,
}

impl Reason {
    /// The condition's reason.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyNotFound => "PolicyNotFound",
            Self::NotPermitted => "NotPermitted",
            Self::SecretConflict => "SecretConflict",
            Self::Suspended => "Suspended",
            Self::Expired => "Expired",
        }
    }

    /// Whether the session id is over with it: what comes after gets another one.
    pub(super) const fn forgets_session(self) -> bool {
        matches!(self, Self::NotPermitted | Self::Suspended)
    }
}
