//! Others whose tokens are accepted.

use countersign_core::jose::Algorithm;
use serde_json::Value;

use crate::{
    settings::{settings, words},
    values::{Duration, Time},
};

settings! {
    /// Someone else whose tokens are accepted: an identity provider, or a key from before a migration.
    TrustedIssuer => EffectiveTrustedIssuer {
        required {
            /// A name for this entry.
            #[schemars(length(min = 1, max = 63), regex(pattern = super::patterns::LABEL))]
            name: String,
        }
        optional {
            /// The `iss` of its tokens, character for character. May be absent for symmetric keys: then the entry is for
            /// tokens without `iss`. No two entries, nor the policy itself, may have the same.
            #[schemars(length(min = 1, max = 256), regex(pattern = super::patterns::FOREIGN_ISSUER))]
            issuer: String,
            /// Of these a token must name one. Absent: the policy's own. `["*"]`: not checked (a warning tells).
            #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)))]
            audiences: Vec<String>,
            /// Where its public keys come from. Absent (and no `secretKeyRef`): from the discovery document at `issuer`.
            jwks: JwksSource,
            /// The Secret with its symmetric key, used byte for byte; at least 32 bytes.
            secret_key_ref: SecretKeyRef,
            /// From here on it is trusted no more. Required for symmetric keys.
            not_after: Time,
        }
        defaulted {
            /// What its keys may be used with; a token's own `alg` must be the key's. Symmetric (HS…) and other algorithms
            /// don't go together in one entry.
            #[schemars(length(min = 1, max = 10))]
            algorithms: Vec<TokenAlgorithm> = vec![TokenAlgorithm::RS256],
            /// The longest life of a token, from `iat` (else from now) to `exp`. A longer one, or one without `exp`, is refused.
            max_ttl as "maxTTL": Duration = Duration::hours(24),
            /// Claims that must be equal to a value. (Tokens whose `type` or `token_use` is `refresh` are always refused.)
            #[schemars(length(max = 8))]
            #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["claim"]))]
            r#match as "match": Vec<ClaimMatch> = Vec::new(),
            /// Where subject, roles and scopes come from. Without a mapping for roles its tokens have none.
            claim_mappings: ClaimMappings = ClaimMappings::default(),
        }
    }
}

words! {
    /// What a trusted issuer's tokens can be signed with (RFC 7518, RFC 8037).
    TokenAlgorithm {
        /// Ed25519.
        EdDSA,
        /// ECDSA on P-256.
        ES256,
        /// ECDSA on P-384.
        ES384,
        /// ECDSA on P-521.
        ES512,
        /// RSA, PKCS #1 v1.5 with SHA-256.
        RS256,
        /// RSA, PKCS #1 v1.5 with SHA-384.
        RS384,
        /// RSA, PKCS #1 v1.5 with SHA-512.
        RS512,
        /// RSA-PSS with SHA-256.
        PS256,
        /// RSA-PSS with SHA-384.
        PS384,
        /// RSA-PSS with SHA-512.
        PS512,
        /// HMAC with SHA-256.
        HS256,
        /// HMAC with SHA-384.
        HS384,
        /// HMAC with SHA-512.
        HS512,
    }
}

impl From<TokenAlgorithm> for Algorithm {
    fn from(algorithm: TokenAlgorithm) -> Self {
        match algorithm {
            TokenAlgorithm::EdDSA => Self::EdDSA,
            TokenAlgorithm::ES256 => Self::ES256,
            TokenAlgorithm::ES384 => Self::ES384,
            TokenAlgorithm::ES512 => Self::ES512,
            TokenAlgorithm::RS256 => Self::RS256,
            TokenAlgorithm::RS384 => Self::RS384,
            TokenAlgorithm::RS512 => Self::RS512,
            TokenAlgorithm::PS256 => Self::PS256,
            TokenAlgorithm::PS384 => Self::PS384,
            TokenAlgorithm::PS512 => Self::PS512,
            TokenAlgorithm::HS256 => Self::HS256,
            TokenAlgorithm::HS384 => Self::HS384,
            TokenAlgorithm::HS512 => Self::HS512,
        }
    }
}

