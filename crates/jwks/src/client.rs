//! One fetch, under the rules that keep a policy's author from using us against others.

use countersign_core::{
    jose::{Algorithm, Jwk, JwkSet, MAX_DEPTH, strict_json},
    keys::{MAX_KEYS_IN_SET, VerifyingKey},
};

use super::{
    ClientError, FetchRules, Place, Target,
    outbound::{Outbound, OutboundError, transport},
};

/// The largest document.
const MAX_BYTES: usize = 1 << 20;

/// The longest `kid` of a key that is kept, bytes.
const MAX_KID: usize = 512;

/// The most `key_ops` of a key that is kept: there are eight in all (RFC 7517 section 4.3).
const MAX_KEY_OPS: usize = 16;

/// Why a fetch brought no key set.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Plain http, or no URL at all.
    #[error("not an https URL (--jwks-allow-private permits http; in `countersign dev` --allow-private-issuers)")]
    NotHttps,
    /// The host is none of the public Internet.
    #[error(
        "the host's address is private or loopback (--jwks-allow-private permits that; in `countersign dev` --allow-private-issuers)"
    )]
    PrivateAddress,
    /// The host is where clouds hand out credentials to whoever asks.
    #[error("the host's address is link-local, or another at which clouds serve metadata: that is never asked")]
    MetadataAddress,
    /// No connection, or none that lasted.
    #[error("{0}")]
    Transport(String),
    /// Not 200; redirects are not followed.
    #[error("answered {0}")]
    Status(u16),
    /// Over the bound.
    #[error("the document is over 1 MiB")]
    TooLarge,
    /// Not a JWKS.
    #[error("{0}")]
    NotAKeySet(String),
    /// The discovery document doesn't lead to one.
    #[error("the discovery document {0}")]
    Discovery(&'static str),
    /// A set, with nothing in it to verify with.
    #[error("the set has no usable key for the entry's algorithms")]
    NoUsableKey,
}

impl FetchError {
    /// The label in `countersign_jwks_fetches_total`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotHttps | Self::PrivateAddress | Self::MetadataAddress => "forbidden",
            Self::Transport(_) => "unreachable",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::NotAKeySet(_) | Self::Discovery(_) => "invalid",
            Self::NoUsableKey => "no_usable_key",
        }
    }
}

impl From<OutboundError> for FetchError {
    fn from(error: OutboundError) -> Self {
        match error {
            OutboundError::NotHttps => Self::NotHttps,
            OutboundError::PrivateAddress => Self::PrivateAddress,
            OutboundError::MetadataAddress => Self::MetadataAddress,
            OutboundError::Transport(what) => Self::Transport(what),
        }
    }
}

/// Fetches key sets.
#[derive(Debug)]
pub struct Client(Outbound);

impl Client {
    /// A client under these rules.
    pub fn new(rules: &FetchRules) -> Result<Self, ClientError> {
        Outbound::new(rules).map(Self)
    }

    /// The key set of `target`: the keys that can be used, at least one, at most [`MAX_KEYS_IN_SET`].
    pub async fn fetch(&self, target: &Target) -> Result<JwkSet, FetchError> {
        let url = match &target.place {
            Place::Url(url) => url.clone(),
            Place::Discovery(issuer) => self.discover(issuer).await?,
        };
        let bytes = self.get(&url).await?;
        let set = JwkSet::parse(&bytes).map_err(|e| FetchError::NotAKeySet(e.to_string()))?;
        let set = usable(set, &target.algorithms);
        if set.keys.is_empty() { Err(FetchError::NoUsableKey) } else { Ok(set) }
    }

