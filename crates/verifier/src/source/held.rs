//! What is held of each policy, and which bundle may take its place. No I/O.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::bundle::{
    self, Bundle, BundleIssuerKeys, CompileError, FetchedKeys, Trust, VerifySecrets, VerifySection,
};
use countersign_core::{jose::JwkSet, names::PolicyName};

use super::{directory::BundleFile, jwks::Target};
use crate::slot::{ListedKey, Loaded, RefusedBundle};

/// Policies in force, by the name of their file.
#[derive(Debug, Default)]
pub(crate) struct Held {
    policies: BTreeMap<String, HeldBundle>,
    /// What lies in the source and isn't in force.
    refused: BTreeMap<String, Refused>,
    /// Generations of saved bundles that can't be used by themselves, for want of secrets: nothing older may come instead.
    floors: BTreeMap<String, u64>,
}

/// A good bundle.
#[derive(Debug)]
struct HeldBundle {
    envelope: Arc<[u8]>,
    secrets_bytes: Option<Arc<[u8]>>,
    bundle: Bundle,
    secrets: Option<VerifySecrets>,
    /// Not in the source any more.
    vanished: bool,
}

/// A bundle that isn't used.
#[derive(Clone, Debug)]
struct Refused {
    file: BundleFile,
    trust_digest: [u8; 32],
    reason: &'static str,
    detail: String,
}

/// What became of the bundles of one reading.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Files whose policy is new; `None`: withdrawn.
    pub(crate) changed: Vec<(String, Option<Loaded>)>,
    /// Refusals that weren't there before.
    pub(crate) refused: Vec<RefusedBundle>,
}

impl Held {
    /// Takes back what was saved. Our own disk is believed: it was checked when it was written.
    pub(crate) fn restore(
        &mut self,
        name: &str,
        envelope: &Arc<[u8]>,
        secrets: Option<Arc<[u8]>>,
        keys: &dyn KeySets,
    ) -> Option<Loaded> {
        let file = BundleFile { content: Ok(envelope.clone()), secrets };
        match self.judge(name, &file, &Trust::FileSystem, keys) {
            Ok((held, loaded)) => {
                self.policies.insert(name.to_owned(), held);
                loaded
            }
            Err((reason, detail)) => {
                if let Ok(bundle) = bundle::open(envelope, &Trust::FileSystem, None) {
                    self.floors.insert(name.to_owned(), bundle.generation);
                }
                tracing::warn!(file = name, reason, detail, "a saved bundle can't be used by itself");
                None
            }
        }
    }

    /// Compares with what the source holds now.
    pub(crate) fn update(
        &mut self,
        files: &BTreeMap<String, BundleFile>,
        trust: &Trust,
        trust_digest: [u8; 32],
        keys: &dyn KeySets,
    ) -> Changes {
        let mut changes = Changes::default();
        for (name, file) in files {
            if let Some(held) = self.policies.get_mut(name) {
                held.vanished = false;
                let same = file.content.as_ref().is_ok_and(|content| **content == *held.envelope);
                if same && (file.secrets == held.secrets_bytes || held.bundle_needs_no_secrets()) {
                    self.refused.remove(name);
                    continue;
                }
            }
            let known = self.refused.get(name).is_some_and(|r| r.file == *file && r.trust_digest == trust_digest);
            if known {
                continue;
            }
            match self.judge(name, file, trust, keys) {
                Ok((held, loaded)) => {
                    self.policies.insert(name.clone(), held);
                    self.refused.remove(name);
                    self.floors.remove(name);
                    changes.changed.push((name.clone(), loaded));
                }
                Err((reason, detail)) => {
                    let refused = Refused { file: file.clone(), trust_digest, reason, detail };
                    changes.refused.push(self.refused_bundle(name, &refused));
                    self.refused.insert(name.clone(), refused);
                }
            }
        }
        self.refused.retain(|name, _| files.contains_key(name));
        for (name, held) in &mut self.policies {
            held.vanished = !files.contains_key(name);
        }
        changes
    }

    fn judge(
        &self,
        name: &str,
        file: &BundleFile,
        trust: &Trust,
        keys: &dyn KeySets,
    ) -> Result<(HeldBundle, Option<Loaded>), (&'static str, String)> {
        let envelope = file.content.clone().map_err(|unreadable| ("unreadable", unreadable.0))?;
        let held = self.policies.get(name).map(|held| held.bundle.generation);
        let generation = held.max(self.floors.get(name).copied());
        let opened = bundle::open(&envelope, trust, generation).map_err(|e| (e.reason(), e.to_string()))?;
        if bundle::file_name(&opened.policy) != name {
            let refusal = bundle::BundleRefusal::WrongName(opened.policy);
            return Err((refusal.reason(), refusal.to_string()));
        }
        let wanted = opened.verify.as_ref().and_then(|v| v.secrets_sha256.as_deref());
        let secrets = match wanted {
            None => None,
            Some(expected) => {
                let bytes = file.secrets.as_ref().ok_or_else(|| of_compile(&CompileError::SecretsMissing))?;
                Some(VerifySecrets::parse(bytes, expected).map_err(|e| of_compile(&e.into()))?)
            }
        };
        let held = HeldBundle {
            envelope,
            secrets_bytes: secrets.is_some().then(|| file.secrets.clone()).flatten(),
            bundle: opened,
            secrets,
            vanished: false,
        };
        // Only what compiles is good.
        let loaded = held.compile(keys).map_err(|e| of_compile(&e))?;
        Ok((held, loaded))
    }

