//! What a request to revoke means.

use countersign_core::{
    names::PolicyName,
    revocation::{ACCESS_RING_ONLY, Entry, Kind},
    time::UnixMillis,
};
use countersign_store::NewRevocation;
use ipnet::IpNet;
use serde::Deserialize;
use utoipa::ToSchema;

use super::credential::{self, of_credential};
use crate::{addresses::network_of, openapi::shapes, policies::IssuerPolicy};

/// The longest id, bytes.
pub(super) const MAX_ID: usize = 1024;
/// The longest reason, bytes.
const MAX_REASON: usize = 1024;
/// How long an address stays blocked unless asked otherwise.
const BLOCK_MS: i64 = 30 * 24 * 3_600_000;

/// Private, loopback, link-local and unspecified addresses, and those that carriers share, which clusters give to pods.
const OWN_NETWORKS: [&str; 12] = [
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "fc00::/7",
    "fe80::/10",
];

/// `POST revocations`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct RevocationRequest {
    /// What is revoked.
    #[schema(value_type = Option<shapes::administration::Kind>)]
    pub kind: Option<Kind>,
    /// Its id.
    pub id: Option<String>,
    /// In place of both: the credential itself.
    pub credential: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Only what was issued up to here, NumericDate.
    pub before: Option<f64>,
    /// Whose credentials are meant.
    pub issuer: Option<String>,
    /// For addresses: how long they stay blocked, seconds.
    pub ttl_s: Option<i64>,
}

/// Why a request to revoke is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRevocation {
    /// Neither kind and id nor a credential, or both.
    #[error("name what to revoke: kind and id, or credential")]
    Shape,
    /// The id's form.
    #[error("id must be 1 to {MAX_ID} bytes without control characters")]
    Id,
    /// A secret where a name belongs: it would be stored, shown and sent about, and end nothing.
    #[error("the id is a credential, not a name: nothing was stored")]
    CredentialAsId,
    /// The same of the reason.
    #[error("the reason holds a credential: it is stored and shown, so write it without; nothing was stored")]
    CredentialInReason,
    /// The reason's form.
    #[error("reason must be at most {MAX_REASON} bytes without control characters")]
    Reason,
    /// A cut-off in the future would end what doesn't exist yet.
    #[error("before is in the future: only what is already issued can be cut off")]
    BeforeInFuture,
    /// A cut-off for what ends whenever issued.
    #[error("before goes with the kinds subject and policy: the others end whenever issued")]
    BeforeNotHere,
    /// Not a time.
    #[error("before is not a NumericDate")]
    BeforeNoTime,
    /// Not an address.
    #[error("{0:?} is neither an IP address nor a network such as 203.0.113.0/24")]
    NoAddress(String),
    /// An address that must never be blocked.
    #[error("{0} is or holds private, loopback or link-local addresses: blocking them would block our own parts")]
    OwnAddress(String),
    /// An address that the policy names as allowed.
    #[error("{0} is or holds addresses that spec.clientAddresses.allow names: take them out there first")]
    AllowedAddress(String),
    /// No room for another.
    #[error("the policy blocks 10,000 addresses and networks already: block wider networks, or let some run out")]
    TooManyBlocks,
    /// A time out of range.
    #[error("ttl_s goes with the kind ip and is 1 to 31536000")]
    Ttl,
    /// Not a credential at all.
    #[error("the credential is no token that can be read: a compact JWS, or an opaque key of the policy")]
    NoCredential,
    /// A credential of someone else.
    #[error("the credential's issuer is not one of {0}'s")]
    ForeignCredential(PolicyName),
    /// A credential without a name of its own.
    #[error("the credential has no jti to revoke it by: revoke its session or its subject")]
    Nameless,
    /// An issuer that the policy doesn't know.
    #[error("{0} knows no issuer {1:?}")]
    UnknownIssuer(PolicyName, String),
    /// The id of a policy's cut-off.
    #[error("the kind policy takes no id, or the id access for access tokens alone")]
    PolicyId,
}

