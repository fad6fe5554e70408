//! Rows of another schema, as they would be here: what is taken over, and why a row can't be.

use countersign_api::policy::EmailVerification;
use countersign_core::{mint::OWN_CLIENT_ID, opaque::OpaqueKey, time::UnixMillis};
use countersign_store::{ApiKey, Folded, PasswordHash, SecretHash, User, UserStatus};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    call::Call,
    minter::new_id,
    names,
    passwords::check_hash,
    problem::{Failed, Problem},
    totp::TotpSecret,
};

/// The longest key of a row, and the longest id that an account keeps, bytes.
const MAX_KEY: usize = 256;
const MAX_ID: usize = 128;
/// The longest name of an API key, bytes.
const MAX_KEY_NAME: usize = 128;
/// The most API keys of an account.
const MAX_API_KEYS: usize = 1000;
/// Why an account is disabled that was so before.
pub(super) const INACTIVE: &str = "inactive where it came from";

/// A row, as its reader mapped it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportRow)]
pub(super) struct Row {
    /// What tells rows apart where they come from.
    pub(super) key: String,
    /// The id that its account keeps. Absent: it gets one.
    id: Option<String>,
    username: Option<String>,
    email: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    #[serde(default)]
    email_verified: bool,
    #[serde(default = "yes")]
    active: bool,
    /// Absent: the policy's default roles.
    roles: Option<Vec<String>>,
    /// Absent: no password is right before its owner has set one by a mailed link.
    password_hash: Option<String>,
    /// In base32.
    totp_secret: Option<String>,
    /// Seconds since the Unix epoch.
    created_at: Option<i64>,
    #[serde(default)]
    api_keys: Vec<Key>,
}

fn yes() -> bool {
    true
}

/// An opaque API key of a row.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportedApiKey)]
struct Key {
    /// SHA-256 of the key, in hex.
    sha256: String,
    name: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    /// Seconds since the Unix epoch.
    expires_at: Option<i64>,
}

/// What a row becomes.
pub(super) struct Arrival {
    pub(super) user: User,
    pub(super) password: Option<PasswordHash>,
    pub(super) totp: Option<TotpSecret>,
    pub(super) api_keys: Vec<ApiKey>,
}

/// What is wrong with a key that tells rows apart: then nothing could be said of the row.
pub(super) fn check_key(row: &Row) -> Result<(), Problem> {
    if row.key.is_empty() || row.key.len() > MAX_KEY || row.key.chars().any(char::is_control) {
        return Err(Problem::validation(format!("key has 1 to {MAX_KEY} bytes and no control characters")));
    }
    Ok(())
}

/// A row as it would be here, or why it can't be; the reason never holds what is secret.
pub(super) fn judge(call: &Call, import: &str, row: &Row, now: UnixMillis) -> Result<Result<Arrival, String>, Failed> {
    let login = call.login()?;
    Ok(arrival(call, import, row, now, &login.settings))
}

