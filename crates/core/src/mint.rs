//! Tokens of our own: access tokens (RFC 9068), emergency tokens and API keys.

use serde_json::{Map, Value, json};

use crate::{
    jose::base64url,
    keys::{SigningKey, SigningKeyError},
    time::UnixMillis,
};

/// `typ` of an access token (RFC 9068 section 2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";
/// `typ` of an API key.
pub const API_KEY_TYPE: &str = "api-key+jwt";
/// `typ` of an emergency token.
pub const EMERGENCY_TOKEN_TYPE: &str = "emergency+jwt";
/// The claim of an emergency token that says why it was made: `{"reason": "…"}`.
pub const EMERGENCY_CLAIM: &str = "emergency";
/// What an API key begins with, so that scanners of source code find one that was committed.
pub const API_KEY_PREFIX: &str = "csk_";
/// `client_id` of tokens that no OAuth client asked for.
pub const OWN_CLIENT_ID: &str = "countersign";

/// What an access token shall say.
#[derive(Clone, Debug)]
pub struct AccessTokenSpec {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`: at least one.
    pub audiences: Vec<String>,
    /// `roles`.
    pub roles: Vec<String>,
    /// `scope`.
    pub scopes: Vec<String>,
    /// `sid`.
    pub session_id: Option<String>,
    /// `jti`.
    pub token_id: String,
    /// `iat_ms`, and `iat` as its second.
    pub issued_at: UnixMillis,
    /// `exp`, as the second that has begun.
    pub expires: UnixMillis,
    /// `amr` (RFC 8176).
    pub amr: Vec<String>,
    /// `client_id` (RFC 9068 section 2.2); [`OWN_CLIENT_ID`] when no OAuth client asked.
    pub client_id: Option<String>,
    /// Members beyond these. None of them replaces one of these.
    pub extra: Map<String, Value>,
}

/// What an API key shall say.
#[derive(Clone, Debug)]
pub struct ApiKeySpec {
    /// `iss`.
    pub issuer: String,
    /// `sub`: its owner.
    pub subject: String,
    /// `aud`: at least one.
    pub audiences: Vec<String>,
    /// `roles`: its owner's, within which its scopes permit.
    pub roles: Vec<String>,
    /// `scope`: what it may do.
    pub scopes: Vec<String>,
    /// `jti`: the id it is revoked by.
    pub token_id: String,
    /// `iat_ms`, and `iat` as its second.
    pub issued_at: UnixMillis,
    /// `exp`, as the second that has begun.
    pub expires: UnixMillis,
}

/// A signed access token.
pub fn mint_access(key: &SigningKey, spec: &AccessTokenSpec) -> Result<String, SigningKeyError> {
    sign(key, ACCESS_TOKEN_TYPE, &access_claims(spec)?)
}

/// A signed emergency token, made for `reason`, which is no secret.
pub fn mint_emergency(key: &SigningKey, spec: &AccessTokenSpec, reason: &str) -> Result<String, SigningKeyError> {
    let mut claims = access_claims(spec)?;
    claims.insert(EMERGENCY_CLAIM.to_owned(), json!({"reason": reason}));
    sign(key, EMERGENCY_TOKEN_TYPE, &claims)
}

fn access_claims(spec: &AccessTokenSpec) -> Result<Map<String, Value>, SigningKeyError> {
    let mut claims = spec.extra.clone();
    claims.extend(common_claims(
        &spec.issuer,
        &spec.subject,
        &spec.audiences,
        spec.issued_at,
        spec.expires,
        &spec.token_id,
    ));
    if let Some(session_id) = &spec.session_id {
        claims.insert("sid".to_owned(), json!(session_id));
    }
    claims.insert("client_id".to_owned(), json!(spec.client_id.as_deref().unwrap_or(OWN_CLIENT_ID)));
    claims.insert("roles".to_owned(), json!(spec.roles));
    claims.insert("scope".to_owned(), json!(joined(&spec.scopes)?));
    if !spec.amr.is_empty() {
        claims.insert("amr".to_owned(), json!(spec.amr));
    }
    Ok(claims)
}

/// A signed API key, prefix and all.
pub fn mint_api_key(key: &SigningKey, spec: &ApiKeySpec) -> Result<String, SigningKeyError> {
    let mut claims =
        common_claims(&spec.issuer, &spec.subject, &spec.audiences, spec.issued_at, spec.expires, &spec.token_id);
    claims.insert("roles".to_owned(), json!(spec.roles));
    claims.insert("scope".to_owned(), json!(joined(&spec.scopes)?));
    Ok(format!("{API_KEY_PREFIX}{}", sign(key, API_KEY_TYPE, &claims)?))
}

/// The value of `scope`.
fn joined(scopes: &[String]) -> Result<String, SigningKeyError> {
    let odd = |scope: &String| scope.is_empty() || scope.chars().any(|c| c == ' ' || c.is_control());
    if scopes.iter().any(odd) { Err(SigningKeyError::Scope) } else { Ok(scopes.join(" ")) }
}

/// A compact JWS over `claims`, with `alg`, `kid` and `typ` in its header.
pub fn sign(key: &SigningKey, typ: &str, claims: &Map<String, Value>) -> Result<String, SigningKeyError> {
    let header = json!({"alg": key.algorithm(), "kid": key.kid(), "typ": typ});
    let claims = Value::Object(claims.clone());
    let mut token = format!("{}.{}", base64url::encode(header.to_string()), base64url::encode(claims.to_string()));
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&base64url::encode(signature));
    Ok(token)
}

fn common_claims(
    issuer: &str,
    subject: &str,
    audiences: &[String],
    issued_at: UnixMillis,
    expires: UnixMillis,
    token_id: &str,
) -> Map<String, Value> {
    // RFC 7519 section 4.1.3: a single audience may stand as a string, which is what most readers expect.
    let audience = match audiences {
        [one] => json!(one),
        several => json!(several),
    };
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), json!(issuer));
    claims.insert("sub".to_owned(), json!(subject));
    claims.insert("aud".to_owned(), audience);
    claims.insert("iat".to_owned(), json!(issued_at.as_secs()));
    claims.insert("iat_ms".to_owned(), json!(issued_at.0));
    claims.insert("exp".to_owned(), json!(expires.as_secs()));
    claims.insert("jti".to_owned(), json!(token_id));
    claims
}
