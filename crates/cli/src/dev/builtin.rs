//! The built-in policy, and what the environment adds to the default one.

use std::net::SocketAddr;

use countersign_api::policy::{AuthPolicy, EmailVerification, SecretKeyRef, TokenAlgorithm, TrustedIssuer};
use countersign_api::values::{Duration, Time};
use countersign_core::{jose::Algorithm, names::PolicyName, time::UnixMillis};
use countersign_feed::Clock;
use countersign_store::{Store, StoreError};

use super::environment::Filled;
use super::legacy::{LegacyEnv, LegacyJwt, SECRET_KEY, SECRET_NAME};

/// Values of the store.
const ISSUER: &str = "builtin-issuer";
const FIRST_START: &str = "legacy-first-start";

/// The trusted issuer that stands for `JWT_SECRET_KEY`.
const ENVIRONMENT_ENTRY: &str = "environment";

/// How long tokens from before are good unless `LEGACY_TOKENS_NOT_AFTER` says otherwise, from the first start on.
const LEGACY_DAYS: i64 = 30;
const DAY_MS: i64 = 86_400_000;

/// What is built in.
#[derive(Clone, Debug)]
pub(crate) struct Builtin {
    /// The address at the first start: an issuer can't be changed.
    issuer: String,
    legacy_until: Option<UnixMillis>,
    /// Whether mails leave this machine: only then must an address be shown to be one's own.
    mails_leave: bool,
}

/// What the environment added to the default policy.
#[derive(Default)]
pub(crate) struct Applied {
    /// The fields that it filled in.
    pub(crate) filled: Vec<Filled>,
    /// The trusted issuer that answers for tokens of any `iss`.
    pub(crate) any_issuer: Option<String>,
}

/// `default/dev`.
pub(crate) fn name() -> PolicyName {
    PolicyName::try_new("default", "dev").expect("both are DNS labels")
}

impl Builtin {
    /// With what the first start fixed.
    pub(crate) async fn open(store: &Store, issuer: SocketAddr, legacy: &LegacyEnv) -> Result<Self, StoreError> {
        let port = if issuer.port() == 0 { 7490 } else { issuer.port() };
        let issuer = store.meta_or_insert(ISSUER, &format!("http://127.0.0.1:{port}")).await?;
        let legacy_until = match &legacy.jwt {
            None => None,
            Some(LegacyJwt { not_after: Some(at), .. }) => Some(*at),
            Some(_) => {
                let first = store.meta_or_insert(FIRST_START, &Clock::wall().0.to_string()).await?;
                Some(UnixMillis(first.parse().unwrap_or(0)).plus(LEGACY_DAYS * DAY_MS))
            }
        };
        match legacy_until {
            Some(until) if until <= Clock::wall() => {
                tracing::warn!("tokens signed with JWT_SECRET_KEY are refused: they were accepted until {until}");
            }
            Some(until) => tracing::warn!("tokens signed with JWT_SECRET_KEY are accepted until {until}"),
            None => {}
        }
        Ok(Self { issuer, legacy_until, mails_leave: legacy.smtp.is_some() })
    }

    /// The policy that there is when no directory is named.
    pub(crate) fn policy(&self) -> Result<AuthPolicy, String> {
        let mut policy = countersign_api::dev_policy(&self.issuer)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        if self.mails_leave {
            let registration = policy.spec.login.get_or_insert_default().registration.get_or_insert_default();
            registration.email_verification = Some(EmailVerification::Required);
        }
        Ok(policy)
    }

    /// Defaults from the environment; the policy's own fields override them.
    pub(crate) fn apply_environment(&self, policy: &mut AuthPolicy, legacy: &LegacyEnv) -> Applied {
        Applied {
            filled: legacy.defaults.fill_in(&mut policy.spec),
            any_issuer: self.trust_tokens_from_before(policy, legacy),
        }
    }

    fn trust_tokens_from_before(&self, policy: &mut AuthPolicy, legacy: &LegacyEnv) -> Option<String> {
        let spec = &mut policy.spec;
        let (jwt, until) = (legacy.jwt.as_ref()?, self.legacy_until?);
        let trusted = spec.trusted_issuers.get_or_insert_with(Vec::new);
        if trusted.iter().any(|t| t.issuer.is_none()) {
            tracing::warn!("JWT_SECRET_KEY is not used: the default policy has an entry for tokens without iss");
            return None;
        }
        trusted.push(TrustedIssuer {
            name: ENVIRONMENT_ENTRY.into(),
            audiences: Some(vec!["*".into()]),
            algorithms: Some(vec![token_algorithm(jwt.algorithm)]),
            secret_key_ref: Some(SecretKeyRef { name: SECRET_NAME.into(), key: SECRET_KEY.into() }),
            not_after: Some(Time(until)),
            max_ttl: Some(Duration::hours(24 * LEGACY_DAYS)),
            ..TrustedIssuer::default()
        });
        Some(ENVIRONMENT_ENTRY.into())
    }
}

fn token_algorithm(algorithm: Algorithm) -> TokenAlgorithm {
    match algorithm {
        Algorithm::HS384 => TokenAlgorithm::HS384,
        Algorithm::HS512 => TokenAlgorithm::HS512,
        _ => TokenAlgorithm::HS256,
    }
}
