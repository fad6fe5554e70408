//! Whose word about other requests is taken, and whose request it then is.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// Peers that may speak for others: proxies of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Networks.
    pub networks: Vec<IpNet>,
    /// The Unix socket.
    pub socket: bool,
}

/// An item of a list of proxies that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network (as 10.0.0.0/8), no address, and not `loopback` or `socket`")]
pub struct InvalidProxy(pub String);

/// What stands among a chain's addresses and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("X-Forwarded-For holds what is not an IP address")]
pub struct NotAnAddress;

impl Default for TrustedProxies {
    /// Loopback and the socket.
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"];
        Self { networks: loopback.iter().filter_map(|n| n.parse().ok()).collect(), socket: true }
    }
}

impl TrustedProxies {
    /// Nobody's word is taken.
    pub const fn none() -> Self {
        Self { networks: Vec::new(), socket: false }
    }

    /// Whether it is the address of one.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// Who asked, by the lines of `X-Forwarded-For` that a trusted peer sent: from the right, past our own proxies, for
    /// everything further left was written by somebody we don't know. Without lines it is the peer, which has no address on
    /// a Unix socket.
    pub fn client<'a>(
        &self,
        lines: impl DoubleEndedIterator<Item = &'a str>,
        peer: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, NotAnAddress> {
        let mut client = peer;
        for hop in lines.rev().flat_map(|line| line.rsplit(',')) {
            let ip = address(hop.trim()).ok_or(NotAnAddress)?;
            client = Some(ip);
            if !self.contains(ip) {
                break;
            }
        }
        Ok(client)
    }
}

/// An address as text, IPv4 within IPv6 as IPv4.
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

impl FromStr for TrustedProxies {
    type Err = InvalidProxy;

    /// Networks, addresses, `loopback` and `socket`, separated by commas.
    fn from_str(list: &str) -> Result<Self, InvalidProxy> {
        let mut trusted = Self::none();
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item {
                "socket" => trusted.socket = true,
                "loopback" => trusted.networks.extend(Self::default().networks),
                _ => {
                    let network = item.parse::<IpNet>().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
                    trusted.networks.push(network.map_err(|_| InvalidProxy(item.to_owned()))?);
                }
            }
        }
        Ok(trusted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_list_of_proxies_holds_networks_addresses_and_two_words() {
        let trusted: TrustedProxies = " 10.0.0.0/8, 192.0.2.1 ,loopback,,socket".parse().unwrap();
        assert!(trusted.socket);
        for (address, expected) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("192.0.2.1", true), ("192.0.2.2", false), ("::1", true)]
        {
            assert_eq!(trusted.contains(ip(address)), expected, "{address}");
        }
        assert_eq!("".parse(), Ok(TrustedProxies::none()));
        for bad in ["10.0.0.0/33", "proxy.example", "10.0.0", "all"] {
            assert_eq!(bad.parse::<TrustedProxies>(), Err(InvalidProxy(bad.to_owned())));
        }
    }

    #[test]
    fn a_chain_is_read_from_the_right_past_our_own() {
        let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
        let peer = Some(ip("10.0.0.1"));
        for (lines, expected) in [
            (&[][..], Ok(peer)),
            (&["203.0.113.7"], Ok(Some(ip("203.0.113.7")))),
            (&["6.6.6.6, 203.0.113.7, 10.0.0.2"], Ok(Some(ip("203.0.113.7")))),
            (&["6.6.6.6", "203.0.113.7,10.0.0.2"], Ok(Some(ip("203.0.113.7")))),
            (&["junk, 203.0.113.7"], Ok(Some(ip("203.0.113.7")))),
            (&["10.0.0.3, 10.0.0.2"], Ok(Some(ip("10.0.0.3")))),
            (&["::ffff:203.0.113.7"], Ok(Some(ip("203.0.113.7")))),
            (&["junk, 10.0.0.2"], Err(NotAnAddress)),
            (&["203.0.113.7:80"], Err(NotAnAddress)),
            (&[""], Err(NotAnAddress)),
        ] {
            assert_eq!(trusted.client(lines.iter().copied(), peer), expected, "{lines:?}");
        }
        assert_eq!(trusted.client(std::iter::empty(), None), Ok(None));
    }

    proptest! {
        #[test]
        fn what_a_stranger_puts_in_front_changes_nothing(junk in "[ -~]{0,40}", client: [u8; 4], proxy: [u8; 3]) {
            let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
            let (client, proxy) = (IpAddr::from(client), IpAddr::from([10, proxy[0], proxy[1], proxy[2]]));
            prop_assume!(!trusted.contains(client));
            let (line, told) = (format!("{client}, {proxy}"), format!("{junk}, {client}, {proxy}"));
            let plain = trusted.client([line.as_str()].into_iter(), Some(proxy));
            prop_assert_eq!(plain, Ok(Some(client)));
            prop_assert_eq!(trusted.client([told.as_str()].into_iter(), Some(proxy)), plain);
            prop_assert_eq!(trusted.client([junk.as_str(), line.as_str()].into_iter(), Some(proxy)), plain);
        }
    }
}
