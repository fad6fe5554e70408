//! Key sets of trusted issuers, fetched by the operator.

use countersign_core::jose::JwkSet;

/// What fetching a trusted issuer's key set has given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForeignKeys {
    /// The last good set; absent: there was none in this process's time.
    pub keys: Option<JwkSet>,
    /// Why the latest attempt failed, for people; absent: it didn't.
    pub problem: Option<String>,
}