impl RevocationRequest {
    /// What this asks to write down.
    pub(crate) fn to_revocation(
        &self,
        policy: &IssuerPolicy,
        source: &str,
        now: UnixMillis,
    ) -> Result<NewRevocation, InvalidRevocation> {
        let entry = self.to_entry(policy, source, now)?;
        // Of what kind the tokens are that an entry names is known where only the policy's own can be meant.
        let names_own = match (&entry.issuer, &policy.own) {
            (Some(issuer), Some(own)) => *issuer == own.issuer,
            (None, Some(_)) => policy.trusted.is_empty(),
            (_, None) => false,
        };
        let access_only = names_own && matches!(entry.kind, Kind::Token | Kind::Session);
        let subject = match (&self.credential, entry.kind) {
            (Some(credential), _) => credential::read(credential).and_then(|(claims, _)| claims.subject.ok().flatten()),
            (None, Kind::Subject) => Some(entry.id.clone()),
            (None, _) => None,
        };
        Ok(NewRevocation { entry, subject, access_only })
    }

    fn to_entry(&self, policy: &IssuerPolicy, source: &str, now: UnixMillis) -> Result<Entry, InvalidRevocation> {
        let reason = self.reason.clone().unwrap_or_default();
        if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(InvalidRevocation::Reason);
        }
        if reason.split_whitespace().any(|word| credential::is_one(policy, word)) {
            return Err(InvalidRevocation::CredentialInReason);
        }
        let blank = Entry {
            policy: policy.name.clone(),
            kind: Kind::Token,
            issuer: self.issuer.clone(),
            id: String::new(),
            cutoff: UnixMillis::FOREVER,
            expires: policy.lives.all_over(now, policy.clock_skew_ms),
            version: 0,
            reason,
            source: source.to_owned(),
        };
        if self.ttl_s.is_some() && self.kind != Some(Kind::Ip) {
            return Err(InvalidRevocation::Ttl);
        }
        match (&self.credential, self.kind) {
            (Some(credential), None) if self.id.is_none() => {
                if self.before.is_some() {
                    return Err(InvalidRevocation::BeforeNotHere);
                }
                of_credential(policy, credential, blank, now)
            }
            (None, Some(kind)) => {
                // An opaque key can't be told from an id by its looks: whoever gives one means the key.
                if let (Kind::Token | Kind::ApiKey, Some(id), None) = (kind, &self.id, self.before)
                    && credential::is_opaque_key(policy, id)
                {
                    return of_credential(policy, id.trim(), blank, now);
                }
                if self.id.as_ref().is_some_and(|id| credential::is_one(policy, id)) {
                    return Err(InvalidRevocation::CredentialAsId);
                }
                if let Some(issuer) = self.issuer.as_ref().filter(|i| !knows(policy, i)) {
                    return Err(InvalidRevocation::UnknownIssuer(policy.name.clone(), issuer.clone()));
                }
                self.of_kind(policy, kind, blank, now)
            }
            _ => Err(InvalidRevocation::Shape),
        }
    }

    fn of_kind(
        &self,
        policy: &IssuerPolicy,
        kind: Kind,
        blank: Entry,
        now: UnixMillis,
    ) -> Result<Entry, InvalidRevocation> {
        let cutoff = self.cutoff(kind, now)?;
        let id = self.id.clone().unwrap_or_default();
        if kind == Kind::Policy {
            return match id.as_str() {
                "" | ACCESS_RING_ONLY => Ok(Entry { kind, id, cutoff, ..blank }),
                _ => Err(InvalidRevocation::PolicyId),
            };
        }
        if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
            return Err(InvalidRevocation::Id);
        }
        match kind {
            Kind::Key => Ok(Entry { kind, id, cutoff, expires: UnixMillis::FOREVER, ..blank }),
            Kind::Ip => {
                let ttl_ms = match self.ttl_s {
                    None => BLOCK_MS,
                    Some(ttl_s) if (1..=31_536_000).contains(&ttl_s) => ttl_s * 1000,
                    Some(_) => return Err(InvalidRevocation::Ttl),
                };
                let version = u64::try_from(now.0).unwrap_or(0);
                let network = network(&id)?;
                if network.parse().is_ok_and(|network| policy.compiled.addresses.names_allowed(&network)) {
                    return Err(InvalidRevocation::AllowedAddress(id));
                }
                Ok(Entry { kind, id: network, issuer: None, cutoff, expires: now.plus(ttl_ms), version, ..blank })
            }
            Kind::Token | Kind::Session | Kind::Subject | Kind::ApiKey | Kind::Policy => {
                Ok(Entry { kind, id, cutoff, ..blank })
            }
        }
    }

    fn cutoff(&self, kind: Kind, now: UnixMillis) -> Result<UnixMillis, InvalidRevocation> {
        let by_time = matches!(kind, Kind::Subject | Kind::Policy);
        match self.before {
            None => Ok(if by_time { now } else { UnixMillis::FOREVER }),
            Some(_) if !by_time => Err(InvalidRevocation::BeforeNotHere),
            Some(seconds) => {
                // Far beyond every calendar is still exact in milliseconds.
                if !seconds.is_finite() || seconds.abs() > 1e12 {
                    return Err(InvalidRevocation::BeforeNoTime);
                }
                #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
                let before = UnixMillis((seconds * 1000.0).round() as i64);
                if before > now { Err(InvalidRevocation::BeforeInFuture) } else { Ok(before) }
            }
        }
    }
}

