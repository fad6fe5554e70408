//! The policy's own tokens and the keys that sign them.

use countersign_core::jose::Algorithm;

use crate::{
    settings::{settings, words},
    values::Duration,
};

settings! {
    /// The policy's own tokens.
    Tokens => EffectiveTokens {
        defaulted {
            /// What they are signed with. A change starts a rotation to a key of the new kind.
            algorithm: SigningAlgorithm = SigningAlgorithm::EdDSA,
            /// How long an access token lives. At most `24h`.
            access_ttl as "accessTTL": Duration = Duration::minutes(15),
            /// How long a refresh token lives, counted from its last use.
            refresh_ttl as "refreshTTL": Duration = Duration::hours(720),
            /// `OnUse`: each use gives a new refresh token and ends the old one. `Never`: for existing clients that don't
            /// store the new one.
            refresh_rotation: RefreshRotation = RefreshRotation::OnUse,
            /// How long a used refresh token still yields the same successor, for clients whose answer got lost.
            refresh_grace: Duration = Duration::secs(10),
            /// The longest life that an API key can be given.
            api_key_max_ttl as "apiKeyMaxTTL": Duration = Duration::hours(2160),
            /// How far clocks may differ: `exp`, `nbf` and `iat` are compared with this tolerance. At most `5m`.
            clock_skew: Duration = Duration::secs(30),
        }
    }
}

words! {
    /// What a policy's own tokens can be signed with.
    SigningAlgorithm {
        /// Ed25519 (RFC 8037).
        EdDSA,
        /// ECDSA on P-256.
        ES256,
        /// ECDSA on P-384.
        ES384,
        /// RSA, PKCS #1 v1.5.
        RS256,
        /// RSA-PSS.
        PS256,
    }
}

impl From<SigningAlgorithm> for Algorithm {
    fn from(algorithm: SigningAlgorithm) -> Self {
        match algorithm {
            SigningAlgorithm::EdDSA => Self::EdDSA,
            SigningAlgorithm::ES256 => Self::ES256,
            SigningAlgorithm::ES384 => Self::ES384,
            SigningAlgorithm::RS256 => Self::RS256,
            SigningAlgorithm::PS256 => Self::PS256,
        }
    }
}

words! {
    /// Whether refresh tokens change.
    RefreshRotation {
        /// With each use.
        OnUse,
        /// Not.
        Never,
    }
}

settings! {
    /// The policy's signing keys.
    Keys => EffectiveKeys {
        defaulted {
            /// When keys change by themselves.
            rotation: Rotation = Rotation::default(),
            /// Keys that must not be trusted any more, whatever their state. Removing an entry un-revokes nothing.
            #[schemars(length(max = 64))]
            #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kid"]))]
            revoked: Vec<RevokedKey> = Vec::new(),
            /// What a rotation does while a verifier hasn't acknowledged the new key: `Wait`, or `Proceed` after `ackTimeout`.
            on_unacknowledged: OnUnacknowledged = OnUnacknowledged::Wait,
            /// How long `Proceed` waits. At least half of `absentAfter`.
            ack_timeout: Duration = Duration::minutes(5),
            /// After how long an absence a verifier is no longer waited for.
            absent_after: Duration = Duration::minutes(10),
        }
    }
}

settings! {
    /// When keys change by themselves.
    Rotation => EffectiveRotation {
        defaulted {
            /// How long a key signs access tokens.
            interval: Duration = Duration::hours(720),
            /// How long a key signs API keys.
            api_key_interval: Duration = Duration::hours(2160),
            /// How long before its first use a key is published, so that everyone who caches the JWKS has it. Shorter than
            /// both intervals.
            prepublish: Duration = Duration::minutes(10),
            /// Another value rotates once, as soon as every verifier has the new key.
            #[schemars(length(min = 1, max = 64))]
            revision: String = "1".to_owned(),
        }
    }
}

settings! {
    /// A key that must not be trusted any more.
    RevokedKey => EffectiveRevokedKey {
        required {
            /// Which one, by its `kid`.
            #[schemars(length(min = 1, max = 128))]
            kid: String,
        }
        defaulted {
            /// Why, for people.
            #[schemars(length(max = 256))]
            reason: String = String::new(),
        }
    }
}

words! {
    /// What a rotation does while a verifier hasn't acknowledged the new key.
    OnUnacknowledged {
        /// Waits, and names the laggards.
        Wait,
        /// Goes on after `ackTimeout`.
        Proceed,
    }
}
