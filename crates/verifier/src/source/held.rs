//! What is held of each policy, and which bundle may take its place. No I/O.

mod compiling;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use countersign_api::bundle::{self, Bundle, CompileError, Trust, VerifySecrets};
use countersign_core::names::PolicyName;
use countersign_process::Trusted;

pub(crate) use compiling::KeySets;

use super::jwks::Target;
use crate::slot::{Loaded, RefusedBundle};

/// Policies in force, by the name of their file.
#[derive(Debug, Default)]
pub(crate) struct Held {
    policies: BTreeMap<String, HeldBundle>,
    /// What lies in the source and isn't in force.
    refused: BTreeMap<String, Refused>,
    /// Generations of saved bundles that can't be used by themselves, for want of secrets: nothing older may come instead.
    floors: BTreeMap<String, u64>,
    /// Policies in force that are gone from the source.
    vanished: BTreeSet<String>,
    /// Policies in force whose bundle nobody would take now: the key that signed it is trusted no more.
    distrusted: BTreeMap<String, Refusal>,
}

/// Something that the source calls a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) content: Content,
    pub(crate) secrets: Option<Arc<[u8]>>,
    /// Whose bundle it is by its name, where that can be told without opening it.
    pub(crate) policy: Option<PolicyName>,
}

/// What a bundle's file or object holds.
pub(crate) type Content = Result<Arc<[u8]>, Unreadable>;

/// There, and can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) String);

/// A good bundle.
#[derive(Debug)]
struct HeldBundle {
    envelope: Arc<[u8]>,
    secrets_bytes: Option<Arc<[u8]>>,
    bundle: Bundle,
    secrets: Option<VerifySecrets>,
    /// The generation that lies on disk.
    saved: Option<u64>,
}

/// A bundle that isn't used.
#[derive(Clone, Debug)]
struct Refused {
    offer: Offer,
    trust_digest: [u8; 32],
    why: Refusal,
}

/// Why a bundle isn't used: a word of a fixed set, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

/// The word for a bundle whose verify-secrets aren't there, or are others.
pub(crate) const SECRETS: &str = "secrets";

/// What became of an offer.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Known, whether good or not; `true`: what was said against it is no longer true.
    Same(bool),
    /// In force from now on; `None`: withdrawn.
    Changed(Option<Box<Loaded>>),
    /// Not used, and that is news.
    Refused(RefusedBundle),
    /// Not used for want of its verify-secrets, and not put down as refused: they may come.
    WantsSecrets,
}

impl Held {
    /// Takes back what was saved. Our own disk is believed: it was checked when it was written. Says whether the bundle could be
    /// read at all.
    pub(crate) fn restore(
        &mut self,
        name: &str,
        envelope: &Arc<[u8]>,
        secrets: Option<Arc<[u8]>>,
        keys: &dyn KeySets,
    ) -> Result<Option<Loaded>, Unusable> {
        let offer = Offer { content: Ok(envelope.clone()), secrets, policy: None };
        match self.judge(name, &offer, &Trust::FileSystem, keys) {
            Ok((mut held, loaded)) => {
                held.saved = Some(held.bundle.generation);
                self.policies.insert(name.to_owned(), held);
                Ok(loaded)
            }
            Err(why) => {
                tracing::warn!(
                    file = name,
                    reason = why.reason,
                    detail = why.detail,
                    "a saved bundle can't be used by itself"
                );
                let Ok(bundle) = bundle::open(envelope, &Trust::FileSystem, None) else { return Err(Unusable(None)) };
                self.floors.insert(name.to_owned(), bundle.generation);
                Err(Unusable(Some(RefusedBundle {
                    policy: bundle.policy.to_string(),
                    held: None,
                    reason: why.reason,
                    detail: why.detail,
                })))
            }
        }
    }

