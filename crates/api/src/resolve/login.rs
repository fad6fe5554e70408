//! What the part about people refers to. Issuers alone need it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use zeroize::Zeroizing;

use crate::{
    policy::{BreachedPasswordsMode, EffectiveLogin, EffectivePolicy},
    references::{ReferenceError, ReferenceKind, References},
    schema::Problem,
};

/// What the keys of a mail server's Secret may be called.
const SMTP_KEYS: [&str; 5] = ["host", "port", "username", "password", "tls"];
/// The fewest bytes of a secret that signs or authenticates.
const MIN_SECRET_BYTES: usize = 16;

/// What a policy's login refers to. `Debug` hides what is secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LoginReferences {
    /// The list of passwords that nobody may have.
    pub breached: Option<Arc<HashSet<String>>>,
    /// The secrets of OAuth clients, by client id.
    pub clients: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// What signs calls of the SMS webhook.
    pub sms_key: Option<Zeroizing<Vec<u8>>>,
    /// How to reach the mail server, by the Secret's keys; absent when the policy names none.
    pub smtp: Option<BTreeMap<String, Zeroizing<String>>>,
}

impl fmt::Debug for LoginReferences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginReferences")
            .field("breached", &self.breached.as_ref().map(|list| list.len()))
            .field("clients", &self.clients.keys())
            .field("sms_key", &self.sms_key.is_some())
            .field("smtp", &self.smtp.as_ref().map(BTreeMap::len))
            .finish()
    }
}

/// Fetches what the part about people refers to. All that is wrong is told at once.
pub fn resolve_login(policy: &EffectivePolicy, references: &dyn References) -> Result<LoginReferences, Vec<Problem>> {
    let Some(login) = &policy.login else { return Ok(LoginReferences::default()) };
    let mut problems = Vec::new();
    let mut keep = |found: Result<LoginReferences, Problem>| {
        found.unwrap_or_else(|problem| {
            problems.push(problem);
            LoginReferences::default()
        })
    };
    let breached = keep(breached(login, references)).breached;
    let sms_key = keep(sms(login, references)).sms_key;
    let smtp = keep(smtp(login, references)).smtp;
    let mut clients = BTreeMap::new();
    for (index, client) in login.clients.iter().enumerate() {
        let field = format!("spec.login.clients[{index}].secretKeyRef");
        match secret(references, &client.secret_key_ref.name, &client.secret_key_ref.key, &field) {
            Ok(secret) => drop(clients.insert(client.client_id.clone(), secret)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(LoginReferences { breached, clients, sms_key, smtp }) } else { Err(problems) }
}

fn secret(references: &dyn References, name: &str, key: &str, field: &str) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let secret =
        references.value(ReferenceKind::Secret, name, key).map_err(|error| Problem::new(field, error.to_string()))?;
    if secret.len() < MIN_SECRET_BYTES {
        return Err(Problem::weak_key(field, format!("the secret has fewer than {MIN_SECRET_BYTES} bytes")));
    }
    Ok(secret)
}

fn breached(login: &EffectiveLogin, references: &dyn References) -> Result<LoginReferences, Problem> {
    let list = &login.passwords.breached_passwords;
    let (BreachedPasswordsMode::Custom, Some(reference)) = (list.mode, &list.config_map_key_ref) else {
        return Ok(LoginReferences::default());
    };
    let problem = |message: String| Problem::new("spec.login.passwords.breachedPasswords.configMapKeyRef", message);
    let bytes = references
        .value(ReferenceKind::ConfigMap, &reference.name, &reference.key)
        .map_err(|error| problem(error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| problem("is not UTF-8".to_owned()))?;
    let words = text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect();
    Ok(LoginReferences { breached: Some(Arc::new(words)), ..LoginReferences::default() })
}

fn sms(login: &EffectiveLogin, references: &dyn References) -> Result<LoginReferences, Problem> {
    let Some(sms) = &login.sms else { return Ok(LoginReferences::default()) };
    let reference = &sms.signing_secret_key_ref;
    let key = secret(references, &reference.name, &reference.key, "spec.login.sms.signingSecretKeyRef")?;
    Ok(LoginReferences { sms_key: Some(key), ..LoginReferences::default() })
}

fn smtp(login: &EffectiveLogin, references: &dyn References) -> Result<LoginReferences, Problem> {
    let Some(reference) = login.mail.as_ref().and_then(|mail| mail.smtp_secret_ref.as_ref()) else {
        return Ok(LoginReferences::default());
    };
    let problem = |message: String| Problem::new("spec.login.mail.smtpSecretRef", message);
    let mut held = BTreeMap::new();
    for key in SMTP_KEYS {
        match references.value(ReferenceKind::Secret, &reference.name, key) {
            Ok(value) => {
                let text = std::str::from_utf8(&value).map_err(|_| problem(format!("{key} is not UTF-8")))?;
                held.insert(key.to_owned(), Zeroizing::new(text.trim().to_owned()));
            }
            Err(ReferenceError::NotFound { .. }) if key != "host" => {}
            Err(error) => return Err(problem(error.to_string())),
        }
    }
    Ok(LoginReferences { smtp: Some(held), ..LoginReferences::default() })
}
