//! The directory of policies that the tests run on.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::forge::Provider;

/// The shared secret of tokens from before.
pub(crate) const LEGACY_SECRET: &[u8] = b"a-legacy-secret-of-at-least-32-bytes!";
/// An imported opaque key.
pub(crate) const OPAQUE_KEY: &str = "old-api-key-0123456789";

/// A policy directory, and the providers that its policies trust.
pub(crate) struct Policies {
    directory: TempDir,
    /// Trusted by `shop/shop` and `shop/foreign`.
    pub(crate) partner: Provider,
    /// Trusted by `shop/other`; its kids are the partner's, its keys are not.
    pub(crate) rival: Provider,
}

impl Policies {
    /// - `shop/shop`: an issuer of its own, the partner, and legacy HS256 tokens without `iss`
    /// - `shop/other`: an issuer of its own, and the rival
    /// - `shop/foreign`: verifies only: the partner's tokens by one algorithm each, and opaque keys
    /// - `shop/guarded`: rules, address lists, a rate limit; trusts the partner
    /// - `shop/strict` and `shop/lenient`: stale after a second; then the one refuses, the other answers
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let partner = Provider::new("https://partner.example", 0);
        let rival = Provider::new("https://rival.example", 1);
        let policies = Self { directory, partner, rival };
        policies.secret("legacy-jwt", "secret", LEGACY_SECRET);
        let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, OPAQUE_KEY.as_bytes());
        let opaque =
            json!([{"sha256": hex::encode(sha256), "subject": "svc-old", "scopes": ["orders:read"], "roles": ["user"]}]);
        policies.secret("old-api-keys", "keys.json", opaque.to_string().as_bytes());
        for (name, spec) in policies.specs() {
            policies.write(name, &spec);
        }
        policies
    }

    fn specs(&self) -> Vec<(&'static str, Value)> {
        let all: Vec<&str> = crate::forge::ALGORITHMS.iter().map(|(name, _)| *name).collect();
        let trusted = |provider: &Provider, name: &str| {
            json!({
                "name": name, "issuer": provider.issuer, "algorithms": all, "jwks": {"inline": provider.jwks()},
                "maxTTL": "24h",
                "claimMappings": {"roles": {"claim": "groups", "allow": ["user", "admin"]}},
            })
        };
        let roles = json!([
            {"name": "user", "permissions": ["orders:read", "cart:*"]},
            {"name": "admin", "permissions": ["*"], "inherits": ["user"]},
        ]);
        let legacy = json!({
            "name": "legacy", "audiences": ["*"], "algorithms": ["HS256"],
            "secretKeyRef": {"name": "legacy-jwt", "key": "secret"},
            "notAfter": "2099-01-01T00:00:00Z", "match": [{"claim": "type", "value": "access"}],
            "claimMappings": {"subject": {"claim": "user_id"}, "roles": {"claim": "groups"}},
        });
        vec![
            (
                "shop",
                json!({
                    "audiences": ["shop-api"], "issuer": "https://auth.shop.example", "roles": roles,
                    "trustedIssuers": [trusted(&self.partner, "partner"), legacy],
                }),
            ),
            (
                "other",
                json!({
                    "audiences": ["shop-api"], "issuer": "https://auth.other.example", "roles": roles,
                    "trustedIssuers": [trusted(&self.rival, "rival")],
                }),
            ),
            (
                "foreign",
                json!({
                    "audiences": ["shop-api"], "roles": roles,
                    "trustedIssuers": [trusted(&self.partner, "partner")],
                    "opaqueKeys": {"secretKeyRefs": [{"name": "old-api-keys", "key": "keys.json"}]},
                }),
            ),
            (
                "guarded",
                json!({
                    "audiences": ["shop-api"], "issuer": "https://auth.guarded.example", "roles": roles,
                    "rules": [
                        {"name": "temp-reads-only", "effect": "Deny",
                         "expression": "subject.startsWith('temp-') && request.method != 'GET'"},
                        {"name": "no-admin-path", "effect": "Deny",
                         "expression": "subject == 'pathy' && request.path.startsWith('/admin')"},
                    ],
                    "clientAddresses": {"allow": ["203.0.113.0/24", "127.0.0.0/8", "2001:db8::/32"], "deny": ["203.0.113.66/32"]},
                    "verificationRateLimit": {"limit": 5, "window": "1m"},
                    "trustedIssuers": [trusted(&self.partner, "partner")],
                }),
            ),
            (
                "strict",
                json!({
                    "audiences": ["shop-api"], "issuer": "https://auth.strict.example", "roles": roles,
                    "revocation": {"maxStaleness": "1s", "onStale": "Deny"},
                    "trustedIssuers": [trusted(&self.partner, "partner")],
                }),
            ),
            (
                "lenient",
                json!({
                    "audiences": ["shop-api"], "issuer": "https://auth.lenient.example", "roles": roles,
                    "revocation": {"maxStaleness": "1s", "onStale": "Allow"},
                    "trustedIssuers": [trusted(&self.partner, "partner")],
                }),
            ),
        ]
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes (or replaces) `shop/NAME`.
    pub(crate) fn write(&self, name: &str, spec: &Value) {
        let policy = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
        });
        // JSON is YAML.
        self.write_text(&format!("{name}.yaml"), &policy.to_string());
    }

    /// Puts a file in place as editors do: all at once.
    pub(crate) fn write_text(&self, file: &str, text: &str) {
        let temporary = self.directory.path().join(format!(".{file}.tmp"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.directory.path().join(file)).unwrap();
    }

    /// Removes `shop/NAME`.
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.directory.path().join(format!("{name}.yaml"))).unwrap();
    }

    pub(crate) fn secret(&self, name: &str, key: &str, value: &[u8]) {
        let directory = self.directory.path().join("secrets").join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(key), value).unwrap();
    }
}