    /// Considers what the source now holds under `name`.
    pub(crate) fn consider(
        &mut self,
        name: &str,
        offer: &Offer,
        secrets_may_come: bool,
        trusted: &Trusted,
        keys: &dyn KeySets,
    ) -> Outcome {
        let returned = self.vanished.remove(name);
        if let Some(held) = self.policies.get(name) {
            let same = offer.content.as_ref().is_ok_and(|content| **content == *held.envelope);
            if same && (offer.secrets == held.secrets_bytes || held.bundle_needs_no_secrets()) {
                return Outcome::Same(self.refused.remove(name).is_some() || returned);
            }
        }
        if self.refused.get(name).is_some_and(|r| r.offer == *offer && r.trust_digest == trusted.digest) {
            return Outcome::Same(returned);
        }
        match self.judge(name, offer, &trusted.trust, keys) {
            Ok((mut held, loaded)) => {
                held.saved = self.policies.get(name).and_then(|before| before.saved);
                self.policies.insert(name.to_owned(), held);
                self.refused.remove(name);
                self.floors.remove(name);
                self.distrusted.remove(name);
                Outcome::Changed(loaded.map(Box::new))
            }
            Err(why) if why.reason == SECRETS && secrets_may_come => Outcome::WantsSecrets,
            Err(why) => {
                let refused = Refused { offer: offer.clone(), trust_digest: trusted.digest, why };
                let told = self.refused_bundle(name, &refused);
                self.refused.insert(name.to_owned(), refused);
                Outcome::Refused(told)
            }
        }
    }

    /// The source holds nothing under `name` any more. True when a policy leaves force by it: one that is neither there nor
    /// trusted. Any other is served on.
    pub(crate) fn vanish(&mut self, name: &str) -> bool {
        self.refused.remove(name);
        if self.distrusted.remove(name).is_some() {
            self.vanished.remove(name);
            return self.policies.remove(name).is_some();
        }
        if self.policies.contains_key(name) {
            self.vanished.insert(name.to_owned());
        }
        false
    }

    /// Everything that is known of but `names` vanishes; the names of policies that left force by it.
    pub(crate) fn keep_only(&mut self, names: &dyn Fn(&str) -> bool) -> Vec<String> {
        let known = self.policies.keys().chain(self.refused.keys());
        let gone: BTreeSet<String> = known.filter(|name| !names(name)).cloned().collect();
        gone.into_iter().filter(|name| self.vanish(name)).collect()
    }

    /// Judges again by whom is trusted now: what is in force stays, but is reported, and no longer keeps older ones out; what is
    /// neither trusted nor in the source leaves force.
    pub(crate) fn rejudge(&mut self, trusted: &Trusted) -> Rejudged {
        let doubtful = self.policies.iter().filter_map(|(name, held)| {
            let error = bundle::open(&held.envelope, &trusted.trust, None).err()?;
            Some((
                name.clone(),
                Refusal { reason: error.reason(), detail: format!("served until another replaces it: {error}") },
            ))
        });
        self.distrusted = doubtful.collect();
        let gone: Vec<String> = self.vanished.iter().filter(|name| self.distrusted.contains_key(*name)).cloned().collect();
        Rejudged {
            withdrawn: gone.into_iter().filter(|name| self.vanish(name)).collect(),
            offers: self.refused.iter().map(|(name, refused)| (name.clone(), refused.offer.clone())).collect(),
        }
    }

