//! How connections to a Redis are made, and what its errors mean.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisError, ServerErrorKind, TlsCertificates, aio::MultiplexedConnection};

use super::{InvalidRedisUrl, RedisUrl};
use crate::server::FeedError;

/// Makes connections to one Redis.
#[derive(Debug)]
pub(super) struct Connector {
    url: RedisUrl,
    client: Client,
    /// How long a connection may take, and an answer on it.
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(url: RedisUrl, ca_pem: Option<&[u8]>, timeout: Duration) -> Result<Self, InvalidRedisUrl> {
        let client = if url.is_tls() {
            // Which cryptography rustls uses must be said once per process; whoever said it first is right.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            Client::build_with_tls(
                url.connection().clone(),
                TlsCertificates { client_tls: None, root_cert: ca_pem.map(<[u8]>::to_vec) },
            )
        } else {
            Client::open(url.connection().clone())
        };
        let client = client.map_err(|error| InvalidRedisUrl::unusable(&error))?;
        Ok(Self { url, client, timeout })
    }

    pub(super) const fn url(&self) -> &RedisUrl {
        &self.url
    }

    pub(super) async fn connect(&self, answer_within: Duration) -> Result<MultiplexedConnection, FeedError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(answer_within));
        // The client's own limit covers the connection; this one also what is said first on it.
        let made =
            tokio::time::timeout(self.timeout * 2, self.client.get_multiplexed_async_connection_with_config(&config));
        match made.await {
            Ok(made) => made.map_err(|error| self.failure(&error)),
            Err(_) => Err(self.timed_out(self.timeout)),
        }
    }

    pub(super) fn timed_out(&self, within: Duration) -> FeedError {
        FeedError::Unreachable(format!("{} did not answer within {} ms", self.url, within.as_millis()))
    }

    /// What a Redis' error means here. Its text may name hosts, never credentials.
    pub(super) fn failure(&self, error: &RedisError) -> FeedError {
        match error.code() {
            Some("CSEPOCH") => return FeedError::EpochChanged,
            Some("CSLOST") => return FeedError::RolledBack,
            Some("CSFULL") => return FeedError::Full,
            Some("CSCROWDED") => return FeedError::Crowded,
            _ => {}
        }
        let text = error.to_string();
        if error.is_timeout() {
            return self.timed_out(self.timeout);
        }
        if error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
            || ["READONLY", "NOREPLICAS", "MISCONF", "OOM"].iter().any(|word| text.contains(word))
        {
            return FeedError::ReadOnly(format!("{}: {text}", self.url));
        }
        match error.kind() {
            redis::ErrorKind::Io | redis::ErrorKind::Server(ServerErrorKind::BusyLoading) => {
                FeedError::Unreachable(format!("{}: {text}", self.url))
            }
            _ => FeedError::Protocol(format!("{}: {text}", self.url)),
        }
    }
}
