//! What policies refer to: Secrets and ConfigMaps of their own namespaces, and of no other.
//!
//! They are read by name and looked at again every few seconds by their metadata, in turn. A watch would bring edits sooner,
//! but of every Secret in the cluster: what sessions' Secrets are watched by, a type of their own, these don't have. At most
//! [`READS_PER_SECOND`] such looks are taken, so that with very many references each comes round more rarely.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use countersign_api::{
    LoginReferences, Problem,
    bundle::Resolved,
    policy::{BreachedPasswordsMode, EffectivePolicy},
    references::{MAX_VALUE_BYTES, ReferenceError, ReferenceKind, References},
    resolve, resolve_login,
};
use countersign_core::names::PolicyName;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::status::{Acceptance, Remark, Remedy};
use crate::versions::version_of;

/// How often each reference is looked at, if there are few.
const EVERY: Duration = Duration::from_secs(5);
/// How many looks are taken in a second, if there are many.
const READS_PER_SECOND: u32 = 50;

/// An object that a policy refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    pub(crate) secret: bool,
    pub(crate) name: String,
}

/// For whose sake a policy's references are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// For verifiers' alone: no issuer is installed.
    Verifiers,
    /// For issuers' too.
    Everyone,
}

/// What a policy refers to.
pub(crate) fn wanted(policy: &EffectivePolicy, audience: Audience) -> BTreeSet<Reference> {
    let secrets = secrets(policy, audience).map(|(name, _)| Reference { secret: true, name: name.to_owned() });
    secrets.chain(maps(policy, audience).map(|(name, _)| Reference { secret: false, name: name.to_owned() })).collect()
}

/// Secrets and keys that have to be there.
fn secrets(policy: &EffectivePolicy, audience: Audience) -> impl Iterator<Item = (&str, &str)> {
    let login = policy.login.iter().filter(move |_| audience == Audience::Everyone);
    let clients = login.clone().flat_map(|login| login.clients.iter().map(|client| &client.secret_key_ref));
    let sms = login.clone().filter_map(|login| Some(&login.sms.as_ref()?.signing_secret_key_ref));
    let mail = login.filter_map(|login| Some((login.mail.as_ref()?.smtp_secret_ref.as_ref()?.name.as_str(), "host")));
    let symmetric = policy.trusted_issuers.iter().filter_map(|t| t.secret_key_ref.as_ref());
    let keyed = symmetric.chain(&policy.opaque_keys.secret_key_refs).chain(clients).chain(sms);
    keyed.map(|r| (r.name.as_str(), r.key.as_str())).chain(mail)
}

/// ConfigMaps and keys that have to be there.
fn maps(policy: &EffectivePolicy, audience: Audience) -> impl Iterator<Item = (&str, &str)> {
    let sets = policy.trusted_issuers.iter().filter_map(|t| t.jwks.as_ref()?.config_map_key_ref.as_ref());
    let login = policy.login.iter().filter(move |_| audience == Audience::Everyone);
    let lists = login.map(|login| &login.passwords.breached_passwords);
    let lists = lists.filter(|list| list.mode == BreachedPasswordsMode::Custom);
    let lists = lists.filter_map(|list| list.config_map_key_ref.as_ref());
    sets.chain(lists).map(|r| (r.name.as_str(), r.key.as_str()))
}

/// Objects as they were read; absent ones as `None`.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    namespace: String,
    objects: BTreeMap<Reference, Option<Object>>,
}

struct Object {
    version: u64,
    values: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("version", &self.version).field("keys", &self.values.keys()).finish()
    }
}

