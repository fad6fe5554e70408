//! Names of the environment that deployments already use. They are defaults for the default policy, which its own fields
//! override.

use std::{fmt, sync::Arc};

use countersign_core::{jose::Algorithm, time::UnixMillis};
use countersign_issuer::SmtpSettings;
use zeroize::Zeroizing;

use super::environment::Defaults;
use crate::failure::Failure;

/// The Secret under which the default policy finds JWT_SECRET_KEY.
pub(crate) const SECRET_NAME: &str = "countersign-dev-environment";
/// Its key.
pub(crate) const SECRET_KEY: &str = "JWT_SECRET_KEY";

/// What says more of the mail server that `SMTP_HOST` names.
const SMTP_WITHOUT_HOST: [&str; 5] = ["SMTP_PORT", "SMTP_USER", "SMTP_PASSWORD", "SMTP_FROM_EMAIL", "SMTP_TLS"];

/// The shortest HMAC secret, bytes (RFC 7518 section 3.2 for HS256).
const MIN_SECRET: usize = 32;

/// What the environment says about the default policy.
#[derive(Clone, Default)]
pub(crate) struct LegacyEnv {
    /// A secret that signed tokens before.
    pub(crate) jwt: Option<LegacyJwt>,
    /// Fields of its own.
    pub(crate) defaults: Defaults,
    /// `SMTP_…`: the server that mails go out by; absent: they stay in the outbox.
    pub(crate) smtp: Option<Arc<SmtpSettings>>,
    /// `TOKEN_ENCRYPTION_KEY`: what keys for secrets at rest are derived from.
    pub(crate) encryption_key: Option<Zeroizing<String>>,
}

/// Tokens from before.
#[derive(Clone)]
pub(crate) struct LegacyJwt {
    /// Byte for byte.
    pub(crate) secret: Vec<u8>,
    /// HS256, HS384 or HS512.
    pub(crate) algorithm: Algorithm,
    /// `LEGACY_TOKENS_NOT_AFTER`; absent: 30 days from first start.
    pub(crate) not_after: Option<UnixMillis>,
}

impl fmt::Debug for LegacyEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyEnv")
            .field("jwt", &self.jwt.as_ref().map(|jwt| (jwt.algorithm, jwt.not_after)))
            .field("defaults", &self.defaults)
            .field("smtp", &self.smtp)
            .field("encryption_key", &self.encryption_key.is_some())
            .finish()
    }
}

/// How a variable is looked up; what is empty isn't there.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl LegacyEnv {
    /// Reads the environment through `set`, which leaves out what is empty.
    pub(crate) fn read(
        set: Lookup<'_>,
        legacy_env: bool,
        now: UnixMillis,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            jwt: jwt(set, legacy_env, warnings)?,
            defaults: Defaults::read(set, now, warnings)?,
            smtp: smtp(set, warnings)?,
            encryption_key: set("TOKEN_ENCRYPTION_KEY").map(Zeroizing::new),
        })
    }
}

/// The mail server, once it has a name.
fn smtp(set: Lookup<'_>, warnings: &mut Vec<String>) -> Result<Option<Arc<SmtpSettings>>, Failure> {
    let found = SmtpSettings::from_variables(set).map_err(|error| Failure::usage(error.to_string()))?;
    if found.is_none() {
        let alone: Vec<&str> = SMTP_WITHOUT_HOST.into_iter().filter(|name| set(name).is_some()).collect();
        if !alone.is_empty() {
            warnings.push(format!("{}: not used, because there is no SMTP_HOST; mails go to the outbox", alone.join(", ")));
        }
    }
    Ok(found.map(Arc::new))
}

/// The first of several names for one thing, and its value.
pub(super) fn first(set: Lookup<'_>, names: &[&'static str], warnings: &mut Vec<String>) -> Option<(&'static str, String)> {
    let mut found = names.iter().filter_map(|name| Some((*name, set(name)?)));
    let (name, value) = found.next()?;
    for (other, _) in found {
        warnings.push(format!("{name} counts; {other}, which means the same, is ignored"));
    }
    Some((name, value))
}

fn jwt(set: Lookup<'_>, legacy_env: bool, warnings: &mut Vec<String>) -> Result<Option<LegacyJwt>, Failure> {
    let names: &[&'static str] = if legacy_env { &["JWT_SECRET_KEY", "SECRET_KEY"] } else { &["JWT_SECRET_KEY"] };
    let Some((name, secret)) = first(set, names, warnings) else { return Ok(None) };
    if secret.len() < MIN_SECRET {
        return Err(Failure::usage(format!(
            "{name} has {} bytes: tokens signed with under {MIN_SECRET} can be forged",
            secret.len()
        ))
        .fix(format!("unset {name}, and let those who hold such tokens log in again")));
    }
    if secret.ends_with('\n') {
        warnings.push(format!("{name} ends with a line feed, which is taken as part of the secret"));
    }
    let algorithm = match set("JWT_ALGORITHM") {
        None => Algorithm::HS256,
        Some(text) => match text.parse::<Algorithm>() {
            Ok(algorithm) if algorithm.is_symmetric() => algorithm,
            _ => {
                return Err(Failure::usage(format!("JWT_ALGORITHM: {text:?} does not go with a secret"))
                    .fix("HS256, HS384 or HS512; trust other algorithms by spec.trustedIssuers"));
            }
        },
    };
    let not_after = set("LEGACY_TOKENS_NOT_AFTER").map(|text| instant(&text)).transpose()?;
    Ok(Some(LegacyJwt { secret: secret.into_bytes(), algorithm, not_after }))
}

fn instant(text: &str) -> Result<UnixMillis, Failure> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp());
    let at = text.parse::<jiff::Timestamp>().ok().or_else(day);
    at.map(|at| UnixMillis(at.as_millisecond())).ok_or_else(|| {
        Failure::usage(format!("LEGACY_TOKENS_NOT_AFTER: {text:?} is no time")).fix("for example 2027-03-01T00:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)], legacy: bool) -> (LegacyEnv, Vec<String>) {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let mut warnings = Vec::new();
        let found = LegacyEnv::read(&lookup, legacy, UnixMillis(0), &mut warnings).unwrap();
        (found, warnings)
    }

    #[test]
    fn of_two_names_for_one_thing_the_first_wins_and_the_other_is_named() {
        let (_, warnings) = read(&[("JWT_EXPIRATION_SECONDS", "90"), ("ACCESS_TOKEN_EXPIRE_MINUTES", "30")], false);
        assert_eq!(
            warnings,
            ["ACCESS_TOKEN_EXPIRE_MINUTES counts; JWT_EXPIRATION_SECONDS, which means the same, is ignored"]
        );
        assert!(read(&[("JWT_EXPIRATION_SECONDS", "90")], false).1.is_empty());
    }

    #[test]
    fn secret_key_counts_only_when_asked_for() {
        let env = [("SECRET_KEY", "0123456789abcdef0123456789abcdef"), ("JWT_ALGORITHM", "HS512")];
        assert!(read(&env, false).0.jwt.is_none());
        let jwt = read(&env, true).0.jwt.unwrap();
        assert_eq!((jwt.algorithm, jwt.not_after), (Algorithm::HS512, None));
    }
}
