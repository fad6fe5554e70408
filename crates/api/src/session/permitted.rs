//! What a policy lets its declared sessions have.

use super::EffectiveSession;
use crate::{policy::EffectivePolicy, schema::Problem};

impl EffectiveSession {
    /// Everything that this session asks for and `policy` doesn't grant. What a session may not ask for under any policy is
    /// found when its spec is read.
    pub fn not_permitted_by(&self, policy: &EffectivePolicy) -> Vec<Problem> {
        let mut problems = Vec::new();
        if policy.issuer.is_none() {
            problems.push(Problem::new(
                "spec.policyRef",
                "the policy only verifies others' tokens (it has no issuer): name another",
            ));
        }
        let grant = &policy.declared_sessions;
        if !self.subject.starts_with(&grant.subject_prefix) {
            let message =
                format!("must begin with {:?}, the policy's declaredSessions.subjectPrefix", grant.subject_prefix);
            problems.push(Problem::new("spec.subject", message));
        }
        if let Some(message) = beyond(&self.roles, &grant.roles, "the policy's declaredSessions.roles") {
            problems.push(Problem::new("spec.roles", message));
        }
        let audiences = self.audiences.as_deref().unwrap_or_default();
        if let Some(message) = beyond(audiences, &policy.audiences, "the policy's audiences") {
            problems.push(Problem::new("spec.audiences", message));
        }
        if self.token_ttl > policy.tokens.access_ttl {
            let message = format!(
                "is {}, longer than the policy's tokens.accessTTL; set at most {}",
                self.token_ttl, policy.tokens.access_ttl
            );
            problems.push(Problem::new("spec.tokenTTL", message));
        }
        problems
    }
}

fn beyond(asked: &[String], granted: &[String], whose: &str) -> Option<String> {
    let surplus: Vec<&str> = asked.iter().filter(|a| !granted.contains(a)).map(String::as_str).collect();
    (!surplus.is_empty()).then(|| format!("not among {whose}: {}; remove that, or have it added there", surplus.join(", ")))
}

#[cfg(test)]
mod tests {
    use crate::{
        policy::{AuthPolicySpec, DeclaredSessions, EffectivePolicy, Tokens},
        session::{SessionSpec, TokenSecret},
        settings::Resolve as _,
        values::Duration,
    };

    fn policy() -> EffectivePolicy {
        AuthPolicySpec {
            audiences: vec!["shop-api".into(), "shop-admin".into()],
            issuer: Some("https://auth.shop.example".into()),
            tokens: Some(Tokens { access_ttl: Some(Duration::minutes(20)), ..Tokens::default() }),
            declared_sessions: Some(DeclaredSessions {
                roles: Some(vec!["user".into()]),
                subject_prefix: Some("svc-".into()),
            }),
            ..AuthPolicySpec::default()
        }
        .resolve()
    }

    fn session() -> SessionSpec {
        SessionSpec {
            subject: "svc-billing".into(),
            secret: TokenSecret { name: "t".into(), ..TokenSecret::default() },
            ..SessionSpec::default()
        }
    }

    #[test]
    fn a_session_gets_what_its_policy_grants_and_is_told_each_thing_beyond() {
        let cases: [(SessionSpec, &[&str]); 7] = [
            (session(), &[]),
            (
                SessionSpec { roles: Some(vec!["user".into()]), audiences: Some(vec!["shop-admin".into()]), ..session() },
                &[],
            ),
            (SessionSpec { token_ttl: Some(Duration::minutes(20)), ..session() }, &[]),
            (SessionSpec { token_ttl: Some(Duration::minutes(21)), ..session() }, &["spec.tokenTTL"]),
            (SessionSpec { subject: "alice".into(), ..session() }, &["spec.subject"]),
            (SessionSpec { audiences: Some(vec!["shop-api".into(), "other".into()]), ..session() }, &["spec.audiences"]),
            (
                SessionSpec { roles: Some(vec!["admin".into()]), subject: "x".into(), ..session() },
                &["spec.subject", "spec.roles"],
            ),
        ];
        for (spec, expected) in cases {
            let problems = spec.resolve().not_permitted_by(&policy());
            let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
            assert_eq!(fields, expected, "{spec:?}");
        }
        let only_verifies = EffectivePolicy { issuer: None, ..policy() };
        assert_eq!(session().resolve().not_permitted_by(&only_verifies)[0].field, "spec.policyRef");
    }
}