/// Reads what a policy refers to.
pub(crate) async fn fetch(client: &Client, namespace: &str, wanted: BTreeSet<Reference>) -> Result<Fetched, kube::Error> {
    let mut objects = BTreeMap::new();
    for reference in wanted {
        let object = if reference.secret {
            let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(&reference.name).await?;
            found.map(|secret| Object {
                version: version_of(&secret.metadata),
                values: secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, Zeroizing::new(v.0))).collect(),
            })
        } else {
            let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(&reference.name).await?;
            found.map(|map| {
                let texts = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, Zeroizing::new(v.into_bytes())));
                let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, Zeroizing::new(v.0)));
                Object { version: version_of(&map.metadata), values: texts.chain(bytes).collect() }
            })
        };
        objects.insert(reference, object);
    }
    Ok(Fetched { namespace: namespace.to_owned(), objects })
}

impl References for Fetched {
    fn value(&self, kind: ReferenceKind, name: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, ReferenceError> {
        let secret = kind == ReferenceKind::Secret;
        let what = if secret { "Secret" } else { "ConfigMap" };
        let reference = Reference { secret, name: name.to_owned() };
        let Some(Some(object)) = self.objects.get(&reference) else {
            return Err(ReferenceError::NotFound { place: format!("{what} {}/{name}", self.namespace) });
        };
        let value = object.values.get(key);
        let value = value.ok_or_else(|| ReferenceError::NotFound {
            place: format!("key {key:?} in {what} {}/{name}", self.namespace),
        })?;
        if value.len() as u64 > MAX_VALUE_BYTES {
            return Err(ReferenceError::TooLarge { place: format!("key {key:?} of {what} {}/{name}", self.namespace) });
        }
        Ok(value.clone())
    }
}

impl Fetched {
    fn versions(&self) -> BTreeMap<Reference, Option<u64>> {
        self.objects.iter().map(|(reference, object)| (reference.clone(), object.as_ref().map(|o| o.version))).collect()
    }

    /// Whether `kind` `name` `key` is there.
    fn has(&self, secret: bool, name: &str, key: &str) -> bool {
        let object = self.objects.get(&Reference { secret, name: name.to_owned() });
        object.and_then(Option::as_ref).is_some_and(|object| object.values.contains_key(key))
    }
}

/// What a policy's references gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolution {
    /// For verifiers.
    pub(crate) resolved: Resolved,
    /// For issuers.
    pub(crate) login: LoginReferences,
    /// What there is to say of them.
    pub(crate) warnings: Vec<Problem>,
}

/// What a policy's references gave, or all that is wrong with them.
pub(crate) fn resolution(
    policy: &EffectivePolicy,
    fetched: &Fetched,
    audience: Audience,
) -> Result<Resolution, Acceptance> {
    let login = match audience {
        Audience::Verifiers => Ok(LoginReferences::default()),
        Audience::Everyone => resolve_login(policy, fetched),
    };
    let problems = match (resolve(policy, fetched), login) {
        (Ok((resolved, warnings)), Ok(login)) => return Ok(Resolution { resolved, login, warnings }),
        (verifiers, issuers) => verifiers.err().into_iter().chain(issuers.err()).flatten().collect::<Vec<Problem>>(),
    };
    let message: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let remark = Remark::new(reason(policy, fetched, audience, &problems), message.join("; "));
    Err(Acceptance::Refused { remark, remedy: Remedy::Person })
}

/// The word for what is wrong: what is missing comes before what is no good.
fn reason(policy: &EffectivePolicy, fetched: &Fetched, audience: Audience, problems: &[Problem]) -> &'static str {
    if secrets(policy, audience).any(|(name, key)| !fetched.has(true, name, key)) {
        return "SecretNotFound";
    }
    if maps(policy, audience).any(|(name, key)| !fetched.has(false, name, key)) {
        return "ConfigMapNotFound";
    }
    let of_a_map = |problem: &Problem| [".jwks.", ".breachedPasswords."].iter().any(|part| problem.field.contains(part));
    if problems.iter().any(|problem| problem.weak_key) {
        "WeakKey"
    } else if problems.iter().any(of_a_map) {
        "Invalid"
    } else {
        "SecretInvalid"
    }
}

