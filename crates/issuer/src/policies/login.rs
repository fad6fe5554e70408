//! What a policy says about people, with what its references hold.

use std::{collections::HashSet, sync::Arc};

use countersign_api::LoginReferences;
use countersign_api::policy::{BreachedPasswordsMode, CharacterClass, EffectiveLogin, EffectivePasswords, MfaMode};
use countersign_core::names::PolicyName;

use crate::{
    mail::{Sending, SmtpSettings},
    passwords::{self, Argon2idCost, Breached, Rules},
    totp::TotpSettings,
};

/// Everything about people.
#[derive(Clone, Debug)]
pub struct LoginPolicy {
    /// As it was written, with every default filled in.
    pub settings: EffectiveLogin,
    /// What a new password must be.
    pub rules: Rules,
    /// What hashing costs.
    pub cost: Argon2idCost,
    /// Codes of authenticator apps.
    pub totp: TotpSettings,
    /// What it refers to.
    pub references: LoginReferences,
    /// Its own way of sending mails.
    pub(crate) sending: Sending,
}

impl LoginPolicy {
    /// Of settings and what they refer to. `issuer` is the policy's own, in whose name authenticator apps show an account.
    pub fn new(policy: &PolicyName, settings: EffectiveLogin, issuer: &str, references: LoginReferences) -> Self {
        let rules = rules(&settings.passwords, references.breached.clone());
        let argon2id = &settings.passwords.argon2id;
        let cost = Argon2idCost {
            memory_kib: u32::try_from(argon2id.memory.as_bytes() / 1024).unwrap_or(u32::MAX),
            iterations: argon2id.iterations,
            parallelism: argon2id.parallelism,
        };
        let totp = &settings.mfa.totp;
        let shown = if totp.issuer_name.is_empty() { host(issuer) } else { &totp.issuer_name };
        let totp = TotpSettings {
            issuer_name: shown.to_owned(),
            digits: u8::try_from(totp.digits).unwrap_or(6),
            period_s: u64::try_from(totp.period.as_millis() / 1000).unwrap_or(30).max(1),
            skew: u16::try_from(totp.skew).unwrap_or(1),
        };
        let sending = Sending::new(policy, settings.mail.as_ref(), smtp(&references));
        Self { settings, rules, cost, totp, references, sending }
    }

    /// Whether an account of these roles must have a second factor.
    pub fn demands_second_factor(&self, roles: &[String]) -> bool {
        let mfa = &self.settings.mfa;
        match mfa.mode {
            MfaMode::Required => true,
            MfaMode::Optional => mfa.required_for_roles.iter().any(|role| roles.contains(role)),
            MfaMode::Disabled => false,
        }
    }

    /// Whether an account may log in already: it is named by id, name or e-mail address, or falls under the percentage.
    pub fn rolled_out(&self, policy: &PolicyName, id: &str, names: &[&str]) -> bool {
        let rollout = &self.settings.rollout;
        rollout.percentage >= 100
            || percentile(policy, id) < rollout.percentage
            || rollout
                .subjects
                .iter()
                .any(|subject| subject == id || names.iter().any(|name| crate::names::folded(subject) == *name))
    }
}

/// SHA-256 of policy and account, mod 100: the same account keeps its place while the percentage grows.
fn percentile(policy: &PolicyName, id: &str) -> u32 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{policy}\0{id}").as_bytes());
    digest.as_ref().iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % 100)
}

/// The policy's own mail server. One whose settings are wrong is none: mails go out as the issuer's own settings say.
fn smtp(references: &LoginReferences) -> Option<Arc<SmtpSettings>> {
    match SmtpSettings::from_secret(references.smtp.as_ref()?) {
        Ok(settings) => Some(Arc::new(settings)),
        Err(error) => {
            tracing::warn!(%error, "the policy's mail server can't be used; the issuer's own settings count");
            None
        }
    }
}

fn host(issuer: &str) -> &str {
    let rest = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    rest.split(['/', ':']).next().unwrap_or(rest)
}

fn rules(passwords: &EffectivePasswords, breached: Option<Arc<HashSet<String>>>) -> Rules {
    let class = |class: &CharacterClass| match class {
        CharacterClass::Upper => passwords::CharacterClass::Upper,
        CharacterClass::Lower => passwords::CharacterClass::Lower,
        CharacterClass::Digit => passwords::CharacterClass::Digit,
        CharacterClass::Symbol => passwords::CharacterClass::Symbol,
    };
    Rules {
        min_length: passwords.min_length as usize,
        max_length: passwords.max_length as usize,
        require: passwords.require.iter().map(class).collect(),
        breached: match (passwords.breached_passwords.mode, breached) {
            (BreachedPasswordsMode::Disabled, _) => Breached::Unchecked,
            (BreachedPasswordsMode::Custom, Some(list)) => Breached::Custom(list),
            // A list that isn't there must not leave everything allowed.
            (BreachedPasswordsMode::Builtin, _) | (BreachedPasswordsMode::Custom, None) => Breached::Builtin,
        },
    }
}

#[cfg(test)]
mod tests {
    use countersign_api::{
        Resolve as _,
        policy::{Login, Mfa, Rollout},
    };

    use super::*;

    fn policy(login: &Login) -> LoginPolicy {
        LoginPolicy::new(
            &"shop/shop".parse().unwrap(),
            login.resolve(),
            "https://auth.shop.example:8443/x",
            LoginReferences::default(),
        )
    }

    #[test]
    fn a_growing_percentage_lets_everyone_in_who_was_in() {
        let shop: PolicyName = "shop/shop".parse().unwrap();
        let of = |percentage| {
            policy(&Login {
                rollout: Some(Rollout { percentage: Some(percentage), subjects: Some(vec!["Bob@Shop.example".into()]) }),
                ..Login::default()
            })
        };
        let in_at = |percentage: u32| -> Vec<u32> {
            (0..200).filter(|id| of(percentage).rolled_out(&shop, &id.to_string(), &[])).collect()
        };
        let (few, more) = (in_at(10), in_at(60));
        assert!(few.len() > 5 && few.len() < 40, "{}", few.len());
        assert!(few.iter().all(|id| more.contains(id)) && more.len() > few.len());
        assert_eq!(in_at(0), Vec::<u32>::new());
        assert_eq!(in_at(100).len(), 200);
        assert!(of(0).rolled_out(&shop, "1", &["bob@shop.example"]), "a named one is in");
        assert!(!of(0).rolled_out(&shop, "1", &["eve@shop.example"]));
    }

    #[test]
    fn an_app_shows_the_issuers_host_unless_told_otherwise() {
        assert_eq!(policy(&Login::default()).totp.issuer_name, "auth.shop.example");
    }

    #[test]
    fn a_second_factor_is_demanded_of_everyone_or_of_roles() {
        let of = |mode, roles: &[&str]| {
            let required_for_roles = Some(roles.iter().map(|r| (*r).to_owned()).collect());
            policy(&Login { mfa: Some(Mfa { mode: Some(mode), required_for_roles, ..Mfa::default() }), ..Login::default() })
        };
        let admin = ["admin".to_owned()];
        assert!(of(MfaMode::Required, &[]).demands_second_factor(&[]));
        assert!(of(MfaMode::Optional, &["admin"]).demands_second_factor(&admin));
        assert!(!of(MfaMode::Optional, &["root"]).demands_second_factor(&admin));
        assert!(!of(MfaMode::Disabled, &["admin"]).demands_second_factor(&admin));
    }
}
