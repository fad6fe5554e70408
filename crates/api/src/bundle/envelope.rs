//! A bundle on its way: signed, or refused for one named reason.

use countersign_core::{
    jose::strict_json,
    keys::{SigningKey, SigningKeyError},
    names::PolicyName,
};
use serde::{Deserialize, Serialize};

use super::{
    Bundle, SCHEMA,
    trust::{Signature, SignatureRefusal, Trust},
};

/// How large a sealed bundle may be. The content's own bound (900 KiB) leaves room for its quoting.
pub const MAX_ENVELOPE_BYTES: usize = 2 << 20;

/// How deep a bundle's JSON may nest: claim values in `match` are the only free-form part.
const MAX_DEPTH: usize = 64;

/// Why a bundle is not used. The one before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleRefusal {
    /// Over [`MAX_ENVELOPE_BYTES`].
    #[error("the bundle is over 2 MiB")]
    TooLarge,
    /// Not a bundle.
    #[error("the bundle does not parse: {0}")]
    Corrupt(String),
    /// Signatures are asked for and it has none.
    #[error("the bundle is not signed")]
    Unsigned,
    /// Signed with a key that isn't trusted.
    #[error("the bundle is signed with a key that is not trusted: {0}")]
    UntrustedKey(String),
    /// The signature doesn't hold.
    #[error("the bundle's signature does not hold")]
    BadSignature,
    /// Written by a newer release.
    #[error("the bundle has schema {0}; this release reads up to {SCHEMA}: upgrade the verifiers first")]
    NewerSchema(u32),
    /// Older than the one that is held.
    #[error("the bundle has generation {found}, older than {held}, which is held")]
    LowerGeneration {
        /// What it has.
        found: u64,
        /// What is held.
        held: u64,
    },
    /// Its file or object is another policy's.
    #[error("the bundle is for policy {0}, not for the one its name says")]
    WrongName(PolicyName),
}

impl BundleRefusal {
    /// The label value in `countersign_bundle_refused_total`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Corrupt(_) => "corrupt",
            Self::Unsigned => "unsigned",
            Self::UntrustedKey(_) => "untrusted_key",
            Self::BadSignature => "bad_signature",
            Self::NewerSchema(_) => "newer_schema",
            Self::LowerGeneration { .. } => "lower_generation",
            Self::WrongName(_) => "wrong_name",
        }
    }
}

impl From<SignatureRefusal> for BundleRefusal {
    fn from(refusal: SignatureRefusal) -> Self {
        match refusal {
            SignatureRefusal::Unsigned => Self::Unsigned,
            SignatureRefusal::UntrustedKey(key) => Self::UntrustedKey(key),
            SignatureRefusal::BadSignature => Self::BadSignature,
        }
    }
}

/// The outer JSON. The content is text inside it, so that the signed bytes are the read bytes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    schema: u32,
    policy: PolicyName,
    uid: String,
    generation: u64,
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

impl Envelope {
    /// What is signed. Every part before the content is free of line feeds, so no two envelopes read alike.
    fn signed_bytes(&self) -> Vec<u8> {
        format!(
            "countersign bundle v1\n{}\n{}\n{:?}\n{}\n{}",
            self.schema, self.policy, self.uid, self.generation, self.content
        )
        .into_bytes()
    }
}

/// The name of the file (and, without `.json`, of the ConfigMap) that holds a policy's bundle: hashed, so that no two
/// policies' names collide and every name is a legal one.
pub fn file_name(policy: &PolicyName) -> String {
    format!("{}.json", object_name(policy))
}

/// The name of the file that holds a policy's verify-secrets.
pub fn secrets_file_name(policy: &PolicyName) -> String {
    format!("{}.secrets.json", object_name(policy))
}

/// Whether a file of that name would hold a bundle.
pub fn is_bundle_file(name: &str) -> bool {
    name.strip_prefix("b-")
        .and_then(|rest| rest.strip_suffix(".json"))
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

fn object_name(policy: &PolicyName) -> String {
    let digest = countersign_core::digest::sha256(policy.as_str().as_bytes());
    format!("b-{}", hex::encode(&digest[..16]))
}

/// The kid of the key that a sealed bundle says to be signed with. Says nothing of whether that signature holds.
pub fn signed_by(sealed: &[u8]) -> Option<String> {
    let envelope: Envelope = serde_json::from_slice(sealed).ok()?;
    Some(envelope.signature?.key)
}

/// Signs a bundle and writes it out.
pub fn seal(bundle: &Bundle, key: &SigningKey) -> Result<String, SigningKeyError> {
    let mut envelope = Envelope {
        schema: bundle.schema,
        policy: bundle.policy.clone(),
        uid: bundle.uid.clone(),
        generation: bundle.generation,
        content: serde_json::to_string(bundle).expect("a bundle always serialises"),
        signature: None,
    };
    envelope.signature = Some(Signature::of(&envelope.signed_bytes(), key)?);
    Ok(serde_json::to_string(&envelope).expect("an envelope always serialises"))
}

/// The generation that a sealed bundle says it has, whoever wrote it; 0 for what is no bundle.
pub fn claimed_generation(bytes: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Claimed {
        generation: u64,
    }
    serde_json::from_slice(bytes).map_or(0, |claimed: Claimed| claimed.generation)
}

/// Reads a sealed bundle. `held` is the generation that a good bundle of this policy has already reached here.
pub fn open(bytes: &[u8], trust: &Trust, held: Option<u64>) -> Result<Bundle, BundleRefusal> {
    if bytes.len() > MAX_ENVELOPE_BYTES {
        return Err(BundleRefusal::TooLarge);
    }
    // The schema first, and from the loosest reading: a newer release may have added members that are unknown here.
    let raw = strict_json::parse(bytes, MAX_DEPTH).map_err(|e| BundleRefusal::Corrupt(e.to_string()))?;
    if let Some(schema) = raw.get("schema").and_then(serde_json::Value::as_u64)
        && schema > u64::from(SCHEMA)
    {
        return Err(BundleRefusal::NewerSchema(u32::try_from(schema).unwrap_or(u32::MAX)));
    }
    let envelope: Envelope = serde_json::from_value(raw).map_err(|e| BundleRefusal::Corrupt(e.to_string()))?;
    trust.check(&envelope.signed_bytes(), envelope.signature.as_ref())?;
    let content = strict_json::parse(envelope.content.as_bytes(), MAX_DEPTH)
        .map_err(|e| BundleRefusal::Corrupt(format!("content: {e}")))?;
    let bundle: Bundle = serde_json::from_value(content).map_err(|e| BundleRefusal::Corrupt(format!("content: {e}")))?;
    let outside = (envelope.schema, &envelope.policy, &envelope.uid, envelope.generation);
    if (bundle.schema, &bundle.policy, &bundle.uid, bundle.generation) != outside {
        return Err(BundleRefusal::Corrupt("envelope and content disagree".into()));
    }
    if bundle.revoked.iter().any(|entry| entry.policy != bundle.policy) {
        return Err(BundleRefusal::Corrupt("an entry of revoked belongs to another policy".into()));
    }
    match held {
        Some(held) if bundle.generation < held => Err(BundleRefusal::LowerGeneration { found: bundle.generation, held }),
        _ => Ok(bundle),
    }
}
