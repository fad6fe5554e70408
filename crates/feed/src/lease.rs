//! Who follows the feed, and what each has applied.

use countersign_core::revocation::Position;
use serde::{Deserialize, Serialize};

/// The largest acknowledgement that is written.
pub const MAX_ACK_BYTES: usize = 64 << 10;

/// The longest name of a reader, bytes: as long as a pod's or a host's.
pub const MAX_LEASE_NAME: usize = 253;

/// Whether a reader may go by this name: it is shown in status and logs, and kept in objects.
pub fn is_lease_name(name: &str) -> bool {
    (1..=MAX_LEASE_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// What the name under which an issuer's pod writes its lease begins with; the pod's name follows. No verifier goes by such a name.
pub const ISSUER_PREFIX: &str = "issuer:";

/// How many refused policies an acknowledgement lists: with names as long as they may be, it stays under [`MAX_ACK_BYTES`].
pub const MAX_REFUSED: usize = 128;

/// What a verifier has applied *and saved*. Written after the swap; withdrawn first thing at its start.
///
/// An issuer says by `history` and `revision` up to which version of the API server its watch of the key rings is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The run of the verifier that says so.
    pub start_id: String,
    /// The history of the bundles' source, as the source gives it: acknowledgements of another history don't count.
    pub history: String,
    /// Up to which revision of the source everything is applied. In directory mode, the digest of what was read.
    pub revision: String,
    /// What it holds of each policy: generation by name.
    #[serde(default)]
    pub generations: std::collections::BTreeMap<String, u64>,
    /// The bundle schemas that it reads.
    pub schemas: Vec<u32>,
    /// The keys whose signatures on bundles it trusts, by id.
    #[serde(default)]
    pub trusted_bundle_keys: Vec<String>,
    /// Policies whose latest bundle it refused: at most [`MAX_REFUSED`].
    #[serde(default)]
    pub refused: Vec<RefusedPolicy>,
    /// More were refused than are listed: any that isn't listed may be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused_more: bool,
    /// The highest generation that it holds of any policy: whatever is written from now on has to be above.
    #[serde(default)]
    pub highest_held: u64,
    /// Trusted issuers of whom tokens came lately that name a key which isn't in the bundle: their key sets want fetching.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_keys: Vec<UnknownIssuerKey>,
}

/// A trusted issuer whose key set in the bundle lacks a key that tokens name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownIssuerKey {
    /// The policy.
    pub policy: String,
    /// The name of its entry.
    pub trusted_issuer: String,
}

/// A policy whose latest bundle a verifier refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPolicy {
    /// Its name.
    pub policy: String,
    /// The generation that it still serves, if any.
    pub held: Option<u64>,
    /// Why, as a metric word.
    pub reason: String,
}

/// A live reader of the feed: a verifier, or an issuer ([`Lease::issuer`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name: unique in the fleet.
    pub name: String,
    /// Up to where it holds the feed.
    pub position: Option<Position>,
    /// What it has applied; absent until it says so.
    pub ack: Option<Ack>,
}

impl Lease {
    /// The issuer's pod that it is of; absent: it is a verifier's.
    pub fn issuer(&self) -> Option<&str> {
        self.name.strip_prefix(ISSUER_PREFIX)
    }
}
