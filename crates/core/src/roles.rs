//! Roles, and the permissions that they grant.
//!
//! A permission is words joined by `:` (`orders:read`). In what a role grants, a `*` stands for one word, and at the end for
//! all that follow; `*` alone grants everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A role as a policy defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleDef {
    /// Its name.
    pub name: String,
    /// What it grants by itself.
    pub permissions: Vec<String>,
    /// Roles whose permissions it grants as well.
    pub inherits: Vec<String>,
}

/// Why a policy's roles make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolesError {
    /// Two roles of one name.
    #[error("role {0:?} is defined twice")]
    Duplicate(String),
    /// `inherits` names nobody.
    #[error("role {role:?} inherits {inherits:?}, which is not defined")]
    UnknownParent {
        /// The role that inherits.
        role: String,
        /// What it inherits.
        inherits: String,
    },
    /// A role inherits itself, directly or by way of others.
    #[error("role {0:?} inherits itself")]
    Cycle(String),
}

/// A policy's roles with inheritance resolved.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    permissions: BTreeMap<String, Arc<[String]>>,
}

impl Roles {
    /// Resolves inheritance.
    pub fn new(definitions: Vec<RoleDef>) -> Result<Self, RolesError> {
        let mut by_name = BTreeMap::new();
        for definition in definitions {
            if let Some(twin) = by_name.insert(definition.name.clone(), definition) {
                return Err(RolesError::Duplicate(twin.name));
            }
        }
        let closures =
            by_name.iter().map(|(name, role)| Ok((name.clone(), closure(role, &by_name)?.into_iter().collect())));
        Ok(Self { permissions: closures.collect::<Result<_, _>>()? })
    }

    /// What these roles grant together, sorted, each once. A role that the policy doesn't define grants nothing.
    pub fn permissions_of(&self, roles: &[String]) -> Vec<String> {
        self.shared_permissions_of(roles).to_vec()
    }

    /// The same, shared where one role grants it all.
    pub fn shared_permissions_of(&self, roles: &[String]) -> Arc<[String]> {
        let mut granted = roles.iter().filter_map(|role| self.permissions.get(role));
        match (granted.next(), granted.next()) {
            (None, _) => Arc::default(),
            (Some(one), None) => one.clone(),
            (Some(first), Some(second)) => {
                let all: BTreeSet<&String> =
                    [first, second].into_iter().chain(granted).flat_map(|set| set.iter()).collect();
                all.into_iter().cloned().collect()
            }
        }
    }
}

/// Everything that a role and its ancestors grant. Walks without recursion: a policy's author decides on the depth.
fn closure<'d>(start: &'d RoleDef, by_name: &'d BTreeMap<String, RoleDef>) -> Result<BTreeSet<String>, RolesError> {
    let mut granted = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut to_visit = vec![start];
    while let Some(role) = to_visit.pop() {
        granted.extend(role.permissions.iter().cloned());
        for parent in &role.inherits {
            if *parent == start.name {
                return Err(RolesError::Cycle(start.name.clone()));
            }
            let parent = by_name
                .get(parent)
                .ok_or_else(|| RolesError::UnknownParent { role: role.name.clone(), inherits: parent.clone() })?;
            if seen.insert(parent.name.as_str()) {
                to_visit.push(parent);
            }
        }
    }
    Ok(granted)
}

/// Whether one of the patterns grants the wanted permission.
pub fn grants(patterns: &[String], wanted: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, wanted))
}

fn matches(pattern: &str, wanted: &str) -> bool {
    if pattern == "*" || pattern == wanted {
        return true;
    }
    let (mut pattern, mut wanted) = (pattern.split(':').peekable(), wanted.split(':'));
    loop {
        match (pattern.next(), wanted.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) if pattern.peek().is_none() => return true,
            (Some("*"), Some(_)) => {}
            (Some(p), Some(w)) if p == w => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, permissions: &[&str], inherits: &[&str]) -> RoleDef {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        RoleDef { name: name.into(), permissions: owned(permissions), inherits: owned(inherits) }
    }

    #[test]
    fn a_pattern_grants_word_by_word_and_a_star_at_the_end_all_that_follows() {
        for (pattern, wanted, expected) in [
            ("*", "orders:read", true),
            ("orders:read", "orders:read", true),
            ("orders:*", "orders:read", true),
            ("orders:*", "orders:read:own", true),
            ("*:read", "orders:read", true),
            ("orders:*:own", "orders:read:own", true),
            ("orders:*", "orders", false),
            ("orders:*", "ordersx:read", false),
            ("orders:read", "orders:read:own", false),
            ("orders:*:own", "orders:read:any", false),
            ("*:read", "orders:write", false),
            ("ord*", "orders", false),
            ("orders:read", "orders:*", false),
            ("orders:read", "*", false),
            ("", "orders", false),
        ] {
            assert_eq!(grants(&[pattern.to_owned()], wanted), expected, "{pattern} {wanted}");
        }
        assert!(!grants(&[], "x"));
    }

    #[test]
    fn roles_grant_their_own_and_their_ancestors_permissions_sorted_and_once() {
        let roles = Roles::new(vec![
            role("admin", &["users:*"], &["user", "auditor"]),
            role("user", &["orders:read", "profile:read"], &["guest"]),
            role("auditor", &["audit:read", "orders:read"], &["guest"]),
            role("guest", &["catalogue:read"], &[]),
        ])
        .unwrap();
        let of = |names: &[&str]| roles.permissions_of(&names.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["admin"]), ["audit:read", "catalogue:read", "orders:read", "profile:read", "users:*"]);
        assert_eq!(of(&["user", "auditor"]), ["audit:read", "catalogue:read", "orders:read", "profile:read"]);
        assert_eq!(of(&["user", "user"]), of(&["user"]));
        assert!(of(&["nobody", "Admin"]).is_empty());
    }

    #[test]
    fn roles_that_make_no_sense_are_refused() {
        let refused = |roles: Vec<RoleDef>| Roles::new(roles).unwrap_err();
        assert_eq!(refused(vec![role("a", &[], &["a"])]), RolesError::Cycle("a".into()));
        assert_eq!(
            refused(vec![role("a", &[], &["b"]), role("b", &[], &["c"]), role("c", &[], &["b"])]),
            RolesError::Cycle("b".into())
        );
        assert_eq!(refused(vec![role("a", &[], &[]), role("a", &[], &[])]), RolesError::Duplicate("a".into()));
        assert_eq!(
            refused(vec![role("a", &[], &["b"])]),
            RolesError::UnknownParent { role: "a".into(), inherits: "b".into() }
        );
    }
}
