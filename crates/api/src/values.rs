//! Values with a text form of their own: durations, amounts of memory, networks, times.

use std::{borrow::Cow, fmt, str::FromStr};

use countersign_core::time::UnixMillis;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a text of an object's name looks like: a DNS subdomain (RFC 1123), as Kubernetes has it for Secrets and ConfigMaps.
pub(crate) const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// A span of time as GEP-2257 writes it: `15m`, `720h`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(i64);

impl Duration {
    /// What a text of a duration looks like (GEP-2257).
    pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

    /// What every duration must be besides, for the API server: what [`Duration::from_str`] says of sums.
    pub(crate) const CEL: &str = "duration(self) <= duration('99999h')";

    /// Whole seconds.
    pub const fn secs(secs: i64) -> Self {
        Self(secs * 1000)
    }

    /// Whole minutes.
    pub const fn minutes(minutes: i64) -> Self {
        Self::secs(minutes * 60)
    }

    /// Whole hours.
    pub const fn hours(hours: i64) -> Self {
        Self::minutes(hours * 60)
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

/// Not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write hours, minutes, seconds or milliseconds, as in 15m, 720h or 1h30m")]
pub struct InvalidDuration(pub String);

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration(text.chars().take(64).collect());
        let mut rest = text;
        let mut millis = 0i64;
        for part in 0.. {
            if rest.is_empty() && part > 0 {
                // Beyond that it would have no text of its own.
                return if millis <= Self::hours(99_999).0 { Ok(Self(millis)) } else { Err(invalid()) };
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if part == 4 || digits == 0 || digits > 5 {
                break;
            }
            let number: i64 = rest[..digits].parse().map_err(|_| invalid())?;
            let after = &rest[digits..];
            // The longer unit first: "ms" is not minutes and a stray s.
            let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
            let Some((unit, factor)) = units.into_iter().find(|(unit, _)| after.starts_with(unit)) else { break };
            millis += number * factor;
            rest = &after[unit.len()..];
        }
        Err(invalid())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

/// An amount of memory: `19Mi`, `64Mi`, `1Gi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(u64);

impl Memory {
    /// What a text of it looks like.
    pub const PATTERN: &str = "^[1-9][0-9]{0,6}(Ki|Mi|Gi)$";

    /// Mebibytes.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// Bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

/// Not an amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of memory; write it as in 19Mi")]
pub struct InvalidMemory(pub String);

impl FromStr for Memory {
    type Err = InvalidMemory;

    fn from_str(text: &str) -> Result<Self, InvalidMemory> {
        let invalid = || InvalidMemory(text.chars().take(64).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=7).contains(&digits) || text.starts_with('0') {
            return Err(invalid());
        }
        let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
        match &text[digits..] {
            "Ki" => Ok(Self(number << 10)),
            "Mi" => Ok(Self(number << 20)),
            "Gi" => Ok(Self(number << 30)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b if b.is_multiple_of(1 << 30) => write!(f, "{}Gi", b >> 30),
            b if b.is_multiple_of(1 << 20) => write!(f, "{}Mi", b >> 20),
            b => write!(f, "{}Ki", b >> 10),
        }
    }
}

/// A network, `10.0.0.0/8`; a bare address is a network of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub ipnet::IpNet);

impl Network {
    /// What a text of it looks like.
    pub const PATTERN: &str = "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$";
    /// What every network must be besides, for the API server: what [`Network::from_str`] says.
    pub(crate) const CEL: &str = "self.contains('/') ? isCIDR(self) && cidr(self) == cidr(self).masked() : isIP(self)";
}

/// Not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network; write it as in 10.0.0.0/8 or 2001:db8::/32")]
pub struct InvalidNetwork(pub String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        // Strictly: some read 010.0.0.0 as 8.0.0.0.
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address = address.parse::<std::net::IpAddr>().ok();
        let net = address.and_then(|address| match prefix {
            None => Some(address.into()),
            Some(prefix) if prefix.len() > 1 && prefix.starts_with('0') => None,
            Some(prefix) => ipnet::IpNet::new(address, prefix.parse().ok()?).ok(),
        });
        match net {
            // Bits beyond the prefix would silently be ignored: more likely a mistake.
            // IPv4 within IPv6 would match no client: addresses are compared as what they are.
            Some(net) if net.trunc() == net && !is_mapped(net) => Ok(Self(net)),
            _ => Err(InvalidNetwork(text.chars().take(64).collect())),
        }
    }
}

fn is_mapped(net: ipnet::IpNet) -> bool {
    matches!(net, ipnet::IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some())
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instant, RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub UnixMillis);

impl Time {
    /// What a text of it looks like: RFC 3339, without leap seconds.
    pub const PATTERN: &str = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";
    /// What every time must be besides, for the API server: of a day that its month has.
    pub(crate) const CEL: &str = "!self.matches('^....-(0[2469]|11)-31') && !self.matches('^....-02-30') && (!self.matches('^....-02-29') || int(self.substring(0, 4)) % 4 == 0 && (int(self.substring(0, 4)) % 100 != 0 || int(self.substring(0, 4)) % 400 == 0))";
    /// The latest instant that is counted, 9999-12-30T22:00:00Z: it stands for the hours after it too, which people write for
    /// "never".
    const LAST: UnixMillis = UnixMillis(253_402_207_200_000);
}

/// Not an instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time; write it as in 2027-03-01T00:00:00Z (RFC 3339)")]
pub struct InvalidTime(pub String);

impl FromStr for Time {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        let invalid = || InvalidTime(text.chars().take(64).collect());
        // The parser takes more than RFC 3339; the API server wouldn't.
        let bytes = text.as_bytes();
        if !(20..=40).contains(&bytes.len()) || bytes[10] != b'T' || bytes[13] != b':' || text.contains('[') {
            return Err(invalid());
        }
        let instant = match text.parse::<jiff::Timestamp>() {
            Ok(instant) => UnixMillis(instant.as_millisecond()),
            Err(_) if is_beyond_last(text) => Self::LAST,
            Err(_) => return Err(invalid()),
        };
        Ok(Self(instant.min(Self::LAST)))
    }
}

/// Whether a text that the parser refused is a time further than it counts: the same time of the year before is one.
fn is_beyond_last(text: &str) -> bool {
    let within_year = text.strip_prefix("9999");
    within_year.is_some_and(|rest| format!("9998{rest}").parse::<jiff::Timestamp>().is_ok())
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! as_text {
    ($($value:ident: $schema:tt),*) => {
        $(
            impl Serialize for $value {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $value {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                }
            }

            impl JsonSchema for $value {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($value).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*
        crate::settings::plain!($($value),*);
    };
}

as_text!(
    Duration: {"type": "string", "maxLength": 24, "pattern": (Duration::PATTERN)},
    Memory: {"type": "string", "maxLength": 9, "pattern": (Memory::PATTERN)},
    Network: {"type": "string", "maxLength": 43, "pattern": (Network::PATTERN)},
    Time: {"type": "string", "maxLength": 40, "pattern": (Time::PATTERN)}
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_in_the_units_of_gep_2257() {
        for (text, millis, canonical) in [
            ("15m", 900_000, "15m"),
            ("720h", 2_592_000_000, "720h"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("0s", 0, "0s"),
            ("0h", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("1h2m3s4ms", 3_723_004, "1h2m3s4ms"),
            ("1s1s", 2_000, "2s"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!((duration.as_millis(), duration.to_string().as_str()), (millis, canonical), "{text}");
        }
        for bad in
            ["", "15", "m", "1d", "1.5h", "-1h", "+1h", " 1h", "1h ", "1 h", "123456s", "1h1h1h1h1h", "1H", "1hms", "1µs"]
        {
            assert_eq!(bad.parse::<Duration>(), Err(InvalidDuration(bad.into())), "{bad}");
        }
    }

    #[test]
    fn other_values_have_one_spelling_and_nonsense_none() {
        assert_eq!("19Mi".parse::<Memory>().unwrap().as_bytes(), 19 << 20);
        assert_eq!(Memory::mib(1024).to_string(), "1Gi");
        for bad in ["19", "19M", "019Mi", "0Mi", "-1Mi", "1.5Gi", "Mi"] {
            assert!(bad.parse::<Memory>().is_err(), "{bad}");
        }
        assert_eq!("10.0.0.0/8".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("10.1.2.3".parse::<Network>().unwrap().to_string(), "10.1.2.3/32");
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "localhost",
            "",
            "::ffff:10.0.0.0/104",
            "::ffff:10.0.0.1",
            "010.0.0.0/8",
            "10.0.0.0/08",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        assert_eq!("2027-03-01T00:00:00Z".parse::<Time>().unwrap().0, UnixMillis(1_803_859_200_000));
        assert_eq!("2027-03-01T01:00:00+01:00".parse::<Time>().unwrap().to_string(), "2027-03-01T00:00:00Z");
        for never in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999-23:59", "9999-12-30T22:00:01Z"] {
            let time: Time = never.parse().unwrap();
            assert_eq!(time.to_string(), "9999-12-30T22:00:00Z", "{never}");
            assert_eq!(time.to_string().parse::<Time>().unwrap(), time, "{never}");
        }
        for bad in [
            "2027-03-01",
            "2027-03-01T00:00:00",
            "tomorrow",
            "1803859200",
            "2027-03-01T00:00:00Z[UTC]",
            "9999-02-29T00:00:00Z",
            "9999-12-32T00:00:00Z",
            "9999-12-31T23:59:59",
        ] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_time_that_the_api_server_takes_is_taken(
            text in "(0000|9999|[0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
            last in "9999-12-(30|31)T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
        ) {
            let pattern = regex::Regex::new(Time::PATTERN).unwrap();
            for text in [text, last] {
                proptest::prop_assert!(pattern.is_match(&text));
                let time = text.parse::<Time>();
                proptest::prop_assert!(time.is_ok(), "{}", text);
                proptest::prop_assert_eq!(time.as_ref().unwrap().to_string().parse::<Time>(), time);
            }
        }

        #[test]
        fn durations_match_their_pattern_and_survive_their_text(text in "[0-9]{0,6}(h|m|s|ms|d)?[0-9]{0,3}(h|ms|s)?") {
            let pattern = regex::Regex::new(Duration::PATTERN).unwrap();
            let parsed = text.parse::<Duration>();
            proptest::prop_assert!(pattern.is_match(&text) || parsed.is_err());
            proptest::prop_assert!(parsed.is_ok() || !pattern.is_match(&text) || text.contains('h'));
            if let Ok(duration) = parsed {
                proptest::prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
            }
        }
    }
}
