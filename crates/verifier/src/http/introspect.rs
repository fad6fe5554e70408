//! Token introspection (RFC 7662), for clients that speak nothing else.

use countersign_core::{
    check::{Ask, Authenticated},
    time::UnixMillis,
};
use serde_json::json;

use super::{problem::Problem, target::form_pairs, verdict};
use crate::{
    app::{App, Question},
    net::{Answer, Peer},
    slot::PolicySlot,
};

/// The `token` of a form.
pub(crate) fn token(body: &[u8]) -> Result<String, Problem> {
    let pairs = form_pairs(body).ok_or_else(|| Problem::invalid("the body is not a form"))?;
    let mut tokens = pairs.into_iter().filter(|(name, _)| name == "token").map(|(_, value)| value);
    match (tokens.next(), tokens.next()) {
        (Some(token), None) if !token.is_empty() => Ok(token),
        (_, Some(_)) => Err(Problem::invalid("token is there twice")),
        _ => Err(Problem::invalid("token is missing or empty")),
    }
}

/// Whether the token is active. What can't be said now is an error, never "inactive" (RFC 7662 section 2.3 leaves only that).
pub(crate) fn answer(app: &App, slot: &PolicySlot, token: &str, caller: Peer) -> Answer {
    let question = Question { token, ask: Ask::default(), caller, behind: false };
    app.judge(slot, &question, app.moment(slot), |outcome| match outcome {
        Ok(granted) => verdict::json(active(granted.allowed.credential()).to_string().into_bytes()),
        // 503 and 429: nothing is said about the token.
        Err(refusal) if refusal.status() >= 429 => verdict::refused(&refusal),
        Err(_) => verdict::json(br#"{"active":false}"#.to_vec()),
    })
}

fn active(credential: &Authenticated) -> serde_json::Value {
    let audience = match credential.audience() {
        [one] => json!(one),
        all => json!(all),
    };
    let optional = [
        ("iss", json!(credential.issuer())),
        ("jti", json!(credential.token_id())),
        ("sid", json!(credential.session_id())),
        ("iat", json!(credential.issued_at().map(UnixMillis::as_secs))),
        ("exp", json!(credential.expires_at().map(UnixMillis::as_secs))),
        ("nbf", credential.claim("nbf").unwrap_or_default()),
        ("client_id", credential.claim("client_id").unwrap_or_default()),
        ("aud", audience),
    ];
    let mut members = json!({
        "active": true,
        "token_type": "Bearer",
        "sub": credential.subject(),
        "scope": credential.scopes().join(" "),
        "roles": credential.roles(),
    });
    for (name, value) in optional {
        if !value.is_null() {
            members[name] = value;
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_names_one_token() {
        assert_eq!(token(b"token=a.b.c&token_type_hint=access_token").unwrap(), "a.b.c");
        for bad in [&b""[..], b"token=", b"token=a&token=b", b"toke=a", b"token=%zz"] {
            assert_eq!(token(bad).unwrap_err().status, 400);
        }
    }
}
