//! Blocked client addresses and networks, per policy.
//!
//! An `ip` entry says: requests up to its cut-off, and before its expiry, are denied. A higher version of the same network
//! replaces it, so a block is lifted by a higher version whose cut-off is [`super::LIFTED`].

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use ipnet::IpNet;
use parking_lot::RwLock;

use crate::{names::PolicyName, revocation::Entry, time::UnixMillis};

#[derive(Default)]
pub(super) struct BlockedAddresses {
    policies: RwLock<HashMap<PolicyName, Blocks>>,
    /// Spares the lock while there are none.
    len: AtomicUsize,
}

#[derive(Default)]
struct Blocks {
    by_network: HashMap<IpNet, Entry>,
    /// How many networks of each family and prefix length there are: what a lookup has to try.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl BlockedAddresses {
    pub(super) fn apply(&self, entry: &Entry) -> bool {
        let Some(network) = network(&entry.id) else { return false };
        let mut policies = self.policies.write();
        let blocks = policies.entry(entry.policy.clone()).or_default();
        match blocks.by_network.get_mut(&network) {
            Some(held) if entry.version <= held.version => false,
            Some(held) => {
                *held = entry.clone();
                true
            }
            None => {
                blocks.by_network.insert(network, entry.clone());
                *blocks.lengths.entry(length(&network)).or_default() += 1;
                self.len.fetch_add(1, Ordering::Release);
                true
            }
        }
    }

    pub(super) fn blocked(&self, policy: &PolicyName, ip: IpAddr, now: UnixMillis) -> bool {
        if self.len() == 0 {
            return false;
        }
        let ip = ip.to_canonical();
        let policies = self.policies.read();
        let Some(blocks) = policies.get(policy) else { return false };
        blocks
            .lengths
            .keys()
            .filter(|(v6, _)| *v6 == ip.is_ipv6())
            .filter_map(|(_, prefix)| IpNet::new(ip, *prefix).ok())
            .filter_map(|net| blocks.by_network.get(&net.trunc()))
            .any(|entry| now <= entry.cutoff && now < entry.expires)
    }

    pub(super) fn purge(&self, before: UnixMillis) -> usize {
        if self.len() == 0 {
            return 0;
        }
        let mut removed = 0;
        let mut policies = self.policies.write();
        for blocks in policies.values_mut() {
            let Blocks { by_network, lengths } = blocks;
            by_network.retain(|network, entry| {
                let keeps = entry.expires >= before;
                if !keeps {
                    removed += 1;
                    if let Some(n) = lengths.get_mut(&length(network)) {
                        *n -= 1;
                    }
                }
                keeps
            });
            lengths.retain(|_, n| *n > 0);
        }
        policies.retain(|_, blocks| !blocks.by_network.is_empty());
        self.len.fetch_sub(removed, Ordering::Release);
        removed
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn len_of(&self, policy: &PolicyName) -> usize {
        self.policies.read().get(policy).map_or(0, |blocks| blocks.by_network.len())
    }

    pub(super) fn counts(&self) -> Vec<(PolicyName, usize)> {
        self.policies.read().iter().map(|(name, blocks)| (name.clone(), blocks.by_network.len())).collect()
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.policies.read().values().flat_map(|blocks| blocks.by_network.values().cloned()).collect()
    }
}

/// A network as it is stored: host bits cleared, IPv4 in IPv6 mapped to IPv4.
fn network(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    let mapped = match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6.addr().to_ipv4_mapped().map(|v4| (v4, v6.prefix_len() - 96)),
        _ => None,
    };
    let net = match mapped {
        Some((v4, prefix)) => IpNet::new(v4.into(), prefix).ok()?,
        None => net,
    };
    Some(net.trunc())
}

fn length(network: &IpNet) -> (bool, u8) {
    (matches!(network, IpNet::V6(_)), network.prefix_len())
}
