//! Keys of trusted issuers that were fetched, and those that the present bundle has of them: nobody's are taken for another's.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::Resolved,
    policy::{EffectivePolicy, EffectiveTrustedIssuer},
};
use countersign_core::{digest::sha256, jose::JwkSet};
use countersign_jwks::Target;

use super::status::{Remark, Remedy};
use crate::{jwks::target, registry::ForeignKeys};

/// Puts fetched key sets where they belong. `held` are those that the present bundle has and [`sources`] vouch for. Says what
/// is missing.
pub(crate) fn add(
    policy: &EffectivePolicy,
    resolved: &mut Resolved,
    fetched: &BTreeMap<String, Arc<ForeignKeys>>,
    held: &BTreeMap<String, JwkSet>,
) -> Option<(Remark, Remedy)> {
    let mut missing = Vec::new();
    let mut remedy = Remedy::Moment;
    for (trusted, target) in policy.trusted_issuers.iter().filter_map(|t| Some((t, target(t)?))) {
        // What was fetched before the entry came to name another place is somebody else's.
        let found = fetched.get(&trusted.name).filter(|found| found.target == target);
        let keys = found.and_then(|found| found.keys.as_deref());
        if let Some(keys) = keys.or_else(|| held.get(&trusted.name)) {
            resolved.jwks.insert(trusted.name.clone(), keys.clone());
        } else {
            // The others work without it; its own tokens are refused.
            resolved.jwks.insert(trusted.name.clone(), JwkSet::default());
            if found.is_some() {
                remedy = Remedy::Time;
            }
            let why = found.and_then(|found| found.problem.as_deref()).unwrap_or("they are being fetched");
            missing.push(format!("the keys of {}: {why}", trusted.name));
        }
    }
    (!missing.is_empty()).then(|| (Remark::new("JWKSUnavailable", missing.join("; ")), remedy))
}

/// Whether keys have to be fetched and weren't yet, of the place that the policy names now.
pub(crate) fn lacks(policy: &EffectivePolicy, fetched: &BTreeMap<String, Arc<ForeignKeys>>) -> bool {
    policy.trusted_issuers.iter().filter_map(|t| Some((t, target(t)?))).any(|(trusted, target)| {
        let found = fetched.get(&trusted.name).filter(|found| found.target == target);
        found.is_none_or(|found| found.keys.is_none())
    })
}

/// By entry, from where which keys come that a bundle has: so that nobody later takes them for another issuer's who goes by
/// the same name.
pub(crate) fn sources(policy: &EffectivePolicy, resolved: &Resolved) -> BTreeMap<String, String> {
    let source = |trusted: &EffectiveTrustedIssuer| {
        let set = resolved.jwks.get(&trusted.name).filter(|set| !set.keys.is_empty())?;
        Some((trusted.name.clone(), source(&target(trusted)?, set)))
    };
    policy.trusted_issuers.iter().filter_map(source).collect()
}

/// Of the key sets that the present bundle has, those that come from where the policy says now.
pub(crate) fn still_theirs(
    policy: &EffectivePolicy,
    mut held: BTreeMap<String, JwkSet>,
    sources: &BTreeMap<String, String>,
) -> BTreeMap<String, JwkSet> {
    held.retain(|entry, set| {
        let target = policy.trusted_issuers.iter().find(|trusted| trusted.name == *entry).and_then(target);
        target.is_some_and(|target| sources.get(entry) == Some(&source(&target, set)))
    });
    held
}

/// A place and the keys from there, in one.
fn source(target: &Target, set: &JwkSet) -> String {
    // A set of strings always serialises, and always the same way.
    let keys = serde_json::to_vec(set).unwrap_or_default();
    hex::encode(sha256(&[target.digest().as_bytes(), &keys].concat()))
}

#[cfg(test)]
mod tests {
    use countersign_core::{jose::Algorithm, keys::SigningKey};
    use serde_json::json;

    use super::*;

