//! Where in the feed a revocation stands.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An epoch and a place in it, as one integer (`epoch * 2^36 + n`) that a double holds exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

/// Why a text is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position that Countersign gave out")]
pub struct InvalidPosition;

impl Position {
    const PLACES: u64 = 1 << 36;
    /// The largest integer that a double (a Redis score) holds exactly, 2^53.
    const END: u64 = 1 << 53;

    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The place `n` of `epoch`; `None` past what a double holds exactly.
    pub const fn new(epoch: u64, n: u64) -> Option<Self> {
        if n < Self::PLACES && epoch < Self::END / Self::PLACES { Some(Self(epoch * Self::PLACES + n)) } else { None }
    }

    /// From the integer form.
    pub const fn from_score(score: u64) -> Option<Self> {
        if score < Self::END { Some(Self(score)) } else { None }
    }

    /// The integer form.
    pub const fn score(self) -> u64 {
        self.0
    }

    /// The epoch.
    pub const fn epoch(self) -> u64 {
        self.0 / Self::PLACES
    }

    /// The place within the epoch.
    pub const fn place(self) -> u64 {
        self.0 % Self::PLACES
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}n{}", self.epoch(), self.place())
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(s: &str) -> Result<Self, InvalidPosition> {
        let (epoch, n) = s.strip_prefix('e').and_then(|r| r.split_once('n')).ok_or(InvalidPosition)?;
        let digits = |t: &str| t.len() <= 16 && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(epoch) || !digits(n) {
            return Err(InvalidPosition);
        }
        let number = |t: &str| t.parse::<u64>().map_err(|_| InvalidPosition);
        let position = Self::new(number(epoch)?, number(n)?).ok_or(InvalidPosition)?;
        // One position has one text.
        if position.to_string() == s { Ok(position) } else { Err(InvalidPosition) }
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_exactly_one_text() {
        let p = Position::new(3, 17).unwrap();
        assert_eq!(p.to_string(), "e3n17");
        assert_eq!("e3n17".parse(), Ok(p));
        for bad in [
            "",
            "e3",
            "n17",
            "3n17",
            "e03n17",
            "e3n017",
            "e3n+1",
            "e3n-1",
            "e3n17 ",
            "E3N17",
            "e131072n0",
            "e3n68719476736",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(InvalidPosition), "{bad:?}");
        }
    }

    #[test]
    fn later_epochs_come_later_whatever_the_place() {
        assert!(Position::new(2, 0) > Position::new(1, Position::PLACES - 1));
        assert_eq!(Position::new(131_072, 0), None);
    }
}