fn arrival(
    call: &Call,
    import: &str,
    row: &Row,
    now: UnixMillis,
    settings: &countersign_api::policy::EffectiveLogin,
) -> Result<Arrival, String> {
    let (registration, clients) = (&settings.registration, &settings.clients);
    let id = match given(row.id.as_ref()) {
        Some(id) if id.len() > MAX_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) => {
            return Err(format!("id: has at most {MAX_ID} visible ASCII characters"));
        }
        Some(OWN_CLIENT_ID) => return Err("id: tokens have it as the name of the issuer's own client".into()),
        Some(id) if clients.iter().any(|client| client.client_id == id) => {
            return Err("id: an OAuth client of the policy has it".into());
        }
        Some(id) => id.to_owned(),
        None => new_id(),
    };
    let username = given(row.username.as_ref()).map(|name| names::username(name).map(folded));
    let username = username.transpose().map_err(|error| format!("username: {error}"))?;
    let email = given(row.email.as_ref()).map(|text| names::email(&names::composed(text)).map(folded));
    let email = email.transpose().map_err(|error| format!("email: {error}"))?;
    if username.is_none() && email.is_none() {
        return Err("it has neither a user name nor an e-mail address to log in by".into());
    }
    let password = given(row.password_hash.as_ref());
    if let Some(hash) = password {
        check_hash(hash).map_err(|error| format!("password: {error}"))?;
    } else if email.is_none() {
        return Err("it has no password, and no e-mail address to set one by".into());
    }
    let person = |member: &str, text: Option<&String>| {
        let name = given(text).map(names::person).transpose().map_err(|error| format!("{member}: {error}"))?;
        Ok::<_, String>(name.filter(|name| !name.is_empty()).map(str::to_owned))
    };
    let roles = row.roles.clone().unwrap_or_else(|| registration.default_roles.clone());
    if let Some(unknown) = roles.iter().find(|role| !call.policy.roles.contains(role)) {
        return Err(format!("roles: the policy has no role {}", shown(unknown)));
    }
    let totp = given(row.totp_secret.as_ref()).map(TotpSecret::from_base32).transpose();
    let verified = row.email_verified && email.is_some();
    let pending = registration.email_verification == EmailVerification::Required && !verified && email.is_some();
    let (status, reason) = match (row.active, pending) {
        (false, _) => (UserStatus::Disabled, Some(INACTIVE.to_owned())),
        (true, true) => (UserStatus::Pending, None),
        (true, false) => (UserStatus::Active, None),
    };
    Ok(Arrival {
        api_keys: api_keys(call, &id, row, now)?,
        user: User {
            policy: call.policy.name.clone(),
            id,
            username,
            email,
            pending_email: None,
            first_name: person("first_name", row.first_name.as_ref())?,
            last_name: person("last_name", row.last_name.as_ref())?,
            status,
            status_reason: reason,
            status_until: None,
            roles,
            email_verified: verified,
            created: row.created_at.map_or(now, |at| UnixMillis::from_secs(at).min(now)),
            last_login: None,
            password_changed: None,
            import_batch: Some(import.to_owned()),
        },
        password: password.map(|hash| PasswordHash::new(hash.to_owned())),
        totp: totp.map_err(|error| format!("totp: {error}"))?,
    })
}

/// A text that says something: other schemas write an empty one where there is none.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn folded(written: &str) -> Folded {
    Folded { written: written.to_owned(), folded: names::folded(written) }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn api_keys(call: &Call, owner: &str, row: &Row, now: UnixMillis) -> Result<Vec<ApiKey>, String> {
    if row.api_keys.len() > MAX_API_KEYS {
        return Err(format!("api_keys: over {MAX_API_KEYS} of them"));
    }
    row.api_keys.iter().map(|key| api_key(call, owner, key, now)).collect()
}

fn api_key(call: &Call, owner: &str, key: &Key, now: UnixMillis) -> Result<ApiKey, String> {
    let mut hash = [0; 32];
    hex::decode_to_slice(&key.sha256, &mut hash).map_err(|_| "api_keys: sha256 is not 64 hex digits")?;
    let expires = key.expires_at.map(UnixMillis::from_secs);
    let opaque = OpaqueKey {
        sha256: hash,
        subject: owner.to_owned(),
        scopes: key.scopes.clone(),
        roles: key.roles.clone(),
        not_after: expires,
    };
    let name: String = key.name.as_deref().unwrap_or("imported").chars().filter(|c| !c.is_control()).collect();
    if name.is_empty() || name.len() > MAX_KEY_NAME {
        return Err(format!("api_keys: a name has 1 to {MAX_KEY_NAME} bytes"));
    }
    let id = opaque.id();
    Ok(ApiKey {
        policy: call.policy.name.clone(),
        hint: format!("sha256 {}…", &id[..8]),
        id,
        owner: opaque.subject,
        name,
        hash: Some(SecretHash(hash)),
        scopes: opaque.scopes,
        roles: opaque.roles,
        created: now,
        expires: expires.unwrap_or(UnixMillis::FOREVER),
        last_used: None,
        revoked: None,
    })
}
