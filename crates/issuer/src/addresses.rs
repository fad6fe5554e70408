//! Addresses that may not log in, and those that are never blocked.

use std::net::IpAddr;

use countersign_core::{
    revocation::{Entry, Kind},
    time::UnixMillis,
};
use countersign_store::{AddressBlock, NewRevocation, StoreError, Tx};
use ipnet::IpNet;

use crate::{InvalidRevocation, IssuerPolicy, RevocationRequest, audit::EventKind, call::Call};

/// A network that shall be blocked.
#[derive(Clone, Debug)]
pub(crate) struct Blocking {
    pub(crate) network: String,
    pub(crate) reason: String,
    /// For so long, seconds.
    pub(crate) ttl_s: i64,
    /// Who says so.
    pub(crate) source: &'static str,
}

impl Blocking {
    /// What verifiers would be told of it. Refuses what must never be blocked, such as our own networks.
    pub(crate) fn revocation(&self, policy: &IssuerPolicy, now: UnixMillis) -> Result<NewRevocation, InvalidRevocation> {
        let request = RevocationRequest {
            kind: Some(Kind::Ip),
            id: Some(self.network.clone()),
            reason: Some(self.reason.clone()),
            ttl_s: Some(self.ttl_s),
            ..RevocationRequest::default()
        };
        request.to_revocation(policy, self.source, now)
    }

    /// Blocks it at issuers, and tells of it.
    pub(crate) async fn block(
        &self,
        tx: &mut Tx,
        call: &Call,
        new: &NewRevocation,
        now: UnixMillis,
    ) -> Result<AddressBlock, StoreError> {
        block(tx, call, &new.entry, now).await
    }
}

/// Blocks at issuers what an entry has verifiers refuse, and tells of it.
pub(crate) async fn block(tx: &mut Tx, call: &Call, entry: &Entry, now: UnixMillis) -> Result<AddressBlock, StoreError> {
    let block = AddressBlock {
        policy: call.policy.name.clone(),
        network: entry.id.clone(),
        reason: entry.reason.clone(),
        source: entry.source.clone(),
        created: now,
        expires: entry.expires,
    };
    tx.block(&block).await?;
    let event = call.event(EventKind::IpBlocked).detail("network", block.network.as_str());
    let event = if call.actor.is_some() { event.detail("by", "administrator") } else { event };
    event.detail("until", block.expires.as_secs()).write(tx, now).await?;
    Ok(block)
}

/// An address' own network and every one around it, in the one spelling in which blocks are kept.
pub(crate) fn networks_around(ip: IpAddr) -> Vec<String> {
    let ip = ip.to_canonical();
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let around = (0..=longest).filter_map(|length| IpNet::new(ip, length).ok());
    around.map(|network| network.trunc().to_string()).collect()
}

/// The network as which an address is blocked: itself, and of IPv6 its /64, for whoever has one of these has them all.
pub(crate) fn block_of(ip: IpAddr) -> String {
    let ip = ip.to_canonical();
    let length = if ip.is_ipv4() { 32 } else { 64 };
    IpNet::new(ip, length).map_or_else(|_| ip.to_string(), |network| network.trunc().to_string())
}

/// The network that a text names: an address' own, or one that is written as such. An IPv4 network that is written as IPv6 is
/// the IPv4 one: that is what addresses are compared as.
pub(crate) fn network_of(text: &str) -> Option<IpNet> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(IpNet::from(ip.to_canonical()));
    }
    let network = text.parse::<IpNet>().ok()?;
    let mapped = match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6.addr().to_ipv4_mapped().map(|ip| (ip, v6.prefix_len() - 96)),
        _ => None,
    };
    let v4 = mapped.and_then(|(ip, length)| IpNet::new(ip.into(), length).ok());
    Some(v4.unwrap_or(network).trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_named_in_one_spelling_however_it_is_written() {
        for (text, network) in [
            ("203.0.113.7", Some("203.0.113.7/32")),
            ("203.0.113.7/24", Some("203.0.113.0/24")),
            ("::ffff:203.0.113.7", Some("203.0.113.7/32")),
            ("::ffff:203.0.113.0/120", Some("203.0.113.0/24")),
            ("nonsense", None),
        ] {
            assert_eq!(network_of(text).map(|network| network.to_string()).as_deref(), network, "{text}");
        }
    }

    #[test]
    fn an_address_lies_in_its_own_network_and_all_around_it() {
        let networks = networks_around("::ffff:203.0.113.7".parse().unwrap());
        assert_eq!(networks.len(), 33);
        for network in ["0.0.0.0/0", "203.0.113.0/24", "203.0.113.7/32"] {
            assert!(networks.iter().any(|held| held == network), "{network}");
        }
        assert_eq!(networks_around("2001:db8::1".parse().unwrap()).len(), 129);
    }
}