settings! {
    /// Where public keys come from: exactly one of these.
    JwksSource => EffectiveJwksSource {
        optional {
            /// An https address (http only for loopback).
            #[schemars(length(max = 1024), regex(pattern = super::patterns::ADDRESS))]
            url: String,
            /// A ConfigMap of this namespace.
            config_map_key_ref: ConfigMapKeyRef,
            /// The JWKS itself (RFC 7517): an object with `keys`. Public keys only.
            #[schemars(schema_with = "key_set")]
            inline: Value,
        }
    }
}

/// A JWKS. Only what rules look at is declared.
fn key_set(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "required": ["keys"],
        "properties": {"keys": {
            "type": "array",
            "maxItems": 100,
            "description": "Public keys (RFC 7517).",
            "items": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"d": {
                    "type": "string",
                    "maxLength": 2048,
                    "description": "The private half. Must be absent.",
                }},
            },
        }},
    })
}

settings! {
    /// A key of a ConfigMap in this namespace.
    ConfigMapKeyRef => EffectiveConfigMapKeyRef {
        required {
            /// The ConfigMap.
            #[schemars(length(min = 1, max = 253), regex(pattern = crate::values::OBJECT_NAME))]
            name: String,
            /// The key in it.
            #[schemars(length(min = 1, max = 253), regex(pattern = super::patterns::DATA_KEY))]
            key: String,
        }
    }
}

settings! {
    /// A key of a Secret in this namespace.
    SecretKeyRef => EffectiveSecretKeyRef {
        required {
            /// The Secret.
            #[schemars(length(min = 1, max = 253), regex(pattern = crate::values::OBJECT_NAME))]
            name: String,
            /// The key in it.
            #[schemars(length(min = 1, max = 253), regex(pattern = super::patterns::DATA_KEY))]
            key: String,
        }
    }
}

settings! {
    /// A claim that must be equal to a value.
    ClaimMatch => EffectiveClaimMatch {
        required {
            /// A top-level name.
            #[schemars(length(min = 1, max = 256))]
            claim: String,
            /// A string, a number or a boolean. (Unquoted `yes`, `no`, `on` and `off` are booleans in YAML.)
            #[schemars(schema_with = "any_value")]
            value: Value,
        }
    }
}

fn any_value(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

settings! {
    /// Where subject, roles and scopes of a token come from.
    ClaimMappings => EffectiveClaimMappings {
        optional {
            /// The subject. Absent: `sub`.
            subject: SubjectMapping,
            /// The roles. Absent: none.
            roles: ListMapping,
            /// The scopes. Absent: `scope` and `scp`.
            scopes: ListMapping,
        }
    }
}

settings! {
    /// Where the subject comes from: exactly one of `claim` and `expression`.
    SubjectMapping => EffectiveSubjectMapping {
        optional {
            /// A top-level claim that holds a string.
            #[schemars(length(min = 1, max = 256))]
            claim: String,
            /// CEL over `claims` that yields a string. One that can't be evaluated makes the token invalid.
            #[schemars(length(min = 1, max = 1024))]
            expression: String,
        }
    }
}

settings! {
    /// Where roles or scopes come from: exactly one of `claim` and `expression`.
    ListMapping => EffectiveListMapping {
        optional {
            /// A top-level claim that holds a list of strings, or one string.
            #[schemars(length(min = 1, max = 256))]
            claim: String,
            /// CEL over `claims` that yields a list of strings, or one. One that can't be evaluated makes the token invalid.
            #[schemars(length(min = 1, max = 1024))]
            expression: String,
            /// Put before each, so that another issuer's `admin` isn't yours.
            #[schemars(length(min = 1, max = 64))]
            prefix: String,
            /// Only these come through, prefix included. Absent: all; an empty list: none.
            #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
            allow: Vec<String>,
        }
    }
}

settings! {
    /// API keys from before a migration.
    OpaqueKeys => EffectiveOpaqueKeys {
        defaulted {
            /// Secrets with a JSON list of `{"sha256", "subject", "scopes", "roles", "notAfter"}`, at most 4,000 each. An entry whose
            /// `notAfter` has passed is expired.
            #[schemars(length(max = 3))]
            secret_key_refs: Vec<SecretKeyRef> = Vec::new(),
        }
    }
}
