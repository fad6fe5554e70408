//! What issuers are told of a policy beside its bundle and its rings: the policy as it was accepted, and what its part about
//! people refers to.
//!
//! It holds secrets (OAuth clients', the mail server's) that verifiers must not read, so it is no section of the bundle. As a
//! bundle it is sealed, over the policy's name and all that it says, and opened only by whoever trusts the key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use countersign_core::{
    jose::{base64url, strict_json},
    keys::{SigningKey, SigningKeyError},
    names::PolicyName,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    LoginReferences,
    bundle::{Signature, SignatureRefusal, Trust},
    policy::AuthPolicySpec,
};

/// The newest schema that this code reads, and the one it writes.
pub const SCHEMA: u32 = 1;
/// How large a sealed section may be: no object of the API server holds more.
pub const MAX_BYTES: usize = 1 << 20;
/// How deep its JSON may nest: claim values in `match` are the only free-form part.
const MAX_DEPTH: usize = 64;

/// What issuers are told. `Debug` hides what is secret.
#[derive(Clone, Debug, PartialEq)]
pub struct IssueSection {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// The policy's name.
    pub policy: PolicyName,
    /// The policy object's uid.
    pub uid: String,
    /// The generation of the spec (`metadata.generation`).
    pub generation: i64,
    /// The policy as it was accepted last.
    pub spec: AuthPolicySpec,
    /// What its part about people refers to.
    pub references: LoginReferences,
}

/// Why a section is not used. The one before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueRefusal {
    /// Over [`MAX_BYTES`].
    #[error("what issuers are told is over 1 MiB")]
    TooLarge,
    /// Not a section; which part of it isn't. What stands there is not told: it may be secret.
    #[error("what issuers are told does not parse: {0}")]
    Corrupt(&'static str),
    /// Signatures are asked for and it has none.
    #[error("what issuers are told is not signed")]
    Unsigned,
    /// Signed with a key that isn't trusted.
    #[error("what issuers are told is signed with a key that is not trusted: {0}")]
    UntrustedKey(String),
    /// The signature doesn't hold.
    #[error("the signature of what issuers are told does not hold")]
    BadSignature,
    /// Written by a newer release.
    #[error("what issuers are told has schema {0}; this release reads up to {SCHEMA}: upgrade the issuers first")]
    NewerSchema(u32),
    /// It was found under the name of another policy than the one that it is for.
    #[error("what issuers are told is for policy {0}, not for the one its name says")]
    WrongName(PolicyName),
}

impl From<SignatureRefusal> for IssueRefusal {
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
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

impl Envelope {
    /// What is signed. Every part before the content is free of line feeds, so no two envelopes read alike.
    fn signed_bytes(&self) -> Zeroizing<Vec<u8>> {
        let text = format!("countersign issue v1\n{}\n{}\n{}", self.schema, self.policy, self.content);
        Zeroizing::new(text.into_bytes())
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        self.content.zeroize();
    }
}

/// The inner JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    uid: String,
    generation: i64,
    spec: AuthPolicySpec,
    references: Written,
}

/// References as they are written: secrets in base64url, the list of passwords sorted, one a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    breached: Option<String>,
    clients: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sms_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    smtp: Option<BTreeMap<String, String>>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.clients.values_mut().for_each(Zeroize::zeroize);
        self.sms_key.zeroize();
        self.smtp.iter_mut().flat_map(BTreeMap::values_mut).for_each(Zeroize::zeroize);
    }
}

impl From<&LoginReferences> for Written {
    fn from(references: &LoginReferences) -> Self {
        let LoginReferences { breached, clients, sms_key, smtp } = references;
        let lines = |list: &Arc<std::collections::HashSet<String>>| {
            let sorted: BTreeSet<&str> = list.iter().map(String::as_str).collect();
            sorted.into_iter().collect::<Vec<_>>().join("\n")
        };
        let encoded = |texts: &BTreeMap<String, Zeroizing<String>>| {
            texts.iter().map(|(key, text)| (key.clone(), base64url::encode(text.as_bytes()))).collect()
        };
        Self {
            breached: breached.as_ref().map(lines),
            clients: clients.iter().map(|(id, secret)| (id.clone(), base64url::encode(secret))).collect(),
            sms_key: sms_key.as_ref().map(base64url::encode),
            smtp: smtp.as_ref().map(encoded),
        }
    }
}

