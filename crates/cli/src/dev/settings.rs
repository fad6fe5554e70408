//! Flags and environment of `dev`, read once, before anything binds.

use std::{net::SocketAddr, path::PathBuf};

use countersign_core::{names::PolicyName, proxies::InvalidProxy, time::UnixMillis};
use countersign_feed::RedisUrl;
use countersign_issuer::{AuditLog, AuditRetention};
use countersign_process::{ServingTls, log_filter};
use countersign_store::Location;
use countersign_verifier::config::{TlsFiles, TrustedProxies, uncached_budget};

use super::legacy::LegacyEnv;
use crate::{args::Dev, failure::Failure};

/// The issuer's port unless told otherwise.
const ISSUER_PORT: u16 = 7490;
/// What the separate verifier calls --allow-private-issuers.
const JWKS_ALLOW_PRIVATE: &str = "COUNTERSIGN_JWKS_ALLOW_PRIVATE";

/// What `dev` runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The directory of policies; none: the built-in one.
    pub(crate) policies: Option<PathBuf>,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// The database, where it isn't the data directory's.
    pub(crate) database: Option<Location>,
    /// The default policy.
    pub(crate) default_policy: Option<PolicyName>,
    /// The Redis to publish to.
    pub(crate) redis: Option<RedisUrl>,
    /// Addresses to bind.
    pub(crate) listen: Listen,
    /// Certificate and key of the TCP listeners.
    pub(crate) tls: Option<TlsFiles>,
    /// Let policies name private addresses for others' keys.
    pub(crate) allow_private_issuers: bool,
    /// What the verifier within is set to, as a separate one is by the same flags.
    pub(crate) verifier: VerifierSettings,
    /// Whose word about a client's address the issuer takes.
    pub(crate) issuer_proxies: TrustedProxies,
    /// The names by which the issuer answers; none: any.
    pub(crate) trusted_hosts: Vec<String>,
    /// How long events of the audit trail are kept.
    pub(crate) audit_retention: AuditRetention,
    /// Where its sealed events are written for log shippers, if anywhere.
    pub(crate) audit_log: Option<AuditLog>,
    /// Names of the environment that existing deployments use.
    pub(crate) legacy: LegacyEnv,
    /// Least severe messages to log.
    pub(crate) log_level: String,
    /// What is odd about the settings.
    pub(crate) warnings: Vec<String>,
}

/// Settings of the verifier within.
#[derive(Clone, Debug)]
pub(crate) struct VerifierSettings {
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) uncached_budget: Option<u32>,
    pub(crate) restrict_listing: bool,
    pub(crate) metrics_policy_label: bool,
}

/// Addresses to bind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) verifier: SocketAddr,
    pub(crate) verifier_health: SocketAddr,
    pub(crate) issuer: SocketAddr,
    pub(crate) issuer_health: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// How a variable is looked up.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Settings {
    /// Everything parsed; a mistake names the flag or variable and the fix.
    pub(crate) fn new(args: &Dev, env: Lookup<'_>, now: UnixMillis) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let redis = args.redis.clone().map(|url| ("--redis", url)).or_else(|| Some(("REDIS_URL", set("REDIS_URL")?)));
        let redis = redis
            .map(|(name, url)| url.parse::<RedisUrl>().map_err(|e| Failure::usage(format!("{name}: {e}"))))
            .transpose()?;
        let default_policy = args
            .default_policy
            .as_deref()
            .map(|name| name.parse::<PolicyName>().map_err(|e| Failure::usage(format!("--default-policy: {e}"))))
            .transpose()?;
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.clone(), key: key.clone() }),
            _ => None,
        };
        if let Some(files) = &tls {
            ServingTls::load(&files.cert, &files.key).map_err(|e| {
                let flags = format!("--tls-cert {}, --tls-key {}", files.cert.display(), files.key.display());
                Failure::usage(format!("{flags}: {e}"))
            })?;
        }
        if tls.is_none() && !args.admin_listen.ip().is_loopback() {
            let address = args.admin_listen;
            return Err(Failure::usage(format!(
                "--admin-listen {address}: without TLS the admin API listens on loopback only"
            ))
            .fix("use 127.0.0.1 or the admin socket in the data directory, or give --tls-cert and --tls-key"));
        }
        let issuer = match args.issuer_listen {
            Some(address) => address,
            None => SocketAddr::from(([127, 0, 0, 1], issuer_port(set("PORT"))?)),
        };
        let legacy = LegacyEnv::read(&set, args.legacy_env, now, &mut warnings)?;
        Ok(Self {
            policies: args.policies.clone(),
            data_dir: args.data_dir.clone(),
            database: database(set("DATABASE_URL"))?,
            default_policy,
            redis,
            listen: Listen {
                verifier: args.verifier_listen,
                verifier_health: args.verifier_health_listen,
                issuer,
                issuer_health: args.issuer_health_listen,
                admin: args.admin_listen,
            },
            tls,
            allow_private_issuers: args.allow_private_issuers || set(JWKS_ALLOW_PRIVATE).is_some_and(|v| is_true(&v)),
            // A verifier's callers are proxies on its node; an issuer's are people, unless somebody says otherwise.
            issuer_proxies: match &args.trusted_proxies {
                Some(list) => list.parse().map_err(|e: InvalidProxy| of_verifier(&e.into()))?,
                None => TrustedProxies::none(),
            },
            audit_retention: args.audit_retention,
            audit_log: args.audit_log.clone(),
            trusted_hosts: args.trusted_hosts.iter().map(|host| host.trim().to_owned()).filter(|h| !h.is_empty()).collect(),
            verifier: VerifierSettings {
                trusted_proxies: args
                    .trusted_proxies
                    .as_deref()
                    .unwrap_or("loopback,socket")
                    .parse()
                    .map_err(|e: InvalidProxy| of_verifier(&e.into()))?,
                uncached_budget: uncached_budget(&args.uncached_budget).map_err(|e| of_verifier(&e))?,
                restrict_listing: args.restrict_listing,
                metrics_policy_label: args.metrics_policy_label,
            },
            legacy,
            log_level: log_level(set("LOG_LEVEL"))?,
            warnings,
        })
    }
}

