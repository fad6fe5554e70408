//! A token as it lies in its Secret, believed only as far as the policy's own keys vouch for it.

use countersign_core::{
    jose::compact,
    keys::VerifyingKey,
    ring::{KeyState, Ring},
    time::UnixMillis,
};
use serde_json::{Map, Value};

/// What a token says that the policy's access ring signed and would sign for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) session_id: String,
    pub(super) token_id: String,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    pub(super) roles: Vec<String>,
    pub(super) kid: String,
    pub(super) issued: UnixMillis,
    pub(super) expires: UnixMillis,
}

impl Delivered {
    /// `None`: not a token, or not one that a living key of the ring signed. Somebody may have edited the Secret.
    pub(super) fn read(token: &str, ring: &Ring) -> Option<Self> {
        let parsed = compact::parse(token).ok()?;
        let key = ring.key(parsed.header.kid.as_deref()?).filter(|key| key.state != KeyState::Revoked)?;
        let mut jwk = key.public.clone();
        jwk.kid = Some(key.kid.clone());
        let verifying = VerifyingKey::from_jwk(&jwk, &[key.algorithm]).ok()?;
        if parsed.header.alg != key.algorithm.as_str()
            || !verifying.verify(key.algorithm, parsed.signing_input, &parsed.signature)
        {
            return None;
        }
        let claims = &parsed.payload;
        Some(Self {
            session_id: text(claims, "sid")?,
            token_id: text(claims, "jti")?,
            issuer: text(claims, "iss")?,
            subject: text(claims, "sub")?,
            audiences: texts(claims, "aud")?,
            roles: texts(claims, "roles")?,
            kid: key.kid.clone(),
            issued: UnixMillis(claims.get("iat_ms")?.as_i64()?),
            expires: UnixMillis::from_secs(claims.get("exp")?.as_i64()?),
        })
    }
}

fn text(claims: &Map<String, Value>, name: &str) -> Option<String> {
    claims.get(name)?.as_str().map(str::to_owned)
}

fn texts(claims: &Map<String, Value>, name: &str) -> Option<Vec<String>> {
    match claims.get(name)? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(several) => several.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
