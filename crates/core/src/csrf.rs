//! The CSRF token that a cookie needs beside it on an unsafe method.
//!
//! It is a compact JWS of the policy's own access ring, `typ: csrf+jwt`, bound to the session by `sid`: whoever can verify the
//! session can verify it, and no secret is shared with verifiers. It can't pass for an access token, nor one for it, because
//! each demands its own `typ`. Nothing in it is compared with a secret, so no comparison's time tells anything.

use serde_json::{Map, Value, json};

use crate::{
    jose::{Algorithm, compact},
    keys::{SigningKey, SigningKeyError},
    mint,
    policy::OwnIssuer,
    time::UnixMillis,
};

/// `typ` of a CSRF token.
pub const CSRF_TOKEN_TYPE: &str = "csrf+jwt";

/// What a CSRF token shall say.
#[derive(Clone, Debug)]
pub struct CsrfTokenSpec<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `sid`: the session whose cookies it stands beside.
    pub session_id: &'a str,
    /// `iat`.
    pub issued_at: UnixMillis,
    /// `exp`, as the second that has begun: the session's end, or earlier.
    pub expires: UnixMillis,
}

/// A signed CSRF token. `key` is the access ring's.
pub fn mint_csrf(key: &SigningKey, spec: &CsrfTokenSpec<'_>) -> Result<String, SigningKeyError> {
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), json!(spec.issuer));
    claims.insert("sid".to_owned(), json!(spec.session_id));
    claims.insert("iat".to_owned(), json!(spec.issued_at.as_secs()));
    claims.insert("exp".to_owned(), json!(spec.expires.as_secs()));
    mint::sign(key, CSRF_TOKEN_TYPE, &claims)
}

/// Whether `token` is the policy's own, alive, and belongs to the session. `is_key_revoked` tells of keys that the feed calls
/// revoked and the ring doesn't yet.
pub fn belongs(
    own: &OwnIssuer,
    session_id: &str,
    token: &str,
    now: UnixMillis,
    is_key_revoked: impl Fn(&str) -> bool,
) -> bool {
    let Ok(jws) = compact::parse(token) else { return false };
    let Ok(algorithm) = jws.header.alg.parse::<Algorithm>() else { return false };
    let Some(kid) = jws.header.kid.as_deref() else { return false };
    let claim = |name: &str| jws.payload.get(name).and_then(Value::as_str);
    let lives = jws.payload.get("exp").and_then(Value::as_i64).is_some_and(|exp| now < UnixMillis::from_secs(exp));
    jws.header.typ.as_deref() == Some(CSRF_TOKEN_TYPE)
        && claim("iss") == Some(&*own.issuer)
        && claim("sid") == Some(session_id)
        && lives
        && own.access.with_kid(kid).any(|entry| {
            !entry.revoked
                && !is_key_revoked(kid)
                && entry.key.fits(algorithm)
                && entry.key.verify(algorithm, jws.signing_input, &jws.signature)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyEntry, KeySet, VerifyingKey};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn own(key: &SigningKey, revoked: bool) -> OwnIssuer {
        let verifying = VerifyingKey::from_jwk(key.public_jwk(), &[Algorithm::EdDSA]).unwrap();
        OwnIssuer {
            issuer: "https://auth.shop.example".into(),
            access: KeySet::new(vec![KeyEntry { key: verifying, revoked }]),
            api_key: KeySet::default(),
            emergency: None,
        }
    }

    fn spec(session_id: &str, expires: UnixMillis) -> CsrfTokenSpec<'_> {
        CsrfTokenSpec { issuer: "https://auth.shop.example", session_id, issued_at: NOW, expires }
    }

    #[test]
    fn a_csrf_token_belongs_to_its_own_living_session_alone() {
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        let other = SigningKey::generate(Algorithm::EdDSA).unwrap();
        let own = own(&key, false);
        let token = |key: &SigningKey, spec: CsrfTokenSpec<'_>| mint_csrf(key, &spec).unwrap();
        let later = NOW.plus(60_000);
        let good = token(&key, spec("s1", later));
        let claims = json!({"iss": "https://auth.shop.example", "sid": "s1", "exp": later.as_secs()});
        let as_access = mint::sign(&key, mint::ACCESS_TOKEN_TYPE, claims.as_object().unwrap());
        for (what, token, belongs_to_it) in [
            ("its own", good.clone(), true),
            ("another session's", token(&key, spec("s2", later)), false),
            ("one that is over", token(&key, spec("s1", NOW)), false),
            ("another key's", token(&other, spec("s1", later)), false),
            ("another issuer's", token(&key, CsrfTokenSpec { issuer: "https://x", ..spec("s1", later) }), false),
            ("an access token", as_access.unwrap(), false),
            ("a part", good[..good.len() - 1].to_owned(), false),
            ("nothing", String::new(), false),
        ] {
            assert_eq!(belongs(&own, "s1", &token, NOW, |_| false), belongs_to_it, "{what}");
        }
        assert!(!belongs(&own, "s1", &good, NOW, |kid| kid == key.kid()), "the feed calls its key revoked");
    }

    #[test]
    fn a_revoked_key_s_csrf_tokens_are_worth_nothing() {
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        let token = mint_csrf(&key, &spec("s1", NOW.plus(60_000))).unwrap();
        assert!(!belongs(&own(&key, true), "s1", &token, NOW, |_| false));
    }
}
