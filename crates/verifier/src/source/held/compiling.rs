//! From a held bundle to what requests are judged by.

use std::sync::Arc;

use countersign_api::bundle::{self, BundleIssuerKeys, CompileError, FetchedKeys, VerifySection};
use countersign_core::jose::JwkSet;

use super::{super::jwks::Target, HeldBundle, Refusal};
use crate::slot::{ListedKey, Loaded, RefusedBundle};

/// Key sets by what they are fetched from.
pub(crate) trait KeySets {
    fn key_set(&self, target: &Target) -> Option<Arc<JwkSet>>;
}

impl HeldBundle {
    pub(super) fn bundle_needs_no_secrets(&self) -> bool {
        self.bundle.verify.as_ref().is_none_or(|v| v.secrets_sha256.is_none())
    }

    pub(super) fn refused_for(&self, why: &Refusal) -> RefusedBundle {
        RefusedBundle {
            policy: self.bundle.policy.to_string(),
            held: Some(self.bundle.generation),
            reason: why.reason,
            detail: why.detail.clone(),
        }
    }

    pub(super) fn as_vanished(&self) -> RefusedBundle {
        let detail = "the bundle is gone from its source; only a withdrawn one ends a policy".into();
        self.refused_for(&Refusal { reason: "vanished", detail })
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = (&str, Target)> {
        self.bundle.verify.iter().flat_map(|v| &v.trusted_issuers).filter_map(|entry| match &entry.keys {
            BundleIssuerKeys::Fetch { url } => {
                let target = Target::new(url.as_deref(), entry.issuer.as_deref(), &entry.algorithms)?;
                Some((entry.name.as_str(), target))
            }
            BundleIssuerKeys::Jwks(_) | BundleIssuerKeys::Secret => None,
        })
    }

    pub(super) fn compile(&self, keys: &dyn KeySets) -> Result<Option<Loaded>, CompileError> {
        let Some(section) = &self.bundle.verify else { return Ok(None) };
        let fetched: FetchedKeys = self
            .targets()
            .filter_map(|(name, target)| Some((name.to_owned(), (*keys.key_set(&target)?).clone())))
            .collect();
        let compiled = bundle::compile(&self.bundle, self.secrets.as_ref(), &fetched)?;
        for skipped in &compiled.skipped {
            tracing::warn!(policy = %self.bundle.policy, issuer = skipped.issuer, kid = skipped.kid, error = %skipped.error, "a key of a trusted issuer is not used");
        }
        Ok(Some(Loaded {
            keys: listed_keys(section),
            prepublish_ms: section.prepublish_ms,
            cookie_prefix: section.cookie_prefix.clone(),
            // What a rotation stops waiting for must have begun to fail safe long before.
            unconfirmed_after_ms: section.absent_after_ms / 2,
            policy: compiled.policy,
        }))
    }
}

fn listed_keys(section: &VerifySection) -> Vec<ListedKey> {
    let state = |key: &bundle::BundleKey| serde_json::to_value(key.state).ok().and_then(|v| v.as_str().map(str::to_owned));
    section
        .keys
        .iter()
        .map(|key| ListedKey {
            kid: key.jwk.kid.clone().unwrap_or_default(),
            ring: key.ring.word(),
            alg: key.jwk.alg.clone().unwrap_or_default(),
            state: state(key).unwrap_or_default(),
        })
        .collect()
}
