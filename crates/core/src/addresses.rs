//! A policy's own lists of client addresses.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Networks that clients may, and may not, come from. Deny wins; an empty allow list allows all.
#[derive(Clone, Debug, Default)]
pub struct AddressLists {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

/// What the lists say of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressVerdict {
    /// Nothing against it.
    Allowed,
    /// Denied, or not among the allowed.
    Denied,
    /// There are lists, and the caller told no address.
    Missing,
}

impl AddressLists {
    /// Lists of networks. IPv4 networks written as IPv6 ones (`::ffff:10.0.0.0/104`) count as IPv4.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        let plain = |list: Vec<IpNet>| list.into_iter().map(unmapped_net).collect();
        Self { allow: plain(allow), deny: plain(deny) }
    }

    /// Whether some address of `network` is among those that are named as allowed. To allow every address names none.
    pub fn names_allowed(&self, network: &IpNet) -> bool {
        let network = unmapped_net(*network);
        let mut named = self.allow.iter().filter(|net| net.prefix_len() > 0);
        named.any(|net| net.contains(&network) || network.contains(net))
    }

    /// Judges the client at this address.
    pub fn judge(&self, address: Option<IpAddr>) -> AddressVerdict {
        if self.allow.is_empty() && self.deny.is_empty() {
            return AddressVerdict::Allowed;
        }
        let Some(address) = address.map(|a| a.to_canonical()) else {
            return AddressVerdict::Missing;
        };
        let listed = |list: &[IpNet]| list.iter().any(|net| net.contains(&address));
        if listed(&self.deny) || !(self.allow.is_empty() || listed(&self.allow)) {
            AddressVerdict::Denied
        } else {
            AddressVerdict::Allowed
        }
    }
}

fn unmapped_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(addr, len)| Ipv4Net::new(addr, len).ok()).map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(allow: &[&str], deny: &[&str]) -> AddressLists {
        let nets = |list: &[&str]| list.iter().map(|n| n.parse().unwrap()).collect();
        AddressLists::new(nets(allow), nets(deny))
    }

    #[test]
    fn a_network_that_overlaps_an_allowed_one_is_named() {
        let lists = lists(&["203.0.113.0/24", "::/0", "::ffff:198.51.100.0/120"], &["192.0.2.0/24"]);
        for (network, named) in [
            ("203.0.113.7/32", true),
            ("203.0.0.0/16", true),
            ("::ffff:203.0.113.7/128", true),
            ("198.51.100.1/32", true),
            ("192.0.2.1/32", false),
            ("2001:db8::/32", false),
        ] {
            assert_eq!(lists.names_allowed(&network.parse().unwrap()), named, "{network}");
        }
    }

    #[test]
    fn deny_wins_and_an_empty_allow_list_allows_all() {
        use AddressVerdict::{Allowed, Denied, Missing};
        let none: [&str; 0] = [];
        for (allow, deny, address, expected) in [
            (&none[..], &none[..], None, Allowed),
            (&none, &none, Some("203.0.113.7"), Allowed),
            (&["10.0.0.0/8"], &none, Some("10.1.2.3"), Allowed),
            (&["10.0.0.0/8"], &none, Some("11.1.2.3"), Denied),
            (&["10.0.0.0/8"], &none, Some("::ffff:10.1.2.3"), Allowed),
            (&["::ffff:10.0.0.0/104"], &none, Some("10.1.2.3"), Allowed),
            (&["::/0"], &none, Some("10.1.2.3"), Denied),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], Some("10.1.2.3"), Denied),
            (&none, &["2001:db8::/32"], Some("2001:db8::1"), Denied),
            (&none, &["2001:db8::/32"], Some("2001:db9::1"), Allowed),
            (&none, &["0.0.0.0/0"], Some("::ffff:1.2.3.4"), Denied),
            (&["10.0.0.0/8"], &none, None, Missing),
            (&none, &["10.0.0.0/8"], None, Missing),
        ] {
            let verdict = lists(allow, deny).judge(address.map(|a| a.parse().unwrap()));
            assert_eq!(verdict, expected, "{allow:?} {deny:?} {address:?}");
        }
    }
}