    fn judge(
        &self,
        name: &str,
        offer: &Offer,
        trust: &Trust,
        keys: &dyn KeySets,
    ) -> Result<(HeldBundle, Option<Loaded>), Refusal> {
        let envelope = offer.content.clone().map_err(|Unreadable(detail)| Refusal { reason: "unreadable", detail })?;
        let held =
            self.policies.get(name).filter(|_| !self.distrusted.contains_key(name)).map(|held| held.bundle.generation);
        let generation = held.max(self.floors.get(name).copied());
        let opened = bundle::open(&envelope, trust, generation).map_err(|e| of_bundle(&e))?;
        if bundle::file_name(&opened.policy) != name {
            return Err(of_bundle(&bundle::BundleRefusal::WrongName(opened.policy)));
        }
        let wanted = opened.verify.as_ref().and_then(|v| v.secrets_sha256.as_deref());
        let secrets = match wanted {
            None => None,
            Some(expected) => {
                let bytes = offer.secrets.as_ref().ok_or_else(|| of_compile(&CompileError::SecretsMissing))?;
                Some(VerifySecrets::parse(bytes, expected).map_err(|e| of_compile(&e.into()))?)
            }
        };
        let held = HeldBundle {
            envelope,
            secrets_bytes: secrets.is_some().then(|| offer.secrets.clone()).flatten(),
            bundle: opened,
            secrets,
            saved: None,
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

    /// The names of everything in force, tombstones included.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.policies.keys().cloned()
    }

    /// What was just written to disk.
    pub(crate) fn saved(&mut self, name: &str) {
        if let Some(held) = self.policies.get_mut(name) {
            held.saved = Some(held.bundle.generation);
        }
    }

    /// The generation that a restart would begin with.
    pub(crate) fn saved_generation(&self, name: &str) -> Option<u64> {
        self.policies.get(name)?.saved
    }

    /// The verify-secrets in use.
    pub(crate) fn secrets(&self, name: &str) -> Option<Arc<[u8]>> {
        self.policies.get(name)?.secrets_bytes.clone()
    }

    /// What is refused for want of its verify-secrets.
    pub(crate) fn wants_secrets(&self, name: &str) -> Option<&Offer> {
        self.refused.get(name).filter(|refused| refused.why.reason == SECRETS).map(|refused| &refused.offer)
    }

    /// Names of everything that is refused for want of its verify-secrets.
    pub(crate) fn all_that_want_secrets(&self) -> Vec<String> {
        self.refused.iter().filter(|(_, refused)| refused.why.reason == SECRETS).map(|(name, _)| name.clone()).collect()
    }

    /// The generations in force.
    pub(crate) fn generations(&self) -> BTreeMap<String, u64> {
        self.policies.values().map(|held| (held.bundle.policy.to_string(), held.bundle.generation)).collect()
    }

    /// Everything that isn't as the source's writer would want it. As cheap as there are such things.
    pub(crate) fn refused(&self) -> Vec<RefusedBundle> {
        let refused = self.refused.iter().map(|(name, refused)| self.refused_bundle(name, refused));
        let distrusted = self.distrusted.iter().filter(|(name, _)| !self.refused.contains_key(*name));
        let distrusted = distrusted.filter_map(|(name, why)| Some(self.policies.get(name)?.refused_for(why)));
        let vanished = self.vanished.iter().filter_map(|name| self.policies.get(name));
        refused
            .chain(distrusted)
            .chain(vanished.filter(|held| held.bundle.verify.is_some()).map(HeldBundle::as_vanished))
            .collect()
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

    /// Whose key set it is: policies, each with its entry's name.
    pub(crate) fn users_of(&self, target: &Target) -> Vec<(PolicyName, String)> {
        let entries = self.policies.values().flat_map(|held| held.targets().map(move |(entry, of)| (held, entry, of)));
        let users = entries.filter(|(.., of)| of == target);
        users.map(|(held, entry, _)| (held.bundle.policy.clone(), entry.to_owned())).collect()
    }

    /// Which key set a policy's trusted issuer has, if it is a fetched one.
    pub(crate) fn target_of(&self, policy: &PolicyName, issuer: &str) -> Option<Target> {
        let held = self.policies.get(&bundle::file_name(policy))?;
        held.targets().find(|(entry, _)| *entry == issuer).map(|(_, target)| target)
    }

    fn refused_bundle(&self, name: &str, refused: &Refused) -> RefusedBundle {
        let Some(held) = self.policies.get(name) else {
            // Whatever it says of itself is unproven; its name is a digest of the policy's.
            let claimed = refused.offer.policy.as_ref().filter(|policy| bundle::file_name(policy) == name);
            return RefusedBundle {
                policy: claimed.map_or_else(|| name.to_owned(), ToString::to_string),
                held: None,
                reason: refused.why.reason,
                detail: refused.why.detail.clone(),
            };
        };
        held.refused_for(&refused.why)
    }
}

/// What another trust makes of everything that is known.
#[derive(Debug)]
pub(crate) struct Rejudged {
    /// Left force.
    pub(crate) withdrawn: Vec<String>,
    /// Refused so far, and to be considered again.
    pub(crate) offers: Vec<(String, Offer)>,
}

/// A saved bundle that can't be used: what to tell of it, unless not even that is known.
#[derive(Debug)]
pub(crate) struct Unusable(pub(crate) Option<RefusedBundle>);

fn of_compile(error: &CompileError) -> Refusal {
    Refusal { reason: error.reason(), detail: error.to_string() }
}

fn of_bundle(error: &bundle::BundleRefusal) -> Refusal {
    Refusal { reason: error.reason(), detail: error.to_string() }
}
