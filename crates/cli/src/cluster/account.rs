//! A service account on the command line.

use std::{fmt, str::FromStr};

/// `NAMESPACE/NAME` of a service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountName {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name there.
    pub(crate) name: String,
}

/// Why a text names no service account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no service account: write NAMESPACE/NAME, for example shop/countersign-ops")]
pub(crate) struct InvalidAccountName(String);

impl FromStr for AccountName {
    type Err = InvalidAccountName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |part: &str, dots: bool| {
            let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (dots && b == b'.');
            let ends = part.bytes().next().zip(part.bytes().last());
            ends.is_some_and(|(first, last)| first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
                && part.len() <= 253
                && part.bytes().all(known)
        };
        match text.split_once('/') {
            Some((namespace, name)) if good(namespace, false) && good(name, true) => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(InvalidAccountName(text.to_owned())),
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_a_namespace_and_a_name() {
        let account: AccountName = "shop/ops".parse().unwrap();
        assert_eq!((account.namespace.as_str(), account.name.as_str()), ("shop", "ops"));
        for bad in ["", "ops", "shop/", "/ops", "a/b/c", "Shop/ops", "shop/o ps", "shop/ops?x", "shop/.", "shop/.."] {
            assert_eq!(bad.parse::<AccountName>(), Err(InvalidAccountName(bad.into())));
        }
    }
}
