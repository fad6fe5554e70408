//! Trusted issuers' key sets: fetched in the background, kept when a fetch fails, never fetched for a request.
//!
//! In directory mode the verifier fetches; in a cluster the operator alone does, and hands the sets on in bundles. Both obey
//! the same rules ([`FetchRules`]), which keep a policy's author from using us against others.
//!
//! What else goes to an address that a policy's author named goes by the same rules: [`Outbound`] where that is http, [`Reach`]
//! for what isn't.
//!
//! This crate must not know of policies, bundles or Kubernetes.

mod address;
mod client;
mod follower;
mod outbound;

use countersign_core::{digest::sha256, jose::Algorithm};

pub use client::{Client, FetchError};
pub use follower::{Fetched, Followers};
pub use outbound::{ClientError, FetchRules, Outbound, OutboundError, Reach};

/// Where a key set comes from, and what its keys may be used for. Policies that agree on both share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Where it comes from.
    pub place: Place,
    /// A set without a key for one of these is no set. In ascending order.
    pub algorithms: Vec<Algorithm>,
}

/// A key set's own URL, or an issuer whose discovery document names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The set's URL.
    Url(String),
    /// The issuer.
    Discovery(String),
}

impl Target {
    /// `None` for an entry that names neither URL nor issuer.
    pub fn new(url: Option<&str>, issuer: Option<&str>, algorithms: &[Algorithm]) -> Option<Self> {
        let place = match (url, issuer) {
            (Some(url), _) => Place::Url(url.to_owned()),
            (None, Some(issuer)) => Place::Discovery(issuer.to_owned()),
            (None, None) => return None,
        };
        let mut algorithms = algorithms.to_vec();
        algorithms.sort_unstable();
        Some(Self { place, algorithms })
    }

    /// What tells it from every other.
    pub fn digest(&self) -> String {
        hex::encode(&sha256(format!("{self:?}").as_bytes())[..16])
    }

    /// The name of its file among saved ones.
    pub fn file_name(&self) -> String {
        format!("{}.json", self.digest())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Url(url) => f.write_str(url),
            Place::Discovery(issuer) => write!(f, "the discovery document of {issuer}"),
        }
    }
}
