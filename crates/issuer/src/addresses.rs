//! Addresses that may not log in, and those that are never blocked.

use std::net::IpAddr;

use ipnet::IpNet;

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

/// The network that a text names, in that spelling: an address' own, or one that is written as such.
pub(crate) fn network_of(text: &str) -> Option<String> {
    let text = text.trim();
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(IpNet::from(ip.to_canonical()).to_string()),
        Err(_) => text.parse::<IpNet>().ok().map(|network| network.trunc().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
