//! Trusted issuers' key sets: fetched in the background, kept when a fetch fails, never fetched for a request.

mod address;
mod client;
mod follower;

use countersign_core::{digest::sha256, jose::Algorithm};

pub(crate) use client::{Client, FetchError};
pub use client::{ClientError, FetchRules};
pub(crate) use follower::{Fetched, Followers};

/// Where a key set comes from, and what its keys may be used for. Policies that agree on both share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) place: Place,
    /// A set without a key for one of these is no set.
    pub(crate) algorithms: Vec<Algorithm>,
}

/// A key set's own URL, or an issuer whose discovery document names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Url(String),
    Discovery(String),
}

impl Target {
    /// `None` for an entry that names neither URL nor issuer.
    pub(crate) fn new(url: Option<&str>, issuer: Option<&str>, algorithms: &[Algorithm]) -> Option<Self> {
        let place = match (url, issuer) {
            (Some(url), _) => Place::Url(url.to_owned()),
            (None, Some(issuer)) => Place::Discovery(issuer.to_owned()),
            (None, None) => return None,
        };
        let mut algorithms = algorithms.to_vec();
        algorithms.sort_unstable();
        Some(Self { place, algorithms })
    }

    /// The name of its file among saved ones.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.json", hex::encode(&sha256(format!("{self:?}").as_bytes())[..16]))
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
