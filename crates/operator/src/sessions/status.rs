//! What a session's status says.

use countersign_api::session::SessionStatus;
use countersign_core::time::UnixMillis;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{delivered::Delivered, steps::Outcome};

const READY: &str = "Ready";

/// The status after an outcome; `before` where nothing is to be said. Times stand still while nothing changes.
pub(super) fn status(
    before: &SessionStatus,
    generation: Option<i64>,
    secret: &str,
    outcome: &Outcome,
    now: UnixMillis,
) -> SessionStatus {
    let (word, reason, message) = match outcome {
        Outcome::Unchanged => return before.clone(),
        Outcome::Issued { .. } => ("True", "Issued", format!("its token is in Secret {secret}")),
        Outcome::Refused { reason, message } => ("False", reason.as_str(), message.clone()),
        Outcome::Waiting { message, token: Some(_) } => {
            ("True", "Issued", format!("its token is in Secret {secret}; no other can be made now: {message}"))
        }
        Outcome::Waiting { message, token: None } => ("Unknown", "Pending", message.clone()),
    };
    let mut after = before.clone();
    match outcome {
        Outcome::Issued { session_id, token: Some(token) } => issued(&mut after, session_id, token),
        Outcome::Refused { reason, .. } if reason.forgets_session() => {
            after.session_id = None;
            after.issue_time = None;
            after.expiration_time = None;
            after.renewal_time = None;
        }
        _ => {}
    }
    after.observed_generation = generation;
    set_ready(&mut after, word, reason, message, generation, now);
    after
}

/// The status before a new session id's first token is made.
pub(super) fn begun(before: &SessionStatus, session_id: &str) -> SessionStatus {
    SessionStatus {
        session_id: Some(session_id.to_owned()),
        issue_time: None,
        expiration_time: None,
        renewal_time: None,
        ..before.clone()
    }
}

fn issued(status: &mut SessionStatus, session_id: &str, token: &Delivered) {
    let same_session = status.session_id.as_deref() == Some(session_id);
    let issue_time = time(token.issued);
    let earlier = status.issue_time.take().filter(|_| same_session);
    status.renewal_time = match earlier {
        Some(earlier) if earlier != issue_time => Some(issue_time.clone()),
        _ => status.renewal_time.take().filter(|_| same_session),
    };
    status.session_id = Some(session_id.to_owned());
    status.issue_time = Some(issue_time);
    status.expiration_time = Some(time(token.expires));
}

fn set_ready(
    status: &mut SessionStatus,
    word: &str,
    reason: &str,
    message: String,
    generation: Option<i64>,
    now: UnixMillis,
) {
    let held = status.conditions.iter().position(|condition| condition.type_ == READY);
    let since = held.map(|at| &status.conditions[at]).filter(|held| held.status == word);
    let condition = Condition {
        type_: READY.to_owned(),
        status: word.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since.map_or_else(|| time(now), |held| held.last_transition_time.clone()),
    };
    match held {
        Some(at) => status.conditions[at] = condition,
        None => status.conditions.push(condition),
    }
}

/// As the API server keeps times: whole seconds.
fn time(at: UnixMillis) -> Time {
    let seconds = k8s_openapi::jiff::Timestamp::from_second(at.as_secs());
    Time(seconds.unwrap_or(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
}
