//! Key sets of trusted issuers, fetched by the operator.

use std::sync::Arc;

use countersign_core::jose::JwkSet;
use countersign_jwks::Target;

/// What fetching a trusted issuer's key set has given.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignKeys {
    /// Where it was fetched from, and for what. Keys are an entry's only while it still names that place.
    pub target: Target,
    /// The last good set; absent: there was none in this process's time.
    pub keys: Option<Arc<JwkSet>>,
    /// Why the latest attempt failed, for people; absent: it didn't.
    pub problem: Option<String>,
}
