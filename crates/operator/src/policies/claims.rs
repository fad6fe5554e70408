//! Which policies claim which issuer: two may, and the later one is told.

use std::collections::{BTreeSet, HashMap};

use countersign_core::names::PolicyName;
use parking_lot::Mutex;

/// When a policy was created, seconds since the Unix epoch, and its name: the order of claims.
type Claim = (i64, PolicyName);

/// The claims.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    by_issuer: HashMap<String, BTreeSet<Claim>>,
    by_policy: HashMap<PolicyName, (String, i64)>,
}

impl Claims {
    /// A policy claims this issuer from now on. Says which others may have to be told something else.
    pub(crate) fn set(&self, policy: &PolicyName, issuer: Option<String>, created: i64) -> Vec<PolicyName> {
        let mut held = self.0.lock();
        let claim = issuer.map(|issuer| (issuer, created));
        if held.by_policy.get(policy) == claim.as_ref() {
            return Vec::new();
        }
        let mut disturbed = held.remove(policy);
        if let Some((issuer, created)) = claim {
            let others = held.by_issuer.entry(issuer.clone()).or_default();
            disturbed.extend(others.iter().map(|(_, name)| name.clone()));
            others.insert((created, policy.clone()));
            held.by_policy.insert(policy.clone(), (issuer, created));
        }
        disturbed
    }

    /// A policy claims nothing any more.
    pub(crate) fn forget(&self, policy: &PolicyName) {
        self.0.lock().remove(policy);
    }

    /// The policy that claimed the same issuer first, if that is another one.
    pub(crate) fn earlier(&self, policy: &PolicyName) -> Option<PolicyName> {
        let held = self.0.lock();
        let (issuer, _) = held.by_policy.get(policy)?;
        let (_, first) = held.by_issuer.get(issuer)?.first()?;
        (first != policy).then(|| first.clone())
    }
}

impl Held {
    fn remove(&mut self, policy: &PolicyName) -> Vec<PolicyName> {
        let Some((issuer, created)) = self.by_policy.remove(policy) else { return Vec::new() };
        let Some(others) = self.by_issuer.get_mut(&issuer) else { return Vec::new() };
        others.remove(&(created, policy.clone()));
        let left = others.iter().map(|(_, name)| name.clone()).collect();
        if others.is_empty() {
            self.by_issuer.remove(&issuer);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_policies_with_one_issuer_is_told_until_the_other_is_gone() {
        let [a, b] = ["shop/a", "shop/b"].map(|name| name.parse::<PolicyName>().unwrap());
        let claims = Claims::default();
        let issuer = || Some("https://a.example".to_owned());
        assert!(claims.set(&b, issuer(), 1).is_empty());
        assert_eq!(claims.set(&a, issuer(), 2), std::slice::from_ref(&b));
        assert!(claims.set(&a, issuer(), 2).is_empty());
        assert_eq!((claims.earlier(&a), claims.earlier(&b)), (Some(b.clone()), None));
        assert_eq!(claims.set(&b, None, 1), std::slice::from_ref(&a));
        assert_eq!(claims.earlier(&a), None);
    }
}