    fn policy(issuer: &str, url: Option<&str>) -> EffectivePolicy {
        let mut trusted = json!({"name": "kc", "issuer": issuer, "algorithms": ["EdDSA"]});
        if let Some(url) = url {
            trusted["jwks"] = json!({ "url": url });
        }
        let spec = json!({"audiences": ["a"], "issuer": "https://own.example", "trustedIssuers": [trusted]});
        let spec: countersign_api::policy::AuthPolicySpec = serde_json::from_value(spec).unwrap();
        EffectivePolicy::try_from(&spec).unwrap()
    }

    fn keys() -> JwkSet {
        JwkSet { keys: vec![SigningKey::generate(Algorithm::EdDSA).unwrap().public_jwk().clone()] }
    }

    fn fetched(of: &EffectivePolicy, keys: Option<&JwkSet>, problem: Option<&str>) -> BTreeMap<String, Arc<ForeignKeys>> {
        let found = ForeignKeys {
            target: target(&of.trusted_issuers[0]).unwrap(),
            keys: keys.cloned().map(Arc::new),
            problem: problem.map(str::to_owned),
        };
        BTreeMap::from([("kc".to_owned(), Arc::new(found))])
    }

    fn added(
        policy: &EffectivePolicy,
        fetched: &BTreeMap<String, Arc<ForeignKeys>>,
        held: &BTreeMap<String, JwkSet>,
    ) -> (JwkSet, Option<String>) {
        let mut resolved = Resolved::default();
        let missing = add(policy, &mut resolved, fetched, held);
        (resolved.jwks["kc"].clone(), missing.map(|(remark, _)| remark.message))
    }

    #[test]
    fn an_entry_that_comes_to_name_another_issuer_has_none_of_the_earlier_one_s_keys() {
        let old = policy("https://old.example", None);
        let old_keys = keys();
        let (was, missing) = added(&old, &fetched(&old, Some(&old_keys), None), &BTreeMap::new());
        assert_eq!((&was, missing), (&old_keys, None));
        let mut resolved = Resolved::default();
        resolved.jwks.insert("kc".into(), was);
        let sources = sources(&old, &resolved);
        let in_bundle = || BTreeMap::from([("kc".to_owned(), old_keys.clone())]);
        let held = |policy: &EffectivePolicy| still_theirs(policy, in_bundle(), &sources);
        assert_eq!(held(&old), in_bundle(), "a new leader goes on with what the bundle has");

        for (new, why) in [
            (policy("https://new.example", None), "another issuer"),
            (policy("https://old.example", Some("https://new.example/keys")), "another place"),
        ] {
            assert_eq!(held(&new), BTreeMap::new(), "{why}");
            let before_it_is_fetched = added(&new, &fetched(&old, Some(&old_keys), None), &held(&new));
            assert_eq!(before_it_is_fetched.0, JwkSet::default(), "{why}");
            assert!(lacks(&new, &fetched(&old, Some(&old_keys), None)));
            let failed = fetched(&new, None, Some("answered 500"));
            let (keys_then, missing) = added(&new, &failed, &held(&new));
            assert_eq!(keys_then, JwkSet::default(), "{why}");
            assert_eq!(missing.as_deref(), Some("the keys of kc: answered 500"));
            let new_keys = keys();
            assert_eq!(added(&new, &fetched(&new, Some(&new_keys), None), &held(&new)), (new_keys, None), "{why}");
        }
    }

    #[test]
    fn a_source_stands_for_the_very_keys_that_came_from_it() {
        // The record is stored before the bundle: between the two it speaks of keys that the bundle hasn't yet.
        let policy = policy("https://new.example", None);
        let mut resolved = Resolved::default();
        resolved.jwks.insert("kc".into(), keys());
        let sources = sources(&policy, &resolved);
        let in_bundle = BTreeMap::from([("kc".to_owned(), keys())]);
        assert_eq!(still_theirs(&policy, in_bundle, &sources), BTreeMap::new());
        assert_eq!(still_theirs(&policy, resolved.jwks.clone(), &sources), resolved.jwks);
        assert_eq!(still_theirs(&policy, resolved.jwks, &BTreeMap::new()), BTreeMap::new(), "of an unknown source");
    }
}