impl Written {
    fn read(&self) -> Result<LoginReferences, IssueRefusal> {
        let bytes = |text: &String| {
            let decoded = base64url::decode(text.as_bytes()).map_err(|_| IssueRefusal::Corrupt("a secret"))?;
            Ok::<_, IssueRefusal>(Zeroizing::new(decoded))
        };
        let text = |encoded: &String| {
            let bytes = bytes(encoded)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| IssueRefusal::Corrupt("a setting of the mail server"))?;
            Ok::<_, IssueRefusal>(Zeroizing::new(text.to_owned()))
        };
        let words = |lines: &String| lines.split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let smtp = |held: &BTreeMap<String, String>| {
            held.iter().map(|(key, encoded)| Ok((key.clone(), text(encoded)?))).collect::<Result<_, IssueRefusal>>()
        };
        let clients = self.clients.iter().map(|(id, secret)| Ok((id.clone(), bytes(secret)?)));
        Ok(LoginReferences {
            breached: self.breached.as_ref().map(words).map(Arc::new),
            clients: clients.collect::<Result<_, IssueRefusal>>()?,
            sms_key: self.sms_key.as_ref().map(bytes).transpose()?,
            smtp: self.smtp.as_ref().map(smtp).transpose()?,
        })
    }
}

impl IssueSection {
    /// Signs it and writes it out. The same section and key always give the same text.
    pub fn seal(&self, key: &SigningKey) -> Result<Zeroizing<String>, SigningKeyError> {
        let content = Content {
            uid: self.uid.clone(),
            generation: self.generation,
            spec: self.spec.clone(),
            references: (&self.references).into(),
        };
        let mut envelope = Envelope {
            schema: self.schema,
            policy: self.policy.clone(),
            content: serde_json::to_string(&content).expect("a section always serialises"),
            signature: None,
        };
        envelope.signature = Some(Signature::of(&envelope.signed_bytes(), key)?);
        Ok(Zeroizing::new(serde_json::to_string(&envelope).expect("an envelope always serialises")))
    }

    /// Reads a sealed section that was found under the name of `policy`.
    pub fn open(bytes: &[u8], trust: &Trust, policy: &PolicyName) -> Result<Self, IssueRefusal> {
        if bytes.len() > MAX_BYTES {
            return Err(IssueRefusal::TooLarge);
        }
        // The schema first, and from the loosest reading: a newer release may have added members that are unknown here.
        let raw = strict_json::parse(bytes, MAX_DEPTH).map_err(|_| IssueRefusal::Corrupt("the envelope"))?;
        if let Some(schema) = raw.get("schema").and_then(serde_json::Value::as_u64)
            && schema > u64::from(SCHEMA)
        {
            return Err(IssueRefusal::NewerSchema(u32::try_from(schema).unwrap_or(u32::MAX)));
        }
        let envelope: Envelope = serde_json::from_value(raw).map_err(|_| IssueRefusal::Corrupt("the envelope"))?;
        trust.check(&envelope.signed_bytes(), envelope.signature.as_ref())?;
        if envelope.policy != *policy {
            return Err(IssueRefusal::WrongName(envelope.policy.clone()));
        }
        let content = strict_json::parse(envelope.content.as_bytes(), MAX_DEPTH);
        let content = content.map_err(|_| IssueRefusal::Corrupt("the content"))?;
        let content: Content = serde_json::from_value(content).map_err(|_| IssueRefusal::Corrupt("the content"))?;
        Ok(Self {
            schema: envelope.schema,
            policy: policy.clone(),
            references: content.references.read()?,
            uid: content.uid,
            generation: content.generation,
            spec: content.spec,
        })
    }
}

/// The kid of the key that a sealed section says to be signed with. Says nothing of whether that signature holds.
pub fn signed_by(sealed: &[u8]) -> Option<String> {
    let envelope: Envelope = serde_json::from_slice(sealed).ok()?;
    Some(envelope.signature.as_ref()?.key.clone())
}

#[cfg(test)]
mod tests;
