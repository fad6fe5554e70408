//! A ring as people and programs are shown it, by an issuer and by an operator alike: public halves, names and times alone.

use serde::Serialize;

use super::{Phase, RingKey, RingStatus, Waiting};
use crate::{jose::Algorithm, time::UnixMillis};

/// A key of a ring. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct KeyView<'a> {
    kid: &'a str,
    alg: Algorithm,
    state: &'static str,
    created_at: i64,
    activated_at: Option<i64>,
    retiring_at: Option<i64>,
    removed_at: Option<i64>,
    revoked_at: Option<i64>,
    /// When it signs, if it is about to.
    signs_at: Option<i64>,
}

/// Where a ring stands.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView<'a> {
    phase: &'static str,
    active_kid: Option<&'a str>,
    last_rotation_at: Option<i64>,
    next_rotation_at: Option<i64>,
    waiting: Option<WaitingView<'a>>,
}

/// What the next key waits for.
#[derive(Clone, Debug, Serialize)]
struct WaitingView<'a> {
    kid: &'a str,
    since: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lagging: Option<&'a [String]>,
    /// For people.
    detail: String,
}

fn secs(at: Option<UnixMillis>) -> Option<i64> {
    at.map(UnixMillis::as_secs)
}

impl RingKey {
    /// The key as it is shown, in a ring that stands so.
    pub fn view<'a>(&'a self, status: &RingStatus) -> KeyView<'a> {
        let waiting = status.waiting.as_ref().filter(|waiting| waiting.kid == self.kid);
        KeyView {
            kid: &self.kid,
            alg: self.algorithm,
            state: self.state.as_str(),
            created_at: self.created.as_secs(),
            activated_at: secs(self.activated),
            retiring_at: secs(self.retiring_since),
            removed_at: secs(self.remove_after),
            revoked_at: secs(self.revoked),
            signs_at: waiting.map(|waiting| waiting.not_before.as_secs()),
        }
    }
}

impl RingStatus {
    /// Where the ring stands, as it is shown. `lagging`: the names of verifiers that lack the next key, where they are known.
    pub fn view<'a>(&'a self, lagging: Option<&'a [String]>) -> StatusView<'a> {
        let waiting = self.waiting.as_ref().map(|waiting| WaitingView {
            kid: &waiting.kid,
            since: waiting.since.as_secs(),
            lagging,
            detail: waiting.detail(lagging.unwrap_or_default()),
        });
        StatusView {
            phase: self.phase.word(),
            active_kid: self.active_kid.as_deref(),
            last_rotation_at: secs(self.last_rotation),
            next_rotation_at: secs(self.next_rotation),
            waiting,
        }
    }
}

impl Waiting {
    fn detail(&self, lagging: &[String]) -> String {
        let kid = &self.kid;
        match (self.for_verifiers, lagging) {
            (true, []) => format!("{kid} waits for verifiers to acknowledge it"),
            (true, names) => format!("{kid} waits for {}", names.join(", ")),
            (false, _) => format!("{kid} is acknowledged and signs from {}", self.not_before),
        }
    }
}

impl Phase {
    /// The reason of the condition `KeysReady`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Generating => "Generating",
            Self::RotationWaiting => "RotationWaiting",
            Self::NoSigningKey => "NoSigningKey",
            Self::EmergencyUnacknowledged => "EmergencyUnacknowledged",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ring_s_standing_names_whom_the_next_key_waits_for_where_that_is_known() {
        let waiting = |for_verifiers| Waiting {
            kid: "k2".into(),
            since: UnixMillis(1_000),
            for_verifiers,
            not_before: UnixMillis(61_000),
            anyway_from: None,
        };
        let status = |for_verifiers| RingStatus {
            phase: Phase::RotationWaiting,
            active_kid: Some("k1".into()),
            last_rotation: Some(UnixMillis(500)),
            next_rotation: None,
            waiting: Some(waiting(for_verifiers)),
        };
        let names = ["node-a".to_owned(), "node-b".to_owned()];
        for (for_verifiers, lagging, shown, detail) in [
            (true, None, json!(null), "k2 waits for verifiers to acknowledge it"),
            (true, Some(&[][..]), json!([]), "k2 waits for verifiers to acknowledge it"),
            (true, Some(&names[..]), json!(["node-a", "node-b"]), "k2 waits for node-a, node-b"),
            (false, Some(&[][..]), json!([]), "k2 is acknowledged and signs from 1970-01-01T00:01:01Z"),
        ] {
            let view = serde_json::to_value(status(for_verifiers).view(lagging)).unwrap();
            assert_eq!((&view["phase"], &view["last_rotation_at"]), (&json!("RotationWaiting"), &json!(0)));
            assert_eq!((&view["waiting"]["detail"], &view["waiting"]["lagging"]), (&json!(detail), &shown));
        }
    }
}