    /// The `jwks_uri` of an issuer (OpenID Connect Discovery section 4). A document that speaks for another issuer isn't
    /// believed.
    async fn discover(&self, issuer: &str) -> Result<String, FetchError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let bytes = self.get(&url).await?;
        let document =
            strict_json::parse(&bytes, MAX_DEPTH).map_err(|_| FetchError::Discovery("is not JSON that means one thing"))?;
        let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
        if text("issuer") != Some(issuer) {
            return Err(FetchError::Discovery("names another issuer"));
        }
        text("jwks_uri").map(str::to_owned).ok_or(FetchError::Discovery("has no jwks_uri"))
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let mut response = self.0.get(url, "application/json, application/jwk-set+json").await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status(status));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| transport(&e))? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// What of a set is kept, and handed on in bundles: nothing that can't verify a token, however much an issuer sends.
fn usable(set: JwkSet, algorithms: &[Algorithm]) -> JwkSet {
    let bounded = |jwk: &Jwk| {
        jwk.kid.as_ref().is_none_or(|kid| kid.len() <= MAX_KID)
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.len() <= MAX_KEY_OPS && ops.iter().all(|op| op.len() <= MAX_KID))
    };
    let verifies = |jwk: &Jwk| VerifyingKey::from_jwk(jwk, algorithms).is_ok();
    let keys = set.keys.into_iter().filter(|jwk| bounded(jwk) && verifies(jwk)).take(MAX_KEYS_IN_SET);
    JwkSet { keys: keys.map(needed).collect() }
}

/// A key with the members of its type alone.
fn needed(mut jwk: Jwk) -> Jwk {
    match jwk.kty.as_str() {
        "RSA" => (jwk.crv, jwk.x, jwk.y) = (None, None, None),
        "OKP" => (jwk.y, jwk.n, jwk.e) = (None, None, None),
        _ => (jwk.n, jwk.e) = (None, None),
    }
    jwk
}

#[cfg(test)]
mod tests {
    use countersign_core::keys::SigningKey;

    use super::*;

    #[test]
    fn of_a_large_set_the_keys_that_verify_are_kept_and_nothing_else() {
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap().public_jwk().clone();
        let with = |change: &dyn Fn(&mut Jwk)| {
            let mut key = key.clone();
            change(&mut key);
            key
        };
        let padded = with(&|key| key.n = Some("A".repeat(900_000)));
        let set = JwkSet {
            keys: vec![
                with(&|key| key.kid = Some("k".repeat(513))),
                with(&|key| key.key_ops = Some(vec!["verify".into(); 17])),
                with(&|key| key.kty = "oct".into()),
                padded,
            ],
        };
        assert_eq!(usable(set, &[Algorithm::EdDSA]).keys, std::slice::from_ref(&key));
        let many = JwkSet { keys: vec![key; 4000] };
        assert_eq!(usable(many.clone(), &[Algorithm::EdDSA]).keys.len(), MAX_KEYS_IN_SET);
        assert_eq!(usable(many, &[Algorithm::RS256]).keys, []);
    }

    fn target(url: &str) -> Target {
        Target::new(Some(url), None, &[countersign_core::jose::Algorithm::RS256]).unwrap()
    }

    #[tokio::test]
    async fn nothing_but_https_to_public_addresses_is_asked() {
        let client = Client::new(&FetchRules::default()).unwrap();
        for url in ["http://example.com/", "ftp://example.com/", "file:///etc/passwd", "nonsense"] {
            assert!(matches!(client.fetch(&target(url)).await, Err(FetchError::NotHttps)), "{url}");
        }
        for url in [
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://localhost/",
            "https://2130706433/",
        ] {
            let error = client.fetch(&target(url)).await.unwrap_err();
            assert!(matches!(error, FetchError::PrivateAddress), "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn where_clouds_serve_credentials_nobody_is_asked_whatever_is_permitted() {
        for allow_private in [false, true] {
            let client = Client::new(&FetchRules { allow_private, ca_file: None }).unwrap();
            for url in [
                "https://169.254.169.254/",
                "https://169.254.170.2/",
                "https://[fe80::1]/",
                "https://[fd00:ec2::254]/",
                "https://[::ffff:169.254.169.254]/",
                "https://[64:ff9b::a9fe:a9fe]/",
                "https://0xa9fea9fe/",
            ] {
                let error = client.fetch(&target(url)).await.unwrap_err();
                assert!(matches!(error, FetchError::MetadataAddress), "{url}: {error}");
            }
        }
        let client = Client::new(&FetchRules { allow_private: true, ca_file: None }).unwrap();
        let error = client.fetch(&target("http://169.254.169.254/latest/meta-data/")).await.unwrap_err();
        assert!(matches!(error, FetchError::MetadataAddress), "{error}");
    }
}
