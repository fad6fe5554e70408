//! `AuthPolicy`: who is trusted, and with what.
//!
//! What is written here for each field is what `kubectl explain` shows: it speaks to the person who writes the YAML. Defaults
//! stand beside their fields; bounds are in the schema, so that the API server and `countersign dev` refuse alike.

mod issuers;
mod keys;
mod login;
pub(crate) mod patterns;
mod status;

use countersign_core::names::{InvalidPolicyName, PolicyName};

pub use issuers::{
    ClaimMappings, ClaimMatch, ConfigMapKeyRef, EffectiveClaimMappings, EffectiveClaimMatch, EffectiveConfigMapKeyRef,
    EffectiveJwksSource, EffectiveListMapping, EffectiveOpaqueKeys, EffectiveSecretKeyRef, EffectiveSubjectMapping,
    EffectiveTrustedIssuer, JwksSource, ListMapping, OpaqueKeys, SecretKeyRef, SubjectMapping, TokenAlgorithm,
    TrustedIssuer,
};
pub use keys::{
    EffectiveKeys, EffectiveRevokedKey, EffectiveRotation, EffectiveTokens, Keys, OnUnacknowledged, RefreshRotation,
    RevokedKey, Rotation, SigningAlgorithm, Tokens,
};
pub use login::*;
pub use status::{AuthPolicyStatus, Enforcement, IssuerEnforcement, KeyRingStatus, KeyStatus, RingKeyState, StatusRing};

use crate::{
    settings::{settings, words},
    values::{Duration, Network, Time},
};

/// The API group.
pub const GROUP: &str = "countersign.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Any new value rotates the access ring once.
pub const ROTATE_ANNOTATION: &str = "countersign.dev/rotate";
/// Any new value rotates the api-key ring once.
pub const ROTATE_API_KEY_ANNOTATION: &str = "countersign.dev/rotate-api-key";

settings! {
    /// Who is trusted, and with what: which tokens a policy issues and accepts, what their bearers may do, and how people log in.
    #[kube(
        group = "countersign.dev",
        version = "v1alpha1",
        kind = "AuthPolicy",
        plural = "authpolicies",
        shortname = "authp",
        category = "countersign",
        namespaced,
        status = "AuthPolicyStatus",
        derive = "PartialEq",
        doc = "Who is trusted, and with what: which tokens a policy issues and accepts, what their bearers may do, and how people log in.",
        printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
        printcolumn(name = "Enforced", type_ = "string", json_path = ".status.conditions[?(@.type==\"Enforced\")].status"),
        printcolumn(name = "Verifiers", type_ = "string", json_path = ".status.enforcement.summary"),
        printcolumn(name = "Key-Age", type_ = "date", json_path = ".status.keyRings[?(@.name==\"Access\")].lastRotationTime"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(name = "Issuer", type_ = "string", json_path = ".spec.issuer", priority = 1),
        printcolumn(name = "Algorithm", type_ = "string", json_path = ".status.keys[?(@.state==\"Active\")].algorithm", priority = 1),
        printcolumn(name = "Next-Rotation", type_ = "string", json_path = ".status.keyRings[?(@.name==\"Access\")].nextRotationTime", priority = 1),
        printcolumn(name = "Generation", type_ = "integer", json_path = ".status.enforcement.generation", priority = 1),
        printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1)
    )]
    AuthPolicySpec => EffectivePolicy {
        required {
            /// Whom tokens are for: a token is accepted when its `aud` names one of these. New tokens carry all of them.
            #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)))]
            audiences: Vec<String>,
        }
        optional {
            /// The `iss` of this policy's own tokens, for example `https://auth.shop.example`. Can't be changed later. https
            /// without a trailing slash, query or fragment (http only for loopback). Absent: the policy only verifies the
            /// tokens of `trustedIssuers`; it has no keys of its own and nobody logs in.
            #[schemars(length(max = 256), regex(pattern = patterns::ISSUER))]
            issuer: String,
            /// At most so many verifications per subject (per key for API keys) on each node; beyond that the verdict is
            /// `rate_limited`. Counted after the signature held. Absent: no limit.
            verification_rate_limit: RateLimit,
            /// Everything about people: passwords, second factors, sessions, mail. Absent: there are no login routes.
            login: Login,
        }
        defaulted {
            /// The policy's own tokens.
            tokens: Tokens = Tokens::default(),
            /// The policy's signing keys.
            keys: Keys = Keys::default(),
            /// How fresh a verifier's knowledge of revocations must be.
            revocation: Revocation = Revocation::default(),
            /// Roles and the permissions that they grant.
            #[schemars(length(max = 64))]
            #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
            roles: Vec<Role> = Vec::new(),
            /// What is denied beyond roles and scopes. Rules are tried in this order; the first that is true denies.
            #[schemars(length(max = 16))]
            #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
            rules: Vec<Rule> = Vec::new(),
            /// Which networks clients may come from. When there is any entry, callers must send `client.ip`.
            client_addresses: ClientAddresses = ClientAddresses::default(),
            /// Other identity providers whose tokens are accepted, and keys from before a migration.
            #[schemars(length(max = 16))]
            #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
            trusted_issuers: Vec<TrustedIssuer> = Vec::new(),
            /// API keys from before a migration: random strings, known by their SHA-256.
            opaque_keys: OpaqueKeys = OpaqueKeys::default(),
            /// Break-glass tokens: time-boxed, restricted, every use audited.
            emergency: Emergency = Emergency::default(),
            /// What Session objects of this namespace may ask for.
            declared_sessions: DeclaredSessions = DeclaredSessions::default(),
            /// How long keys and users are kept after the policy was deleted, so that re-creating it brings them back.
            retain_after_delete: Duration = Duration::hours(168),
        }
    }
}

