//! Which sessions and Secrets belong together, and to which policies: so that a change finds those that it concerns.

use std::collections::{BTreeSet, HashMap};

use countersign_core::names::PolicyName;

/// Whose is what. Sessions and Secrets go by their keys, `namespace/name`.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// By key: uid and policy.
    sessions: HashMap<String, (String, Option<PolicyName>)>,
    by_uid: HashMap<String, String>,
    by_policy: HashMap<PolicyName, BTreeSet<String>>,
    /// By key: the uid of the session that it was made for.
    secrets: HashMap<String, String>,
    secrets_of: HashMap<String, BTreeSet<String>>,
}

impl Owners {
    pub(super) fn put_session(&mut self, key: &str, uid: &str, policy: Option<PolicyName>) {
        self.remove_session(key);
        if let Some(policy) = &policy {
            self.by_policy.entry(policy.clone()).or_default().insert(key.to_owned());
        }
        self.by_uid.insert(uid.to_owned(), key.to_owned());
        self.sessions.insert(key.to_owned(), (uid.to_owned(), policy));
    }

    pub(super) fn remove_session(&mut self, key: &str) {
        let Some((uid, policy)) = self.sessions.remove(key) else { return };
        self.by_uid.remove(&uid);
        if let Some(policy) = policy {
            remove_from(&mut self.by_policy, &policy, key);
        }
    }

    pub(super) fn put_secret(&mut self, key: &str, uid: &str) {
        self.remove_secret(key);
        self.secrets.insert(key.to_owned(), uid.to_owned());
        self.secrets_of.entry(uid.to_owned()).or_default().insert(key.to_owned());
    }

    pub(super) fn remove_secret(&mut self, key: &str) {
        let Some(uid) = self.secrets.remove(key) else { return };
        remove_from(&mut self.secrets_of, &uid, key);
    }

    /// The session that a Secret was made for.
    pub(super) fn session_of(&self, secret: &str) -> Option<&String> {
        self.by_uid.get(self.secrets.get(secret)?)
    }

    /// The Secrets that were made for the session of a uid.
    pub(super) fn secrets_of(&self, uid: &str) -> impl Iterator<Item = &String> {
        self.secrets_of.get(uid).into_iter().flatten()
    }

    /// The sessions that name a policy.
    pub(super) fn under(&self, policy: &PolicyName) -> impl Iterator<Item = &String> {
        self.by_policy.get(policy).into_iter().flatten()
    }

    /// Every session.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &String> {
        self.sessions.keys()
    }
}

fn remove_from<K: std::hash::Hash + Eq>(sets: &mut HashMap<K, BTreeSet<String>>, of: &K, key: &str) {
    if let Some(set) = sets.get_mut(of) {
        set.remove(key);
        if set.is_empty() {
            sets.remove(of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_s_sessions_and_a_session_s_secrets_are_found_and_nothing_is_left_of_what_went() {
        let policy = |name: &str| PolicyName::try_new("shop", name).unwrap();
        let mut owners = Owners::default();
        owners.put_session("shop/a", "u1", Some(policy("shop")));
        owners.put_session("shop/b", "u2", Some(policy("shop")));
        owners.put_session("shop/c", "u3", Some(policy("other")));
        owners.put_session("shop/d", "u4", None);
        owners.put_secret("shop/a-token", "u1");
        assert_eq!(owners.under(&policy("shop")).collect::<Vec<_>>(), ["shop/a", "shop/b"]);
        assert_eq!(owners.session_of("shop/a-token").map(String::as_str), Some("shop/a"));
        owners.put_secret("shop/a-token", "u2");
        assert_eq!(owners.session_of("shop/a-token").map(String::as_str), Some("shop/b"), "its label was changed");
        assert_eq!(owners.secrets_of("u1").count(), 0);

        owners.put_session("shop/a", "u5", Some(policy("other")));
        assert_eq!(owners.under(&policy("shop")).collect::<Vec<_>>(), ["shop/b"], "another object of that name");
        assert_eq!(owners.by_uid.len(), 4);
        for key in ["shop/a", "shop/b", "shop/c", "shop/d"] {
            owners.remove_session(key);
        }
        owners.remove_secret("shop/a-token");
        assert_eq!(owners.sessions().count(), 0);
        let left = (owners.by_uid.len(), owners.by_policy.len(), owners.secrets.len(), owners.secrets_of.len());
        assert_eq!(left, (0, 0, 0, 0));
    }
}
