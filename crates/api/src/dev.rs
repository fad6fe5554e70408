//! The policy that `countersign dev` has when it is given none.

use crate::{policy::AuthPolicy, schema::Problem, yaml};

/// Its YAML, for people to start their own from.
pub const DEV_POLICY: &str = include_str!("../assets/dev.yaml");

/// The policy `default/dev`, whose own tokens carry this `iss` (the address that the issuer is reached at).
pub fn dev_policy(issuer: &str) -> Result<AuthPolicy, Vec<Problem>> {
    let wrong = |message: String| vec![Problem::new("spec.issuer", message)];
    let document = yaml::parse(DEV_POLICY).map_err(|error| wrong(error.to_string()))?.into_iter().next();
    let value = document.map(|document| document.value).unwrap_or_default();
    let mut policy: AuthPolicy = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    policy.spec.issuer = Some(issuer.to_owned());
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CharacterClass, EffectivePolicy, EmailVerification};

    #[test]
    fn the_built_in_policy_is_a_good_one() {
        let policy = dev_policy("http://127.0.0.1:41234").unwrap();
        let name = crate::policy::policy_name(&policy).unwrap();
        assert_eq!(name.as_str(), "default/dev");
        let effective = EffectivePolicy::try_from(&policy).unwrap();
        assert_eq!(effective.issuer.as_deref(), Some("http://127.0.0.1:41234"));
        let login = effective.login.unwrap();
        let all = [CharacterClass::Upper, CharacterClass::Lower, CharacterClass::Digit, CharacterClass::Symbol];
        assert_eq!(login.passwords.require, all);
        assert_eq!(login.registration.default_roles, ["user"]);
        assert_eq!(login.registration.email_verification, EmailVerification::Disabled);
    }
}
