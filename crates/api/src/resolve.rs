//! Fetches what a policy refers to, and checks it.

mod login;

use countersign_core::{
    jose::{JwkSet, strict_json},
    keys::VerifyingKey,
    opaque,
};
use zeroize::Zeroizing;

use crate::{
    bundle::Resolved,
    effective::{algorithms, check_jwks},
    policy::{EffectivePolicy, EffectiveSecretKeyRef, EffectiveTrustedIssuer},
    references::{ReferenceKind, References},
    schema::Problem,
};

pub use login::{LoginReferences, resolve_login};

/// What verifiers need of a policy's references and its inline keys, and warnings: what is no mistake but likely not meant.
/// All that is wrong is told at once.
pub fn resolve(policy: &EffectivePolicy, references: &dyn References) -> Result<(Resolved, Vec<Problem>), Vec<Problem>> {
    let mut resolved = Resolved::default();
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for (index, trusted) in policy.trusted_issuers.iter().enumerate() {
        let place = format!("spec.trustedIssuers[{index}]");
        let name = || trusted.name.clone();
        if let Some(reference) = &trusted.secret_key_ref {
            let field = format!("{place}.secretKeyRef");
            match symmetric_key(trusted, reference, references, &field, &mut warnings) {
                Ok(secret) => drop(resolved.symmetric.insert(name(), secret)),
                Err(problem) => problems.push(problem),
            }
        }
        let Some(jwks) = &trusted.jwks else { continue };
        if let Some(reference) = &jwks.config_map_key_ref {
            let field = format!("{place}.jwks.configMapKeyRef");
            match key_set(trusted, &reference.name, &reference.key, references, &field) {
                Ok((set, unused)) => {
                    resolved.jwks.insert(name(), set);
                    warnings.extend(unused);
                }
                Err(found) => problems.extend(found),
            }
        }
        if let Some(inline) = &jwks.inline {
            let field = format!("{place}.jwks.inline");
            warnings.extend(check_jwks(inline, &algorithms(trusted), &field).1);
            match JwkSet::try_from(inline.clone()) {
                Ok(set) => drop(resolved.jwks.insert(name(), set)),
                Err(error) => problems.push(Problem::new(field, error.to_string())),
            }
        }
    }
    for (index, reference) in policy.opaque_keys.secret_key_refs.iter().enumerate() {
        let field = format!("spec.opaqueKeys.secretKeyRefs[{index}]");
        match opaque_keys(reference, references, &field) {
            Ok(text) => resolved.opaque.push(text),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok((resolved, warnings)) } else { Err(problems) }
}

fn symmetric_key(
    trusted: &EffectiveTrustedIssuer,
    reference: &EffectiveSecretKeyRef,
    references: &dyn References,
    field: &str,
    warnings: &mut Vec<Problem>,
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let secret = references
        .value(ReferenceKind::Secret, &reference.name, &reference.key)
        .map_err(|error| Problem::new(field, error.to_string()))?;
    VerifyingKey::hmac(&secret, &algorithms(trusted)).map_err(|error| Problem::weak_key(field, error.to_string()))?;
    if secret.ends_with(b"\n") {
        let message = "the secret ends with a line feed, which counts as part of it; write it without if that isn't meant \
                       (printf %s instead of echo)";
        warnings.push(Problem::new(field, message));
    }
    Ok(secret)
}

fn key_set(
    trusted: &EffectiveTrustedIssuer,
    name: &str,
    key: &str,
    references: &dyn References,
    field: &str,
) -> Result<(JwkSet, Vec<Problem>), Vec<Problem>> {
    let one = |message: String| vec![Problem::new(field, message)];
    let bytes = references.value(ReferenceKind::ConfigMap, name, key).map_err(|error| one(error.to_string()))?;
    let value = strict_json::parse(&bytes, 64).map_err(|error| one(format!("the key set is refused: {error}")))?;
    let (problems, unused) = check_jwks(&value, &algorithms(trusted), field);
    if !problems.is_empty() {
        return Err(problems);
    }
    let set = JwkSet::try_from(value).map_err(|error| one(error.to_string()))?;
    Ok((set, unused))
}

fn opaque_keys(
    reference: &EffectiveSecretKeyRef,
    references: &dyn References,
    field: &str,
) -> Result<Zeroizing<String>, Problem> {
    let problem = |message: String| Problem::new(field, message);
    let bytes = references
        .value(ReferenceKind::Secret, &reference.name, &reference.key)
        .map_err(|error| problem(error.to_string()))?;
    opaque::parse_keys(&bytes).map_err(|error| problem(error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| problem("is not UTF-8".into()))?;
    Ok(Zeroizing::new(text.to_owned()))
}