/// The separate verifier's flags, and their words.
fn of_verifier(error: &countersign_verifier::ConfigError) -> Failure {
    Failure::usage(error.to_string())
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| word.eq_ignore_ascii_case(value))
}

fn issuer_port(port: Option<String>) -> Result<u16, Failure> {
    match port {
        None => Ok(ISSUER_PORT),
        Some(text) => {
            text.parse().map_err(|_| Failure::usage(format!("PORT: {text:?} is no port")).fix("a number up to 65535"))
        }
    }
}

/// `sqlite:PATH` or `postgresql://…`, with a driver part or without.
fn database(url: Option<String>) -> Result<Option<Location>, Failure> {
    let read = |url: String| {
        url.parse().map_err(|e| {
            Failure::usage(format!("DATABASE_URL: {e}")).fix(
                "use sqlite:PATH or postgresql://USER:PASSWORD@HOST/NAME, or unset it for the file in the data directory",
            )
        })
    };
    url.map(read).transpose()
}

fn log_level(level: Option<String>) -> Result<String, Failure> {
    let Some(level) = level else { return Ok("warn,countersign=info".into()) };
    log_filter(&level).map_err(|e| Failure::usage(format!("LOG_LEVEL: {e}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings(arguments: &[&str], env: &[(&str, &str)]) -> Result<Settings, Failure> {
        let cli = Cli::try_parse_from(["countersign", "dev"].iter().chain(arguments)).unwrap();
        let Command::Dev(dev) = cli.command else { panic!("dev") };
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::new(&dev, &lookup, UnixMillis(1_800_000_000_000))
    }

    #[test]
    fn each_mistake_names_its_flag_or_variable() {
        for (arguments, env, named) in [
            (&["--redis", "nonsense"][..], &[][..], "--redis"),
            (&[], &[("REDIS_URL", "http://x")], "REDIS_URL"),
            (&["--default-policy", "shop"], &[], "--default-policy"),
            (&["--admin-listen", "0.0.0.0:7492"], &[], "--admin-listen"),
            (&[], &[("PORT", "high")], "PORT"),
            (&[], &[("DATABASE_URL", "mysql://x")], "DATABASE_URL"),
            (&[], &[("DATABASE_URL", "sqlite:///:memory:")], "DATABASE_URL"),
            (&[], &[("LOG_LEVEL", "=loud=")], "LOG_LEVEL"),
            (&[], &[("LOG_LEVEL", "bogus")], "LOG_LEVEL"),
            (&["--trusted-proxies", "10.0.0.0/33"], &[], "--trusted-proxies"),
            (&["--uncached-budget", "0"], &[], "--uncached-budget"),
            (&["--tls-cert", "/nonexistent/c", "--tls-key", "/nonexistent/k"], &[], "--tls-cert /nonexistent/c"),
            (&[], &[("JWT_SECRET_KEY", "short")], "JWT_SECRET_KEY"),
            (&[], &[("ACCESS_TOKEN_EXPIRE_MINUTES", "soon")], "ACCESS_TOKEN_EXPIRE_MINUTES"),
        ] {
            let refused = settings(arguments, env).unwrap_err();
            assert!(refused.message.contains(named), "{named}: {refused}");
        }
    }

    #[test]
    fn variables_that_deployments_have_are_understood() {
        let found =
            settings(&[], &[("PORT", "8000"), ("DATABASE_URL", "sqlite+aiosqlite:///./app.db"), ("LOG_LEVEL", "WARNING")]);
        let found = found.unwrap();
        assert_eq!(found.listen.issuer.port(), 8000);
        assert_eq!(found.database, Some(Location::File("./app.db".into())));
        assert_eq!(found.log_level, "warn");
        let found = settings(&[], &[("DATABASE_URL", "postgresql+asyncpg://u:p@h/db")]).unwrap();
        assert!(matches!(found.database, Some(Location::Server(_))) && found.warnings.is_empty());
        assert!(!format!("{found:?}").contains("u:p@"), "no password is shown");
    }
}
