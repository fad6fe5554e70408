//! What comes next in a rotation, and what is held after it.

use std::sync::Arc;

use countersign_core::{jose::Algorithm, keys::SigningKey, time::UnixMillis};

use crate::policies::signing::{Held, HeldKey, SigningError};

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Make a key and publish it; the rotation that was asked for.
    Publish(String),
    /// Sign with the newest, once everybody trusts it.
    SignOnceTrusted(String),
    /// Have everything signed anew, then remove the others.
    RemoveOthers,
}

/// What comes next, where `asked` is the annotation's value.
pub(super) fn step(held: &Held, asked: Option<&str>) -> Step {
    let newest = held.keys.last().map_or("", |key| key.signing.kid());
    if held.signer.signing.kid() != newest {
        return Step::SignOnceTrusted(newest.to_owned());
    }
    match asked {
        _ if held.keys.len() > 1 => Step::RemoveOthers,
        Some(asked) if !asked.is_empty() && held.handled.as_deref() != Some(asked) => Step::Publish(asked.to_owned()),
        _ => Step::Nothing,
    }
}

impl Held {
    pub(super) fn with_new_key(&self, asked: String, now: UnixMillis) -> Result<Self, SigningError> {
        let key = HeldKey::new(SigningKey::generate(Algorithm::EdDSA)?, now)?;
        let keys = self.keys.iter().cloned().chain([Arc::new(key)]).collect();
        Ok(Self { keys, handled: Some(asked), ..self.clone() })
    }

    pub(super) fn signed_by_newest(&self) -> Self {
        let signer = self.keys.last().unwrap_or(&self.signer).clone();
        Self { signer, ..self.clone() }
    }

    pub(super) fn without_others(&self) -> Self {
        Self { keys: vec![self.signer.clone()], ..self.clone() }
    }
}