    /// The policy of a file, compiled with the key sets that are known now; `None` for one that was withdrawn.
    pub(crate) fn compile(&self, name: &str, keys: &dyn KeySets) -> Option<Result<Loaded, CompileError>> {
        self.policies.get(name)?.compile(keys).transpose()
    }

    /// Whether anything is held at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// A bundle in force, or the tombstone that is.
    pub(crate) fn bundle(&self, name: &str) -> Option<&Bundle> {
        Some(&self.policies.get(name)?.bundle)
    }

    /// What to save of a policy. Secrets only where none of them is a symmetric key: those never lie on a node's disk.
    pub(crate) fn to_save(&self, name: &str) -> Option<(&[u8], Option<&[u8]>)> {
        let held = self.policies.get(name)?;
        let saveable = held.secrets.as_ref().is_some_and(|s| s.symmetric.is_empty());
        Some((&held.envelope, held.secrets_bytes.as_deref().filter(|_| saveable)))
    }

    /// The generations in force.
    pub(crate) fn generations(&self) -> BTreeMap<String, u64> {
        self.policies.values().map(|held| (held.bundle.policy.to_string(), held.bundle.generation)).collect()
    }

    /// Everything that isn't as the source's writer would want it.
    pub(crate) fn refused(&self) -> Vec<RefusedBundle> {
        let refused = self.refused.iter().map(|(name, refused)| self.refused_bundle(name, refused));
        let vanished = self.policies.values().filter(|held| held.vanished && held.bundle.verify.is_some());
        refused.chain(vanished.map(HeldBundle::as_vanished)).collect()
    }

    /// Files that are there without anything good ever having been: their policies aren't unknown.
    pub(crate) fn unready(&self) -> Vec<String> {
        self.refused.keys().filter(|name| !self.policies.contains_key(*name)).cloned().collect()
    }

    /// The key sets that must be fetched.
    pub(crate) fn targets(&self) -> BTreeMap<Target, Vec<String>> {
        let mut targets: BTreeMap<Target, Vec<String>> = BTreeMap::new();
        for (name, held) in &self.policies {
            for target in held.targets() {
                targets.entry(target.1).or_default().push(name.clone());
            }
        }
        targets
    }

    /// Which key set a policy's trusted issuer has, if it is a fetched one.
    pub(crate) fn target_of(&self, policy: &PolicyName, issuer: &str) -> Option<Target> {
        let held = self.policies.get(&bundle::file_name(policy))?;
        held.targets().find(|(entry, _)| *entry == issuer).map(|(_, target)| target)
    }

    fn refused_bundle(&self, name: &str, refused: &Refused) -> RefusedBundle {
        let held = self.policies.get(name).map(|held| &held.bundle);
        RefusedBundle {
            policy: held.map_or_else(|| name.to_owned(), |b| b.policy.to_string()),
            held: held.map(|b| b.generation),
            reason: refused.reason,
            detail: refused.detail.clone(),
        }
    }
}

/// Key sets by what they are fetched from.
pub(crate) trait KeySets {
    fn key_set(&self, target: &Target) -> Option<Arc<JwkSet>>;
}

impl HeldBundle {
    fn bundle_needs_no_secrets(&self) -> bool {
        self.bundle.verify.as_ref().is_none_or(|v| v.secrets_sha256.is_none())
    }

    fn as_vanished(&self) -> RefusedBundle {
        RefusedBundle {
            policy: self.bundle.policy.to_string(),
            held: Some(self.bundle.generation),
            reason: "vanished",
            detail: "the bundle is gone from its source; only a withdrawn one ends a policy".into(),
        }
    }

    fn targets(&self) -> impl Iterator<Item = (&str, Target)> {
        self.bundle.verify.iter().flat_map(|v| &v.trusted_issuers).filter_map(|entry| match &entry.keys {
            BundleIssuerKeys::Fetch { url } => {
                let target = Target::new(url.as_deref(), entry.issuer.as_deref(), &entry.algorithms)?;
                Some((entry.name.as_str(), target))
            }
            BundleIssuerKeys::Jwks(_) | BundleIssuerKeys::Secret => None,
        })
    }

    fn compile(&self, keys: &dyn KeySets) -> Result<Option<Loaded>, CompileError> {
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

fn of_compile(error: &CompileError) -> (&'static str, String) {
    (error.reason(), error.to_string())
}