pub(super) fn knows(policy: &IssuerPolicy, issuer: &str) -> bool {
    policy.own.as_ref().is_some_and(|own| own.issuer == issuer)
        || policy.trusted.iter().any(|t| t.issuer.as_deref() == Some(issuer))
}

fn network(text: &str) -> Result<String, InvalidRevocation> {
    let network = network_of(text).ok_or_else(|| InvalidRevocation::NoAddress(text.to_owned()))?;
    // A network that holds one of ours, or lies within one.
    let touches = |own: &IpNet| own.contains(&network) || network.contains(own);
    let own = OWN_NETWORKS.iter().filter_map(|text| text.parse::<IpNet>().ok()).any(|own| touches(&own));
    if own { Err(InvalidRevocation::OwnAddress(text.to_owned())) } else { Ok(network.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_network_in_one_spelling() {
        for (text, network_text) in [
            ("203.0.113.7", "203.0.113.7/32"),
            ("203.0.113.7/24", "203.0.113.0/24"),
            ("::ffff:203.0.113.7", "203.0.113.7/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ] {
            assert_eq!(network(text), Ok(network_text.to_owned()));
        }
        for own in [
            "127.0.0.1",
            "10.0.0.0/8",
            "::1",
            "fe80::1",
            "fd00::/8",
            "0.0.0.0/0",
            "100.64.0.1",
            // Wider ones that hold private addresses.
            "8.0.0.0/5",
            "128.0.0.0/1",
            "f000::/4",
            "::/8",
            "::ffff:10.0.0.0/104",
            "::ffff:0.0.0.0/95",
        ] {
            assert_eq!(network(own), Err(InvalidRevocation::OwnAddress(own.to_owned())));
        }
        assert_eq!(network("nonsense"), Err(InvalidRevocation::NoAddress("nonsense".to_owned())));
    }

    #[test]
    fn a_cut_off_is_now_unless_it_is_earlier_and_never_later() {
        let now = UnixMillis(1_800_000_000_123);
        let with = |before| RevocationRequest { before, ..RevocationRequest::default() };
        for (kind, before, cutoff) in [
            (Kind::Subject, None, Ok(now)),
            (Kind::Policy, Some(1_700_000_000.5), Ok(UnixMillis(1_700_000_000_500))),
            (Kind::Token, None, Ok(UnixMillis::FOREVER)),
            (Kind::Token, Some(1.0), Err(InvalidRevocation::BeforeNotHere)),
            (Kind::Subject, Some(1_800_000_001.0), Err(InvalidRevocation::BeforeInFuture)),
            (Kind::Subject, Some(f64::NAN), Err(InvalidRevocation::BeforeNoTime)),
            (Kind::Subject, Some(1e300), Err(InvalidRevocation::BeforeNoTime)),
        ] {
            assert_eq!(with(before).cutoff(kind, now), cutoff, "{kind:?} {before:?}");
        }
    }
}
