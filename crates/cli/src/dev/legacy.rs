//! Names of the environment that deployments already use. They are defaults for the default policy, which its own fields
//! override.

use std::fmt;

use countersign_core::{jose::Algorithm, time::UnixMillis};

use crate::failure::Failure;

/// The Secret under which the default policy finds JWT_SECRET_KEY.
pub(crate) const SECRET_NAME: &str = "countersign-dev-environment";
/// Its key.
pub(crate) const SECRET_KEY: &str = "JWT_SECRET_KEY";

/// The shortest HMAC secret, bytes (RFC 7518 section 3.2 for HS256).
const MIN_SECRET: usize = 32;

/// What the environment says about the default policy.
#[derive(Clone, Default)]
pub(crate) struct LegacyEnv {
    /// A secret that signed tokens before.
    pub(crate) jwt: Option<LegacyJwt>,
    /// `tokens.accessTTL`, seconds.
    pub(crate) access_ttl_s: Option<u64>,
    /// `tokens.refreshTTL`, seconds.
    pub(crate) refresh_ttl_s: Option<u64>,
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
            .field("access_ttl_s", &self.access_ttl_s)
            .field("refresh_ttl_s", &self.refresh_ttl_s)
            .finish()
    }
}

/// Names of one setting, the first of which wins, and seconds per unit.
type Names<'a> = &'a [(&'a str, u64)];

const ACCESS: Names<'_> =
    &[("ACCESS_TOKEN_EXPIRE_MINUTES", 60), ("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", 60), ("JWT_EXPIRATION_SECONDS", 1)];
const REFRESH: Names<'_> = &[("REFRESH_TOKEN_EXPIRE_DAYS", 86_400), ("JWT_REFRESH_TOKEN_EXPIRE_DAYS", 86_400)];

impl LegacyEnv {
    /// Reads the environment through `set`, which leaves out what is empty.
    pub(crate) fn read(
        set: &dyn Fn(&str) -> Option<String>,
        legacy_env: bool,
        now: UnixMillis,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            jwt: jwt(set, legacy_env, now, warnings)?,
            access_ttl_s: seconds(set, ACCESS, warnings)?,
            refresh_ttl_s: seconds(set, REFRESH, warnings)?,
        })
    }
}

fn first(set: &dyn Fn(&str) -> Option<String>, names: &[&str], warnings: &mut Vec<String>) -> Option<(String, String)> {
    let mut found = names.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?)));
    let (name, value) = found.next()?;
    for (other, _) in found {
        warnings.push(format!("{name} counts; {other}, which means the same, is ignored"));
    }
    Some((name, value))
}

fn seconds(
    set: &dyn Fn(&str) -> Option<String>,
    names: Names<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<u64>, Failure> {
    let only: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    let Some((name, text)) = first(set, &only, warnings) else { return Ok(None) };
    let unit = names.iter().find(|(n, _)| *n == name).map_or(1, |(_, unit)| *unit);
    let number = text.trim().parse::<u64>().ok().filter(|n| *n > 0).and_then(|n| n.checked_mul(unit));
    number.map(Some).ok_or_else(|| Failure::usage(format!("{name}: {text:?} is no whole number above 0")))
}

fn jwt(
    set: &dyn Fn(&str) -> Option<String>,
    legacy_env: bool,
    now: UnixMillis,
    warnings: &mut Vec<String>,
) -> Result<Option<LegacyJwt>, Failure> {
    let names: &[&str] = if legacy_env { &["JWT_SECRET_KEY", "SECRET_KEY"] } else { &["JWT_SECRET_KEY"] };
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
    let not_after = set("LEGACY_TOKENS_NOT_AFTER").map(|text| instant(&text, now)).transpose()?;
    Ok(Some(LegacyJwt { secret: secret.into_bytes(), algorithm, not_after }))
}

fn instant(text: &str, now: UnixMillis) -> Result<UnixMillis, Failure> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp());
    let at = text.parse::<jiff::Timestamp>().ok().or_else(day);
    let at = at.map(|at| UnixMillis(at.as_millisecond())).ok_or_else(|| {
        Failure::usage(format!("LEGACY_TOKENS_NOT_AFTER: {text:?} is no time")).fix("for example 2027-03-01T00:00:00Z")
    })?;
    if at <= now {
        tracing::warn!(not_after = %at, "LEGACY_TOKENS_NOT_AFTER has passed: tokens from before are refused");
    }
    Ok(at)
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
        let (found, warnings) = read(&[("JWT_EXPIRATION_SECONDS", "90"), ("ACCESS_TOKEN_EXPIRE_MINUTES", "30")], false);
        assert_eq!(found.access_ttl_s, Some(1800));
        assert_eq!(
            warnings,
            ["ACCESS_TOKEN_EXPIRE_MINUTES counts; JWT_EXPIRATION_SECONDS, which means the same, is ignored"]
        );
        assert_eq!(read(&[("JWT_EXPIRATION_SECONDS", "90")], false).0.access_ttl_s, Some(90));
    }

    #[test]
    fn secret_key_counts_only_when_asked_for() {
        let env = [("SECRET_KEY", "0123456789abcdef0123456789abcdef"), ("JWT_ALGORITHM", "HS512")];
        assert!(read(&env, false).0.jwt.is_none());
        let jwt = read(&env, true).0.jwt.unwrap();
        assert_eq!((jwt.algorithm, jwt.not_after), (Algorithm::HS512, None));
    }
}
