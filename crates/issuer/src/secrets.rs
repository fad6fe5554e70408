//! What an issuer derives from the one secret that it is given.

use std::fmt;

use aws_lc_rs::{hmac, rand};
use countersign_store::SecretHash;
use zeroize::Zeroizing;

use crate::sealing::{SealingError, SealingKeys};

/// Keys of an issuer. All replicas derive the same. `Debug` hides them.
pub struct Secrets {
    /// For secrets at rest.
    pub(crate) sealing: SealingKeys,
    /// For names of accounts that aren't there, and codes too short to be hashed plainly; the present one first.
    hashing: Vec<hmac::Key>,
}

impl Secrets {
    /// A new text to derive from: 256 random bits.
    pub fn fresh() -> Result<Zeroizing<Vec<u8>>, SealingError> {
        let mut text = Zeroizing::new(vec![0; 32]);
        rand::fill(&mut text).map_err(|_| SealingError::NoRandomness)?;
        Ok(text)
    }

    /// Derived from texts of 16 bytes or more: the first is the present one, the others are those before it, which still open
    /// what they sealed.
    pub fn derive<'a>(texts: impl IntoIterator<Item = &'a [u8]> + Clone) -> Result<Self, SealingError> {
        let sealing = SealingKeys::derive(texts.clone())?;
        let hashing = texts.into_iter().map(|text| {
            let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, text), b"countersign hashing 1");
            hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
        });
        Ok(Self { sealing, hashing: hashing.collect() })
    }

    /// A hash of a text that could be guessed, of no use without the key. `purpose` keeps those of one kind from standing for
    /// another's.
    pub(crate) fn hash(&self, purpose: &str, text: &str) -> SecretHash {
        self.hashes(purpose, text).next().unwrap_or(SecretHash([0; 32]))
    }

    /// The same under each key, the present one first: what was kept under an earlier one is still found.
    pub(crate) fn hashes(&self, purpose: &str, text: &str) -> impl Iterator<Item = SecretHash> {
        self.hashing.iter().map(move |key| {
            let tag = hmac::sign(key, format!("{purpose}\0{text}").as_bytes());
            let mut hash = [0; 32];
            hash.copy_from_slice(tag.as_ref());
            SecretHash(hash)
        })
    }

    /// Enough of such a hash to tell texts apart in the audit trail.
    pub(crate) fn short_hash(&self, purpose: &str, text: &str) -> String {
        hex::encode(&self.hash(purpose, text).0[..8])
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_one_purpose_and_one_key() {
        let one = Secrets::derive([b"0123456789abcdef".as_slice()]).unwrap();
        let other = Secrets::derive([b"fedcba9876543210".as_slice()]).unwrap();
        assert_eq!(one.hash("name", "bob"), one.hash("name", "bob"));
        assert_ne!(one.hash("name", "bob"), one.hash("code", "bob"));
        assert_ne!(one.hash("name", "bob"), other.hash("name", "bob"));
        assert!(Secrets::derive([b"short".as_slice()]).is_err());
        assert!(Secrets::derive([]).is_err());
        assert_eq!(format!("{one:?}"), "Secrets(…)");
    }
}