settings! {
    /// At most `limit` in any `window`.
    RateLimit => EffectiveRateLimit {
        required {
            /// How many.
            #[schemars(range(min = 1, max = 1_000_000))]
            limit: u32,
            /// In how long a time.
            window: Duration,
        }
    }
}

settings! {
    /// How fresh a verifier's knowledge of revocations must be.
    Revocation => EffectiveRevocation {
        defaulted {
            /// How long a verifier may go without hearing from the feed before `onStale` decides.
            max_staleness: Duration = Duration::minutes(5),
            /// `Deny`: answer 503 `stale`. `Allow`: answer by what is known, and say so in every answer.
            on_stale: OnStale = OnStale::Deny,
            /// How many live revocations this policy may have. Past that they are replaced by one cut-off for access tokens:
            /// clients refresh once, and nothing else notices.
            #[schemars(range(min = 1, max = 10_000_000))]
            max_entries: u32 = 100_000,
        }
    }
}

words! {
    /// What to answer when revocations are older than allowed.
    OnStale {
        /// 503.
        Deny,
        /// By what is known.
        Allow,
    }
}

settings! {
    /// A role.
    Role => EffectiveRole {
        required {
            /// Its name, as tokens carry it.
            #[schemars(length(min = 1, max = 128), regex(pattern = patterns::ROLE))]
            name: String,
        }
        defaulted {
            /// What it grants: words joined by `:`, as in `orders:read`. `*` stands for one word, at the end for all that follow.
            #[schemars(length(max = 256), inner(length(min = 1, max = 128), regex(pattern = patterns::PERMISSION)))]
            permissions: Vec<String> = Vec::new(),
            /// Roles whose permissions it grants as well.
            #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
            inherits: Vec<String> = Vec::new(),
        }
    }
}

settings! {
    /// A CEL expression that denies when it is true.
    Rule => EffectiveRule {
        required {
            /// Its name, which a denial tells.
            #[schemars(length(min = 1, max = 63), regex(pattern = patterns::LABEL))]
            name: String,
            /// CEL over `subject`, `kind`, `issuer`, `roles`, `permissions`, `scopes`, `audience`, `amr`, `claims`, `request.method`
            /// (`path`, `host`, `query`), `client.ip` (`user_agent`, `device_id`) and `now`. An expression that can't be
            /// evaluated denies; what it needs and the caller didn't send is told as `missing`.
            #[schemars(length(min = 1, max = 1024))]
            expression: String,
        }
        defaulted {
            /// What the rule does when it is true.
            effect: Effect = Effect::Deny,
        }
    }
}

words! {
    /// What a rule does.
    Effect {
        /// Denies.
        Deny,
    }
}

settings! {
    /// Networks that clients may, and may not, come from.
    ClientAddresses => EffectiveClientAddresses {
        defaulted {
            /// When not empty, only these may.
            #[schemars(length(max = 256))]
            allow: Vec<Network> = Vec::new(),
            /// These may not, whatever `allow` says.
            #[schemars(length(max = 256))]
            deny: Vec<Network> = Vec::new(),
        }
    }
}

settings! {
    /// Break-glass tokens.
    Emergency => EffectiveEmergency {
        optional {
            /// From here on no emergency token is accepted. Required when the mode is `Enabled`.
            not_after: Time,
        }
        defaulted {
            /// Whether they can be minted and are accepted.
            mode: Switch = Switch::Disabled,
            /// The longest life of one.
            max_ttl as "maxTTL": Duration = Duration::hours(1),
            /// What they may carry.
            #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
            roles: Vec<String> = Vec::new(),
        }
    }
}

words! {
    /// On or off.
    Switch {
        /// On.
        Enabled,
        /// Off.
        Disabled,
    }
}

settings! {
    /// What Session objects may ask for.
    DeclaredSessions => EffectiveDeclaredSessions {
        defaulted {
            /// What their subjects must begin with.
            #[schemars(length(max = 128))]
            subject_prefix: String = "svc-".to_owned(),
            /// The roles that they may ask for.
            #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
            roles: Vec<String> = Vec::new(),
        }
    }
}

/// The name under which verifiers serve a policy.
pub fn policy_name(policy: &AuthPolicy) -> Result<PolicyName, InvalidPolicyName> {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
    PolicyName::try_new(namespace, policy.metadata.name.as_deref().unwrap_or_default())
}
