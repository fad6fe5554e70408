//! Lengths and points of time as people write them on a command line.

use std::{fmt, str::FromStr, time::Duration};

use countersign_core::time::UnixMillis;

/// A length of time: `30s`, `1h30m`, `500ms`. Days don't exist, as in GEP-2257: their length depends on where one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// Why a text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write hours, minutes, seconds or milliseconds, for example 15m, 1h30m or 500ms")]
pub(crate) struct InvalidSpan(String);

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSpan(text.to_owned());
        let mut total: u64 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
            let (unit, tail) = tail.split_at(letters);
            let unit_ms: u64 = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1000,
                "ms" => 1,
                _ => return Err(invalid()),
            };
            let number: u64 = number.parse().map_err(|_| invalid())?;
            total = number.checked_mul(unit_ms).and_then(|ms| total.checked_add(ms)).ok_or_else(invalid)?;
            rest = tail;
        }
        // A hundred years is longer than anything here can mean.
        if text.is_empty() || total > 876_000 * 3_600_000 { Err(invalid()) } else { Ok(Self(Duration::from_millis(total))) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&exact(i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Milliseconds in the notation that [`Span`] reads.
pub(crate) fn exact(ms: i64) -> String {
    let mut left = ms;
    let mut text = String::new();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if left >= length {
            text.extend([(left / length).to_string().as_str(), unit]);
            left %= length;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Milliseconds roughly, for tables: the two largest units, days included.
pub(crate) fn rough(ms: i64) -> String {
    let seconds = ms.abs() / 1000;
    match seconds {
        0 => format!("{}ms", ms.abs()),
        1..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// An instant on the command line: RFC 3339, or how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A point in time.
    At(UnixMillis),
    /// This long before now.
    Ago(Span),
}

/// Why a text is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write RFC 3339, for example 2026-03-01T00:00:00Z, or how long ago, for example 2h")]
pub(crate) struct InvalidMoment(String);

impl FromStr for Moment {
    type Err = InvalidMoment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(span) = text.parse() {
            return Ok(Self::Ago(span));
        }
        let at: jiff::Timestamp = text.parse().map_err(|_| InvalidMoment(text.to_owned()))?;
        Ok(Self::At(UnixMillis(at.as_millisecond())))
    }
}

impl Moment {
    /// The instant, seen from `now`.
    pub(crate) fn resolve(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.minus(i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_policies_write_them() {
        for (text, ms) in [("15m", 900_000), ("1h30m", 5_400_000), ("500ms", 500), ("0s", 0), ("2m500ms", 120_500)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
            assert_eq!(Span(Duration::from_millis(ms)).to_string(), text);
        }
        for bad in ["", "15", "1d", "-1s", "1.5h", "m", "1 m", "1H", "99999999999999999999s", "9999999h"] {
            assert_eq!(bad.parse::<Span>(), Err(InvalidSpan(bad.into())));
        }
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now = UnixMillis(1_800_000_000_000);
        assert_eq!("2h".parse::<Moment>().unwrap().resolve(now), now.minus(7_200_000));
        assert_eq!("2026-03-01T00:00:00Z".parse::<Moment>().unwrap().resolve(now), UnixMillis(1_772_323_200_000));
        assert_eq!("yesterday".parse::<Moment>(), Err(InvalidMoment("yesterday".into())));
    }

    #[test]
    fn rough_lengths_are_short() {
        for (ms, text) in
            [(5, "5ms"), (90_000, "90s"), (900_000, "15m"), (10_800_000, "3h"), (259_200_000, "3d"), (-3_000, "3s")]
        {
            assert_eq!(rough(ms), text);
        }
    }
}