/// Which versions of what is in use, by policy; and whose changed since.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    versions: Mutex<HashMap<PolicyName, BTreeMap<Reference, Option<u64>>>>,
    changed: Mutex<HashSet<PolicyName>>,
}

impl InUse {
    /// These are in use from now on.
    pub(crate) fn set(&self, policy: &PolicyName, fetched: &Fetched) {
        let versions = fetched.versions();
        if versions.is_empty() {
            self.versions.lock().remove(policy);
        } else {
            self.versions.lock().insert(policy.clone(), versions);
        }
    }

    pub(crate) fn forget(&self, policy: &PolicyName) {
        self.versions.lock().remove(policy);
        self.changed.lock().remove(policy);
    }

    /// Whether a policy's references changed since they were read; asked once per change.
    pub(crate) fn take_changed(&self, policy: &PolicyName) -> bool {
        self.changed.lock().remove(policy)
    }

    /// Looks at all of them in turn, for ever.
    pub(crate) async fn poll(&self, client: &Client, changed: impl Fn(&PolicyName)) {
        loop {
            let round: Vec<(PolicyName, Reference, Option<u64>)> = {
                let held = self.versions.lock();
                let each = held.iter().flat_map(|(p, refs)| refs.iter().map(|(r, v)| (p.clone(), r.clone(), *v)));
                each.collect()
            };
            let places = u32::try_from(round.len()).unwrap_or(u32::MAX).max(1);
            let pause = (EVERY / places).max(Duration::from_secs(1) / READS_PER_SECOND);
            if round.is_empty() {
                tokio::time::sleep(EVERY).await;
            }
            for (policy, reference, version) in round {
                tokio::time::sleep(pause).await;
                match look(client, policy.namespace(), &reference).await {
                    Ok(found) if found != version => {
                        self.changed.lock().insert(policy.clone());
                        changed(&policy);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%policy, name = reference.name, %error, "a reference can't be looked at now");
                    }
                }
            }
        }
    }
}

async fn look(client: &Client, namespace: &str, reference: &Reference) -> Result<Option<u64>, kube::Error> {
    let found = if reference.secret {
        Api::<Secret>::namespaced(client.clone(), namespace)
            .get_metadata_opt(&reference.name)
            .await?
            .map(|o| version_of(&o.metadata))
    } else {
        Api::<ConfigMap>::namespaced(client.clone(), namespace)
            .get_metadata_opt(&reference.name)
            .await?
            .map(|o| version_of(&o.metadata))
    };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_login_refers_to_is_looked_at_where_issuers_are_and_nowhere_else() {
        let secret = |key: &str| json!({"name": format!("the-{key}"), "key": key});
        let spec = json!({
            "audiences": ["a"], "issuer": "https://own.example",
            "opaqueKeys": {"secretKeyRefs": [secret("opaque")]},
            "login": {
                "mail": {"smtpSecretRef": {"name": "smtp"}},
                "sms": {"url": "https://sms.example", "signingSecretKeyRef": secret("sms")},
                "clients": [{"clientID": "web", "secretKeyRef": secret("web")}],
                "passwords": {"breachedPasswords": {"mode": "Custom", "configMapKeyRef": {"name": "list", "key": "list"}}},
            },
        });
        let spec: countersign_api::policy::AuthPolicySpec = serde_json::from_value(spec).unwrap();
        let policy = EffectivePolicy::try_from(&spec).unwrap();
        let names = |audience| wanted(&policy, audience).into_iter().map(|r| (r.secret, r.name)).collect::<Vec<_>>();
        assert_eq!(names(Audience::Verifiers), [(true, "the-opaque".to_owned())]);
        let all = [(false, "list"), (true, "smtp"), (true, "the-opaque"), (true, "the-sms"), (true, "the-web")];
        assert_eq!(names(Audience::Everyone), all.map(|(secret, name)| (secret, name.to_owned())));
    }
}
