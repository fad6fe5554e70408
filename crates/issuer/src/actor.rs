//! Who makes an administrator's call, as the audit trail names them.

use countersign_core::check::Authenticated;
use serde_json::{Value, json};

/// An administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// Whoever could open the admin socket: a user of this machine, by the system's number.
    Socket {
        /// The number, where the system told it.
        uid: Option<u32>,
    },
    /// Whoever showed a token that permits it.
    Token {
        /// Its `iss`.
        issuer: Option<String>,
        /// Its `sub`.
        subject: String,
        /// Its `jti`.
        token_id: Option<String>,
    },
    /// Somebody whom another vouches for: a user of the cluster.
    Vouched {
        /// The name, as the cluster has it.
        name: String,
    },
}

/// The user at the other end of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerUser(pub(crate) u32);

impl Actor {
    /// Of a token.
    pub(crate) fn of(credential: &Authenticated) -> Self {
        Self::Token {
            issuer: credential.issuer().map(str::to_owned),
            subject: credential.subject().to_owned(),
            token_id: credential.token_id().map(str::to_owned),
        }
    }

    /// As it stands in an event's details.
    pub(crate) fn shown(&self) -> Value {
        match self {
            Self::Socket { uid } => json!({"socket": true, "uid": uid}),
            Self::Vouched { name } => json!({"cluster_user": name}),
            Self::Token { issuer, subject, token_id } => {
                json!({"issuer": issuer, "subject": subject, "token_id": token_id})
            }
        }
    }
}
