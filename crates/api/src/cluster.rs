//! Where things lie in a cluster: the names, labels and keys that operator, verifier, issuer, chart and command line share.
//!
//! Two namespaces. The system namespace holds private keys and is read by operator and issuer. The bundles namespace holds what
//! verifiers may read and nothing else, because RBAC can't filter by label.

/// The namespace of operator, issuer, key rings and the operator's Lease, unless told otherwise.
pub const SYSTEM_NAMESPACE: &str = "countersign-system";
/// The namespace of bundles and verify-secrets, unless told otherwise.
pub const BUNDLES_NAMESPACE: &str = "countersign-bundles";

/// The one field manager of the operator's server-side applies.
pub const FIELD_MANAGER: &str = "countersign-operator";
/// On AuthPolicies: rings and bundles outside the namespace have to be withdrawn. On Sessions: the bundle that ends it has to
/// be written.
pub const FINALIZER: &str = "countersign.dev/operator";

/// Label of a ConfigMap that holds a bundle; its value is [`FORMAT`].
pub const BUNDLE_LABEL: &str = "countersign.dev/bundle";
/// Label of a Secret that holds verify-secrets; its value is [`FORMAT`].
pub const VERIFY_SECRETS_LABEL: &str = "countersign.dev/verify-secrets";
/// Label of a Secret that holds a policy's key rings; its value is [`FORMAT`].
pub const KEY_RING_LABEL: &str = "countersign.dev/key-ring";
/// Label of a Secret that tells issuers of a policy what bundle and rings don't; its value is [`FORMAT`].
pub const ISSUE_LABEL: &str = "countersign.dev/issue";
/// Label of a Secret that delivers a declared session's token; its value is [`FORMAT`].
pub const SESSION_TOKEN_LABEL: &str = "countersign.dev/session-token";
/// The type of such a Secret. A Secret's type can't be changed, so what somebody else made is never taken for one of these.
pub const SESSION_TOKEN_TYPE: &str = "countersign.dev/session-token";
/// The keys of such a Secret.
pub mod session_token {
    /// The token.
    pub const TOKEN: &str = "token";
    /// When it expires, RFC 3339.
    pub const EXPIRES_AT: &str = "expires-at";
    /// The session that it belongs to.
    pub const SESSION_ID: &str = "session-id";
    /// The policy's public keys, a JWKS.
    pub const JWKS: &str = "jwks.json";
}
/// Label of what the operator made, with the uid of the object that it was made for.
pub const OWNER_UID_LABEL: &str = "countersign.dev/owner-uid";
/// Annotation that names the policy, `NAMESPACE/NAME`, on whatever belongs to one.
pub const POLICY_ANNOTATION: &str = "countersign.dev/policy";
/// Annotation on the Secret of a declared session: when the session ends (RFC 3339), or `never`.
pub const SESSION_ENDS_ANNOTATION: &str = "countersign.dev/session-ends";
/// Annotation on a key ring's Secret with which an administrator lets a policy of this uid take it over.
pub const ADOPT_ANNOTATION: &str = "countersign.dev/adopt";
/// The layout of objects with one of these labels.
pub const FORMAT: &str = "v1";

/// The key of a bundle's ConfigMap that holds the sealed bundle.
pub const BUNDLE_KEY: &str = "bundle.json";
/// The key of the Secret for issuers that holds what they are told, sealed.
pub const ISSUE_KEY: &str = "issue.json";
/// The key of a verify-secrets Secret that holds them.
pub const VERIFY_SECRETS_KEY: &str = "secrets.json";

/// The ConfigMap of the bundles namespace whose [`HISTORY_KEY`] names the present history: acknowledgements of another one
/// don't count.
pub const HISTORY: &str = "history";
/// Its key.
pub const HISTORY_KEY: &str = "history";
/// The ConfigMap of the system namespace with the public keys that bundles are signed with; verifiers and issuers mount it.
pub const BUNDLE_TRUST: &str = "bundle-trust";
/// Its key, and so the name of the mounted file: a JWKS.
pub const BUNDLE_TRUST_KEY: &str = "bundle-trust.json";
/// The Secret of the system namespace with the private keys that bundles are signed with.
pub const BUNDLE_SIGNING: &str = "bundle-signing";
/// The ConfigMap of the system namespace that numbers the feed's epochs where no issuer is installed.
pub const FEED_EPOCH: &str = "feed-epoch";
/// The ConfigMap of the system namespace that names verifiers outside pods which the operator waits for.
pub const FLEET: &str = "fleet";
/// The Lease of the system namespace that the leading operator holds.
pub const LEASE: &str = "countersign-operator";

/// `app.kubernetes.io/name` of every pod of ours.
pub const APP_NAME: &str = "countersign";
/// The label that tells their parts apart: [`VERIFIER`], [`ISSUER`] or [`OPERATOR`].
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The verifier's pods. A pod's name is its verifier's name in the fleet.
pub const VERIFIER: &str = "verifier";
/// The issuer's pods.
pub const ISSUER: &str = "issuer";
/// The operator's pods.
pub const OPERATOR: &str = "operator";
/// The operator's Service in the system namespace.
pub const OPERATOR_SERVICE: &str = "countersign-operator";
/// The Service in front of the issuers' APIs.
pub const ISSUER_SERVICE: &str = "countersign-issuer";
/// The taint that keeps pods off a node until its verifier is ready (`verifier.startupTaint`).
pub const STARTUP_TAINT: &str = "countersign.dev/not-ready";

/// Ports.
pub mod ports {
    /// The verifier's API.
    pub const VERIFIER: u16 = 7480;
    /// The verifier's health and metrics.
    pub const VERIFIER_HEALTH: u16 = 7481;
    /// The operator's API for the command line (TLS).
    pub const OPERATOR: u16 = 7470;
    /// The operator's health and metrics.
    pub const OPERATOR_HEALTH: u16 = 7471;
    /// The issuer's API.
    pub const ISSUER: u16 = 7490;
    /// The issuer's admin API for users of the cluster (TLS).
    pub const ISSUER_CLUSTER_ADMIN: u16 = 7493;
    /// The issuer's health and metrics.
    pub const ISSUER_HEALTH: u16 = 7491;
    /// The issuer's API for administrators.
    pub const ISSUER_ADMIN: u16 = 7492;
}

/// The name of the ConfigMap (and, for verify-secrets, the Secret) of a policy's bundle: `b-` and 32 hex digits of
/// SHA-256(`NAMESPACE/NAME`), so that `a-b/c` and `a/b-c` don't collide.
pub fn bundle_name(policy: &countersign_core::names::PolicyName) -> String {
    let file = crate::bundle::file_name(policy);
    file.strip_suffix(".json").unwrap_or(&file).to_owned()
}

/// The name of the Secret with a policy's key rings: as its bundle's, with `r-`.
pub fn ring_name(policy: &countersign_core::names::PolicyName) -> String {
    bundle_name(policy).replacen("b-", "r-", 1)
}

/// The name of the Secret with what issuers are told of a policy beside its bundle and rings: as its bundle's, with `i-`.
pub fn issue_name(policy: &countersign_core::names::PolicyName) -> String {
    bundle_name(policy).replacen("b-", "i-", 1)
}
