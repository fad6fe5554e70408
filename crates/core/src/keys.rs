//! Keys: what verifies, what signs, and which of them belong together.
//!
//! A key decides its algorithm; a token only repeats it. Public keys are parsed once, when a policy is loaded, so that a
//! verification does nothing but the arithmetic.

mod material;
mod set;
mod signing;
mod verifying;

pub use set::{KeyEntry, KeySet, LoadedKeys, MAX_KEYS_IN_SET, load_jwks};
pub use signing::{SigningKey, SigningKeyError};
pub use verifying::{KeyError, VerifyingKey};
