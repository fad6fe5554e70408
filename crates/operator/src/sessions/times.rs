//! When tokens are renewed, and when sessions end.

use countersign_core::{digest::sha256, time::UnixMillis};
use uuid::Uuid;

/// Which part of a token's undisturbed life its renewal may come early by, so that sessions made together don't stay together.
const EARLY: f64 = 0.15;

/// When a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ends {
    /// Then.
    At(UnixMillis),
    /// When its Session is deleted.
    Never,
}

impl Ends {
    /// The end of a session that began at `start`.
    pub(super) fn of(start: UnixMillis, lifetime_ms: Option<i64>) -> Self {
        lifetime_ms.map_or(Self::Never, |lifetime| Self::At(start.plus(lifetime)))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "never" {
            return Some(Self::Never);
        }
        let at: jiff::Timestamp = text.parse().ok()?;
        Some(Self::At(UnixMillis(at.as_millisecond())))
    }

    pub(super) fn instant(self) -> Option<UnixMillis> {
        match self {
            Self::At(at) => Some(at),
            Self::Never => None,
        }
    }

    pub(super) fn is_over(self, now: UnixMillis) -> bool {
        self.instant().is_some_and(|at| at <= now)
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(at) => at.fmt(f),
            Self::Never => f.write_str("never"),
        }
    }
}

/// When a session began: its id says so, being a version 7 UUID. `None` for any other text.
pub(super) fn began(session_id: &str) -> Option<UnixMillis> {
    let id = Uuid::parse_str(session_id).ok().filter(|id| id.get_version_num() == 7)?;
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    let millis = i64::try_from(seconds).ok()?.checked_mul(1000)?;
    Some(UnixMillis(millis.saturating_add(i64::from(nanoseconds / 1_000_000))))
}

/// What a renewal's time is reckoned from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal<'a> {
    pub(super) issued: UnixMillis,
    pub(super) expires: UnixMillis,
    pub(super) renew_before_ms: i64,
    /// Since when this operator renews tokens.
    pub(super) leading_since: UnixMillis,
    /// What spreads tokens: the token's id.
    pub(super) token_id: &'a str,
}

/// When a token is renewed: `renewBefore` before it expires, and up to [`EARLY`] of its life earlier. What became due while
/// nobody led is spread over the first half of the time that is left, so that an outage is followed by no storm.
pub(super) fn renew_at(renewal: &Renewal<'_>) -> UnixMillis {
    let latest = renewal.expires.minus(renewal.renew_before_ms);
    let undisturbed = latest.since(renewal.issued).max(0);
    let (early, late) = fractions(renewal.token_id);
    let due = latest.minus(part(undisturbed, EARLY * early));
    if due > renewal.leading_since {
        return due;
    }
    let left = renewal.expires.since(renewal.leading_since).max(0);
    renewal.leading_since.plus(part(left, 0.5 * late))
}

/// Two fractions in [0, 1) that a text alone decides, so that they are the same after a restart.
fn fractions(text: &str) -> (f64, f64) {
    let digest = sha256(text.as_bytes());
    let of =
        |bytes: &[u8]| bytes.iter().take(4).fold(0.0, |sum, byte| sum * 256.0 + f64::from(*byte)) / f64::from(u32::MAX);
    (of(&digest[..4]).min(1.0), of(&digest[4..8]).min(1.0))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "lives are far below 2^53 ms")]
fn part(whole_ms: i64, fraction: f64) -> i64 {
    (whole_ms as f64 * fraction) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_end_survives_being_written_down() {
        for ends in [Ends::Never, Ends::At(UnixMillis(1_700_000_000_123)), Ends::At(UnixMillis(0))] {
            assert_eq!(Ends::parse(&ends.to_string()), Some(ends), "{ends}");
        }
        assert_eq!(Ends::parse("soon"), None);
        assert!(Ends::Never > Ends::At(UnixMillis::FOREVER));
    }

    #[test]
    fn only_an_id_of_ours_tells_when_its_session_began() {
        let now = countersign_feed::Clock::wall();
        let began = began(&Uuid::now_v7().to_string()).unwrap();
        assert!((0..1000).contains(&began.since(now)), "{began} {now}");
        for other in ["", "s1", "7f0c9d5e-5a3b-4c39-8d0a-3e8f5b7a2c11"] {
            assert_eq!(super::began(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_token_is_renewed_while_it_lives_and_no_earlier_than_needed(
            ttl in 60_000_i64..86_400_000,
            before in 0.0_f64..1.0,
            led_for in -86_400_000_i64..86_400_000,
            id in "[a-z]{8}",
        ) {
            let renew_before_ms = part(ttl, before).min(ttl - 1);
            let issued = UnixMillis(1_700_000_000_000);
            let expires = issued.plus(ttl);
            let leading_since = issued.minus(led_for);
            let at = renew_at(&Renewal { issued, expires, renew_before_ms, leading_since, token_id: &id });
            prop_assert!(at <= expires.max(leading_since));
            if leading_since <= issued {
                prop_assert!(at <= expires.minus(renew_before_ms));
                prop_assert!(at.since(issued) >= part(ttl - renew_before_ms, 1.0 - EARLY) - 1);
            } else {
                // Half of what is left stays as a margin.
                prop_assert!(at <= expires.minus(renew_before_ms).max(leading_since.plus(expires.since(leading_since).max(0) / 2)));
            }
        }
    }

    #[test]
    fn what_fell_due_together_while_nobody_led_is_spread() {
        let issued = UnixMillis(1_700_000_000_000);
        let leading_since = issued.plus(700_000);
        let mut at: Vec<i64> = (0..500)
            .map(|n| {
                let token_id = format!("token-{n}");
                let renewal = Renewal {
                    issued,
                    expires: issued.plus(900_000),
                    renew_before_ms: 300_000,
                    leading_since,
                    token_id: &token_id,
                };
                renew_at(&renewal).since(leading_since)
            })
            .collect();
        at.sort_unstable();
        assert!((0..100_000).contains(&at[0]) && at[499] <= 100_000, "{} {}", at[0], at[499]);
        let most_in_a_second = at.iter().map(|t| at.iter().filter(|u| (0..1000).contains(&(*u - t))).count()).max();
        assert!(most_in_a_second.unwrap() < 30, "{most_in_a_second:?}");
    }
}
