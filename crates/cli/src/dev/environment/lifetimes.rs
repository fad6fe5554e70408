//! Lifetimes that the environment sets, made to go together: what existing deployments set was never held against one another.

use countersign_api::{Resolve as _, policy::AuthPolicySpec, values::Duration};

use super::{Filled, sessions};

pub(super) const ACCESS_TTL: &str = "spec.tokens.accessTTL";
pub(super) const REFRESH_TTL: &str = "spec.tokens.refreshTTL";
pub(super) const IDLE_TIMEOUT: &str = "spec.login.sessions.idleTimeout";
/// The longest that a policy lets access tokens live.
const LONGEST_ACCESS: Duration = Duration::hours(24);

/// Which lifetimes a policy says itself. They are never changed, and a policy in which they don't fit is refused.
pub(super) struct Lifetimes {
    access: bool,
    absolute: bool,
}

impl Lifetimes {
    /// To be asked before anything is filled in.
    pub(super) fn of(spec: &AuthPolicySpec) -> Self {
        let sessions = spec.login.as_ref().and_then(|login| login.sessions.as_ref());
        Self {
            access: spec.tokens.as_ref().is_some_and(|tokens| tokens.access_ttl.is_some()),
            absolute: sessions.is_some_and(|sessions| sessions.absolute_timeout.is_some()),
        }
    }

    /// Fits the others to what the environment has filled in.
    pub(super) fn fit(&self, spec: &mut AuthPolicySpec, filled: &mut Vec<Filled>) {
        if !self.absolute {
            lengthen_sessions(spec, filled);
        }
        if !self.access {
            shorten_access(spec, filled);
        }
    }
}

/// The variables that have filled in one of these fields, for a warning.
fn variables_of(filled: &[Filled], fields: &[&str]) -> Option<String> {
    let variables = filled.iter().filter(|one| fields.contains(&one.field)).map(|one| one.variable);
    Some(variables.collect::<Vec<_>>().join(" and ")).filter(|variables| !variables.is_empty())
}

/// Sessions live at least as long as they may be idle.
fn lengthen_sessions(spec: &mut AuthPolicySpec, filled: &[Filled]) {
    let Some(variables) = variables_of(filled, &[IDLE_TIMEOUT]) else { return };
    let Some(sessions) = sessions(spec) else { return };
    let (idle, absolute) = (sessions.resolve().idle_timeout, sessions.resolve().absolute_timeout);
    if idle > absolute {
        tracing::warn!(
            "{variables}: spec.login.sessions.absoluteTimeout is {idle} too: a session is over by then at the latest"
        );
        sessions.absolute_timeout = Some(idle);
    }
}

/// Access tokens live as long as the environment says, or as they do by default, unless a session would end before it can be
/// refreshed: then half as long as that takes.
fn shorten_access(spec: &mut AuthPolicySpec, filled: &mut Vec<Filled>) {
    let fields = [ACCESS_TTL, REFRESH_TTL, IDLE_TIMEOUT];
    let Some(variables) = variables_of(filled, &fields) else { return };
    let tokens = spec.tokens.clone().unwrap_or_default().resolve();
    let idle = spec.login.as_ref().map(|login| {
        let sessions = login.sessions.clone().unwrap_or_default().resolve();
        sessions.idle_timeout.min(sessions.remember_me.idle_timeout)
    });
    let mut access = tokens.access_ttl.min(LONGEST_ACCESS).min(tokens.refresh_ttl);
    if let Some(idle) = idle.filter(|idle| *idle <= access) {
        access = Duration::secs((idle.as_millis() / 2000).max(1));
    }
    if access == tokens.access_ttl {
        return;
    }
    tracing::warn!(
        "{variables}: {ACCESS_TTL} is {access} and not {}, so that a session can be refreshed before it ends",
        tokens.access_ttl
    );
    spec.tokens.get_or_insert_default().access_ttl = Some(access);
    if let Some(variable) = filled.iter().find(|one| fields.contains(&one.field)).map(|one| one.variable)
        && filled.iter().all(|one| one.field != ACCESS_TTL)
    {
        filled.push(Filled { field: ACCESS_TTL, variable });
    }
}

#[cfg(test)]
mod tests {
    use countersign_api::policy::{Login, Tokens};
    use countersign_core::time::UnixMillis;

    use super::*;
    use crate::dev::environment::Defaults;

    fn read(env: &[(&str, &str)]) -> Defaults {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Defaults::read(&lookup, UnixMillis(1_800_000_000_123), &mut Vec::new()).unwrap()
    }

    #[test]
    fn lifetimes_that_do_not_go_together_are_made_to_unless_the_policy_says_them_itself() {
        let spec = |own: Option<i64>| AuthPolicySpec {
            login: Some(Login::default()),
            tokens: own.map(|minutes| Tokens { access_ttl: Some(Duration::minutes(minutes)), ..Tokens::default() }),
            ..AuthPolicySpec::default()
        };
        for (env, access) in [
            (&[("ACCESS_TOKEN_EXPIRE_MINUTES", "30"), ("SESSION_TIMEOUT_MINUTES", "30")][..], Duration::minutes(15)),
            (&[("SESSION_TIMEOUT_MINUTES", "10")], Duration::minutes(5)),
            (&[("SESSION_TIMEOUT_MINUTES", "1")], Duration::secs(30)),
            (&[("ACCESS_TOKEN_EXPIRE_MINUTES", "11520")], Duration::hours(24)),
            (&[("ACCESS_TOKEN_EXPIRE_MINUTES", "11520"), ("SESSION_TIMEOUT_MINUTES", "60")], Duration::minutes(30)),
            (&[("ACCESS_TOKEN_EXPIRE_MINUTES", "30")], Duration::minutes(30)),
        ] {
            let mut spec = spec(None);
            let filled = read(env).fill_in(&mut spec);
            assert_eq!(spec.tokens.unwrap().access_ttl, Some(access), "{env:?}");
            assert!(filled.iter().any(|one| one.field == ACCESS_TTL && one.variable == env[0].0), "{env:?}: {filled:?}");
        }
        let mut own = spec(Some(15));
        let filled = read(&[("SESSION_TIMEOUT_MINUTES", "10")]).fill_in(&mut own);
        assert_eq!(own.tokens.unwrap().access_ttl, Some(Duration::minutes(15)), "the policy's own stands, and is refused");
        assert_eq!(filled.len(), 1);
        let mut long = spec(None);
        read(&[("SESSION_TIMEOUT_MINUTES", "100000")]).fill_in(&mut long);
        let sessions = long.login.unwrap().sessions.unwrap();
        assert_eq!(sessions.absolute_timeout, Some(Duration::minutes(100_000)));
        let mut silent = spec(None);
        assert_eq!(read(&[("PASSWORD_MIN_LENGTH", "9")]).fill_in(&mut silent).len(), 1);
        assert_eq!(silent.tokens, None);
    }
}
