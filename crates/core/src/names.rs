//! Names that are parsed once and trusted afterwards.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A policy's full name, `namespace/name`, as Kubernetes has them: a DNS-1123 label of at most 63 characters and a DNS-1123
/// subdomain of at most 253.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    full: Arc<str>,
    slash: usize,
}

/// Why a text is no policy name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a policy name: expected NAMESPACE/NAME in lower-case letters, digits, '-' and, in the name, '.', at most 63 and 253 characters, for example shop/shop"
)]
pub struct InvalidPolicyName(pub String);

impl PolicyName {
    /// A name from its two parts.
    pub fn try_new(namespace: &str, name: &str) -> Result<Self, InvalidPolicyName> {
        if is_dns_label(namespace) && is_dns_subdomain(name) {
            Ok(Self { full: format!("{namespace}/{name}").into(), slash: namespace.len() })
        } else {
            Err(InvalidPolicyName(format!("{namespace}/{name}")))
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.full[..self.slash]
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.full[self.slash + 1..]
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.full
    }
}

impl FromStr for PolicyName {
    type Err = InvalidPolicyName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = s.split_once('/').ok_or_else(|| InvalidPolicyName(s.to_owned()))?;
        Self::try_new(namespace, name)
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Debug for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.full)
    }
}

impl<'de> Deserialize<'de> for PolicyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn is_dns_label(s: &str) -> bool {
    s.len() <= 63 && is_part(s)
}

/// A part of a subdomain. Only the whole has a bound: Kubernetes counts no part's characters.
fn is_part(s: &str) -> bool {
    !s.is_empty()
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

fn is_dns_subdomain(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_name_is_two_dns_names_and_nothing_else() {
        let name: PolicyName = "shop/shop-eu.v2".parse().unwrap();
        assert_eq!((name.namespace(), name.name(), name.as_str()), ("shop", "shop-eu.v2", "shop/shop-eu.v2"));
        for bad in ["", "shop", "/", "a/", "/b", "A/b", "a/b/c", "a/-b", "a.b/c", "a/b..c", "a/b\n", "a/ü"] {
            assert_eq!(bad.parse::<PolicyName>(), Err(InvalidPolicyName(bad.to_owned())), "{bad:?}");
        }
    }

    #[test]
    fn a_policy_s_name_is_as_long_as_kubernetes_lets_it_be() {
        for (namespace, name, is_one) in [(63, 64, true), (63, 253, true), (64, 1, false), (1, 254, false)] {
            let found = PolicyName::try_new(&"n".repeat(namespace), &"p".repeat(name));
            assert_eq!(found.is_ok(), is_one, "{namespace} {name}");
        }
    }
}
