//! Where a Redis is.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// The address of a Redis: `redis://`, `rediss://` (TLS) or `redis+unix://`, with user, password and database if need be.
/// Shown without its password.
#[derive(Clone)]
pub struct RedisUrl(ConnectionInfo);

/// Why a text is no address of a Redis. Doesn't repeat the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a Redis URL ({0}): expected redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://… for TLS, or \
     redis+unix:///PATH[?db=DB&user=USER&pass=PASSWORD]"
)]
pub struct InvalidRedisUrl(String);

impl InvalidRedisUrl {
    /// Well-formed, but of no use together with the options.
    pub(super) fn unusable(error: &redis::RedisError) -> Self {
        Self(error.to_string())
    }
}

impl RedisUrl {
    pub(super) const fn connection(&self) -> &ConnectionInfo {
        &self.0
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.0.addr(), ConnectionAddr::TcpTls { .. })
    }
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(s: &str) -> Result<Self, InvalidRedisUrl> {
        let insecure = InvalidRedisUrl("a TLS connection that checks no certificate is not made; use --redis-ca".into());
        let info = s.into_connection_info().map_err(|error| InvalidRedisUrl(error.category().to_owned()))?;
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(insecure),
            _ => Ok(Self(info)),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.addr() {
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}/{}", self.0.redis_settings().db()),
            ConnectionAddr::TcpTls { host, port, .. } => {
                write!(f, "rediss://{host}:{port}/{}", self.0.redis_settings().db())
            }
            ConnectionAddr::Unix(path) => {
                write!(f, "redis+unix://{}?db={}", path.display(), self.0.redis_settings().db())
            }
            _ => f.write_str("redis"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (text, shown) in [
            ("redis://cache.example", "redis://cache.example:6379/0"),
            ("redis://app:s3cret@cache.example:6380/2", "redis://cache.example:6380/2"),
            ("rediss://:s3cret@cache.example", "rediss://cache.example:6379/0"),
            ("redis+unix:///run/redis.sock?db=1&pass=s3cret", "redis+unix:///run/redis.sock?db=1"),
            ("unix:///run/redis.sock", "redis+unix:///run/redis.sock?db=0"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("RedisUrl({shown})"));
        }
    }

    #[test]
    fn what_is_no_redis_url_is_refused_without_being_repeated() {
        for text in ["", "s3cret", "http://s3cret@h", "redis://:s3cret@h:port", "rediss://:s3cret@h/#insecure"] {
            let error = text.parse::<RedisUrl>().unwrap_err().to_string();
            assert!(error.contains("redis://"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
