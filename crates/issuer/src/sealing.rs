//! Secrets at rest: AES-256-GCM (NIST SP 800-38D) under keys that the operator of the issuer gives and can change.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, Salt},
};
use zeroize::Zeroizing;

/// Seals with the first key, opens with any: a new key is put first, and the old ones stay until nothing is sealed by them.
pub struct SealingKeys(Vec<SealingKey>);

struct SealingKey {
    id: [u8; ID_BYTES],
    key: RandomizedNonceKey,
}

/// A key's id is derived from it, so that nobody has to number keys.
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const VERSION: u8 = 1;
/// The fewest bytes of a text that keys are derived from.
pub const MIN_KEY_BYTES: usize = 16;

/// Why something was not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealingError {
    /// No text to derive a key from, or too short a one.
    #[error("a key for sealing has at least {MIN_KEY_BYTES} bytes")]
    WeakKey,
    /// Sealed by a key that isn't among these.
    #[error("it was sealed by a key that isn't configured any more; put that key back behind the present one")]
    UnknownKey,
    /// Changed since it was sealed, or sealed for another place.
    #[error("what was sealed was changed, or belongs elsewhere")]
    Damaged,
    /// The system's random numbers failed.
    #[error("the system gave no random numbers")]
    NoRandomness,
}

impl SealingKeys {
    /// Keys derived (HKDF-SHA-256, RFC 5869) from texts, the one to seal with first.
    pub fn derive<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, SealingError> {
        let keys = texts.into_iter().map(SealingKey::derive).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(SealingError::WeakKey) } else { Ok(Self(keys)) }
    }

    /// Seals a secret for one place, such as one account's second factor: it opens nowhere else.
    pub fn seal(&self, secret: &[u8], place: &str) -> Result<Vec<u8>, SealingError> {
        let key = self.0.first().ok_or(SealingError::UnknownKey)?;
        let mut sealed = Zeroizing::new(secret.to_vec());
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut *sealed)
            .map_err(|_| SealingError::NoRandomness)?;
        Ok([&[VERSION][..], &key.id, nonce.as_ref(), &sealed].concat())
    }

    /// What the key that seals now is called.
    pub fn present_id(&self) -> String {
        self.0.first().map(|key| hex::encode(key.id)).unwrap_or_default()
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, sealed: &[u8], place: &str) -> Result<Zeroizing<Vec<u8>>, SealingError> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(SealingError::Damaged)?;
        let (id, rest) = rest.split_at_checked(ID_BYTES).ok_or(SealingError::Damaged)?;
        let (nonce, content) = rest.split_at_checked(NONCE_BYTES).ok_or(SealingError::Damaged)?;
        let key = self.0.iter().find(|key| key.id == id).ok_or(SealingError::UnknownKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealingError::Damaged)?;
        let mut content = Zeroizing::new(content.to_vec());
        let length = key
            .key
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut content)
            .map_err(|_| SealingError::Damaged)?
            .len();
        content.truncate(length);
        Ok(content)
    }

    /// Whether the key that seals now sealed this. If not, seal it anew.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        let id = sealed.get(1..=ID_BYTES);
        self.0.first().is_some_and(|key| sealed.first() == Some(&VERSION) && id == Some(&key.id))
    }
}

impl SealingKey {
    fn derive(text: &[u8]) -> Result<Self, SealingError> {
        struct Length(usize);
        impl aws_lc_rs::hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        if text.len() < MIN_KEY_BYTES {
            return Err(SealingError::WeakKey);
        }
        let secret = Salt::new(HKDF_SHA256, b"countersign sealing 1").extract(text);
        let fill = |info: &[u8], out: &mut [u8]| {
            let length = Length(out.len());
            secret.expand(&[info], length).and_then(|okm| okm.fill(out)).map_err(|_| SealingError::WeakKey)
        };
        let (mut key, mut id) = (Zeroizing::new([0; 32]), [0; ID_BYTES]);
        fill(b"key", &mut *key)?;
        fill(b"id", &mut id)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(|_| SealingError::WeakKey)?;
        Ok(Self { id, key })
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = b"the key of last year";
    const NEW: &[u8] = b"the key of this year";

    fn keys(texts: &[&[u8]]) -> SealingKeys {
        SealingKeys::derive(texts.iter().copied()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let keys = keys(&[NEW]);
        let sealed = keys.seal(b"secret", "totp/shop/shop/ann").unwrap();
        assert_eq!(**keys.open(&sealed, "totp/shop/shop/ann").unwrap(), *b"secret");
        assert_eq!(keys.open(&sealed, "totp/shop/shop/bob").unwrap_err(), SealingError::Damaged);
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(keys.seal(b"secret", "totp/shop/shop/ann").unwrap(), sealed, "a nonce of its own");
        assert_eq!(format!("{keys:?}"), "SealingKeys(1)");
    }

    #[test]
    fn no_byte_of_it_can_be_changed_or_left_out() {
        let keys = keys(&[NEW]);
        let sealed = keys.seal(b"secret", "place").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open(&changed, "place").is_err(), "{at}");
            assert!(keys.open(&sealed[..at], "place").is_err(), "{at}");
        }
    }

    #[test]
    fn an_old_key_opens_until_it_is_taken_away() {
        let sealed = keys(&[OLD]).seal(b"secret", "place").unwrap();
        let both = keys(&[NEW, OLD]);
        assert_eq!(**both.open(&sealed, "place").unwrap(), *b"secret");
        assert!(!both.is_current(&sealed));
        assert!(both.is_current(&both.seal(b"secret", "place").unwrap()));
        assert_eq!(keys(&[NEW]).open(&sealed, "place").unwrap_err(), SealingError::UnknownKey);
        assert!(!both.is_current(b""));
        assert_eq!(both.present_id(), keys(&[NEW]).present_id());
        assert_ne!(both.present_id(), keys(&[OLD]).present_id());
    }

    #[test]
    fn a_guessable_key_is_refused() {
        assert_eq!(SealingKeys::derive([&b"short"[..]]).unwrap_err(), SealingError::WeakKey);
        assert_eq!(SealingKeys::derive([]).unwrap_err(), SealingError::WeakKey);
    }
}
