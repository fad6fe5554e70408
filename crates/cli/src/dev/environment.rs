//! Settings of the environment that existing deployments have: defaults for the default policy, which its own fields override.

mod lifetimes;

use countersign_api::{
    policy::{AuthPolicySpec, Emergency, Lockout, Mfa, Passwords, Sessions, Switch, Tokens, Totp},
    values::{Duration, Time},
};
use countersign_core::time::UnixMillis;

use self::lifetimes::{ACCESS_TTL, IDLE_TIMEOUT, Lifetimes, REFRESH_TTL};
use super::legacy::{Lookup, first};
use crate::failure::Failure;

/// The shortest text that keys are derived from, bytes.
const MIN_KEY_TEXT: usize = 16;
/// The longest name that an authenticator app shows, characters.
const MAX_NAME: usize = 64;
const DAY_S: u64 = 86_400;
/// Ten years: nobody means more.
const DECADE_S: u64 = 3650 * DAY_S;

/// What the environment sets, variable by variable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults(Vec<Setting>);

/// A field that a variable fills in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// As `spec.tokens.accessTTL`.
    pub(crate) field: &'static str,
    /// The variable's name.
    pub(crate) variable: &'static str,
}

#[derive(Clone, Debug)]
struct Setting {
    variable: &'static str,
    known: &'static Known,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    /// Seconds, or things.
    Number(u64),
    Text(String),
    /// An instant.
    Until(UnixMillis),
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The field has it.
    Taken,
    /// The policy says something itself.
    Overridden,
    /// The policy has no such part.
    NoPlace,
}

/// One setting: its variables, the first of which wins, each with seconds per unit (1 for what is counted).
#[derive(Debug)]
struct Known {
    variables: &'static [(&'static str, u64)],
    field: &'static str,
    /// The largest value, in the field's unit; 0: a text.
    most: u64,
    fill: fn(&mut AuthPolicySpec, &Value) -> Fate,
}

const KNOWN: &[Known] = &[
    Known {
        variables: &[
            ("ACCESS_TOKEN_EXPIRE_MINUTES", 60),
            ("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", 60),
            ("JWT_EXPIRATION_SECONDS", 1),
        ],
        field: ACCESS_TTL,
        most: DECADE_S,
        fill: |spec, value| seconds(&mut spec.tokens.get_or_insert_with(Tokens::default).access_ttl, value),
    },
    Known {
        variables: &[("REFRESH_TOKEN_EXPIRE_DAYS", DAY_S), ("JWT_REFRESH_TOKEN_EXPIRE_DAYS", DAY_S)],
        field: REFRESH_TTL,
        most: DECADE_S,
        fill: |spec, value| seconds(&mut spec.tokens.get_or_insert_with(Tokens::default).refresh_ttl, value),
    },
    Known {
        variables: &[("MAX_CONCURRENT_SESSIONS", 1)],
        field: "spec.login.sessions.maxConcurrent",
        most: 1000,
        fill: |spec, value| sessions(spec).map_or(Fate::NoPlace, |s| count(&mut s.max_concurrent, value)),
    },
    Known {
        variables: &[("SESSION_TIMEOUT_MINUTES", 60)],
        field: IDLE_TIMEOUT,
        most: DECADE_S,
        fill: |spec, value| sessions(spec).map_or(Fate::NoPlace, |s| seconds(&mut s.idle_timeout, value)),
    },
    Known {
        variables: &[("MFA_ISSUER_NAME", 1), ("2FA_ISSUER_NAME", 1)],
        field: "spec.login.mfa.totp.issuerName",
        most: 0,
        fill: |spec, value| totp(spec).map_or(Fate::NoPlace, |t| text(&mut t.issuer_name, value)),
    },
    Known {
        variables: &[("MAX_LOGIN_ATTEMPTS", 1)],
        field: "spec.login.lockout.maxFailures",
        most: 1000,
        fill: |spec, value| lockout(spec).map_or(Fate::NoPlace, |l| count(&mut l.max_failures, value)),
    },
    Known {
        variables: &[("ACCOUNT_LOCKOUT_DURATION_MINUTES", 60)],
        field: "spec.login.lockout.duration",
        most: DECADE_S,
        fill: |spec, value| lockout(spec).map_or(Fate::NoPlace, |l| seconds(&mut l.duration, value)),
    },
    Known {
        variables: &[("PASSWORD_MIN_LENGTH", 1)],
        field: "spec.login.passwords.minLength",
        most: 128,
        fill: |spec, value| passwords(spec).map_or(Fate::NoPlace, |p| count(&mut p.min_length, value)),
    },
];

/// Lets emergency tokens be made for a while from the start.
const EMERGENCY_AUTH_MODE: &str = "EMERGENCY_AUTH_MODE";
const EMERGENCY_MS: i64 = 3_600_000;
/// The most roles that a policy's `emergency` may name.
const MAX_EMERGENCY_ROLES: usize = 16;

/// Beside [`KNOWN`], whose values are texts and numbers.
static EMERGENCY: Known = Known { variables: &[], field: "spec.emergency", most: 0, fill: emergency };

/// Texts that keys are derived from.
const KEY_TEXTS: [&str; 2] = ["TOKEN_ENCRYPTION_KEY", "CSRF_SECRET_KEY"];
/// What deployments have, and nothing here needs.
const NOT_NEEDED: [(&str, &str); 1] =
    [("CSRF_SECRET_KEY", "CSRF tokens are signed with the policy's own keys, by which verifiers check them")];

fn sessions(spec: &mut AuthPolicySpec) -> Option<&mut Sessions> {
    Some(spec.login.as_mut()?.sessions.get_or_insert_with(Sessions::default))
}

fn lockout(spec: &mut AuthPolicySpec) -> Option<&mut Lockout> {
    Some(spec.login.as_mut()?.lockout.get_or_insert_with(Lockout::default))
}

fn passwords(spec: &mut AuthPolicySpec) -> Option<&mut Passwords> {
    Some(spec.login.as_mut()?.passwords.get_or_insert_with(Passwords::default))
}

fn totp(spec: &mut AuthPolicySpec) -> Option<&mut Totp> {
    let mfa = spec.login.as_mut()?.mfa.get_or_insert_with(Mfa::default);
    Some(mfa.totp.get_or_insert_with(Totp::default))
}

/// Until the value: with every role that the policy defines, unless it says itself which.
fn emergency(spec: &mut AuthPolicySpec, value: &Value) -> Fate {
    let Value::Until(end) = value else { return Fate::NoPlace };
    if spec.issuer.is_none() {
        return Fate::NoPlace;
    }
    let defined = spec.roles.iter().flatten().map(|role| role.name.clone()).take(MAX_EMERGENCY_ROLES).collect();
    let emergency = spec.emergency.get_or_insert_with(Emergency::default);
    if emergency.mode.is_some() {
        return Fate::Overridden;
    }
    emergency.mode = Some(Switch::Enabled);
    emergency.not_after.get_or_insert(Time(*end));
    emergency.roles.get_or_insert(defined);
    Fate::Taken
}

fn put<T>(field: &mut Option<T>, value: Option<T>) -> Fate {
    match (field.is_some(), value) {
        (true, _) => Fate::Overridden,
        (false, Some(value)) => {
            *field = Some(value);
            Fate::Taken
        }
        (false, None) => Fate::NoPlace,
    }
}

fn seconds(field: &mut Option<Duration>, value: &Value) -> Fate {
    let Value::Number(seconds) = value else { return Fate::NoPlace };
    put(field, i64::try_from(*seconds).ok().map(Duration::secs))
}

fn count(field: &mut Option<u32>, value: &Value) -> Fate {
    let Value::Number(number) = value else { return Fate::NoPlace };
    put(field, u32::try_from(*number).ok())
}

fn text(field: &mut Option<String>, value: &Value) -> Fate {
    let Value::Text(text) = value else { return Fate::NoPlace };
    put(field, Some(text.clone()))
}

impl Defaults {
    /// Reads the environment through `set`, which leaves out what is empty.
    pub(crate) fn read(set: Lookup<'_>, now: UnixMillis, warnings: &mut Vec<String>) -> Result<Self, Failure> {
        let mut settings = Vec::new();
        for known in KNOWN {
            let names: Vec<&'static str> = known.variables.iter().map(|(name, _)| *name).collect();
            if let Some((variable, text)) = first(set, &names, warnings) {
                settings.push(Setting { variable, known, value: known.value(variable, &text)? });
            }
        }
        for variable in KEY_TEXTS {
            if let Some(bytes) = set(variable).map(|text| text.len()).filter(|bytes| *bytes < MIN_KEY_TEXT) {
                return Err(Failure::usage(format!(
                    "{variable} has {bytes} bytes: keys are derived from it, so it takes {MIN_KEY_TEXT} or more"
                ))
                .fix(format!("a random one: {variable}=$(head -c 32 /dev/urandom | base64); or unset it")));
            }
        }
        if let Some(mode) = set(EMERGENCY_AUTH_MODE) {
            match mode.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => {
                    let end = now.plus(EMERGENCY_MS);
                    warnings.push(format!(
                        "{EMERGENCY_AUTH_MODE}: until {end} emergency tokens can be minted for the default policy, with any of its \
                         roles; each use is recorded"
                    ));
                    settings.push(Setting { variable: EMERGENCY_AUTH_MODE, known: &EMERGENCY, value: Value::Until(end) });
                }
                "false" | "0" | "no" | "off" => {}
                _ => return Err(Failure::usage(format!("{EMERGENCY_AUTH_MODE}: {mode:?} is neither true nor false"))),
            }
        }
        for (variable, reason) in NOT_NEEDED {
            if set(variable).is_some() {
                warnings.push(format!("{variable} is not needed: {reason}"));
            }
        }
        Ok(Self(settings))
    }

    /// Fills in what the policy leaves open. Which fields; what has no place in it is warned about.
    pub(crate) fn fill_in(&self, spec: &mut AuthPolicySpec) -> Vec<Filled> {
        let mut filled = Vec::new();
        let own = Lifetimes::of(spec);
        for Setting { variable, known, value } in &self.0 {
            match (known.fill)(spec, value) {
                Fate::Taken => filled.push(Filled { field: known.field, variable }),
                Fate::Overridden => {
                    tracing::info!(
                        variable,
                        field = known.field,
                        "the default policy's own field counts, not the variable"
                    );
                }
                Fate::NoPlace if known.field.starts_with("spec.login") => {
                    tracing::warn!(variable, field = known.field, "not used: the default policy has no spec.login");
                }
                Fate::NoPlace => {
                    tracing::warn!(variable, field = known.field, "not used: the default policy has no spec.issuer");
                }
            }
        }
        own.fit(spec, &mut filled);
        filled
    }
}

impl Known {
    fn value(&self, variable: &str, text: &str) -> Result<Value, Failure> {
        let text = text.trim();
        if self.most == 0 {
            return if text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control) {
                Ok(Value::Text(text.to_owned()))
            } else {
                Err(Failure::usage(format!("{variable}: at most {MAX_NAME} characters, none of them a control character")))
            };
        }
        let unit = self.variables.iter().find(|(name, _)| *name == variable).map_or(1, |(_, unit)| *unit);
        let most = self.most / unit;
        let number = text.parse::<u64>().ok().filter(|number| (1..=most).contains(number));
        number
            .map(|number| Value::Number(number * unit))
            .ok_or_else(|| Failure::usage(format!("{variable}: {text:?} is no whole number from 1 to {most}")))
    }
}

#[cfg(test)]
mod tests {
    use countersign_api::policy::{EffectivePolicy, Login, Role};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_123);

    fn read(env: &[(&str, &str)]) -> Result<(Defaults, Vec<String>), Failure> {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let mut warnings = Vec::new();
        Defaults::read(&lookup, NOW, &mut warnings).map(|found| (found, warnings))
    }

    #[test]
    fn each_variable_fills_in_its_field_unless_the_policy_says_something_itself() {
        let env = [
            ("JWT_EXPIRATION_SECONDS", "90"),
            ("REFRESH_TOKEN_EXPIRE_DAYS", "3"),
            ("MAX_CONCURRENT_SESSIONS", "2"),
            ("SESSION_TIMEOUT_MINUTES", "45"),
            ("2FA_ISSUER_NAME", "Shop"),
            ("MAX_LOGIN_ATTEMPTS", "3"),
            ("ACCOUNT_LOCKOUT_DURATION_MINUTES", "10"),
            ("PASSWORD_MIN_LENGTH", "12"),
        ];
        let (defaults, warnings) = read(&env).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let mut spec = AuthPolicySpec { login: Some(Login::default()), ..AuthPolicySpec::default() };
        let filled = defaults.fill_in(&mut spec);
        assert_eq!(filled.len(), KNOWN.len());
        for (one, (variable, _)) in filled.iter().zip(env) {
            assert_eq!(one.variable, variable);
        }
        assert_eq!(spec.tokens.as_ref().unwrap().access_ttl, Some(Duration::secs(90)));
        assert_eq!(spec.tokens.as_ref().unwrap().refresh_ttl, Some(Duration::hours(72)));
        let login = spec.login.clone().unwrap();
        assert_eq!(login.sessions.as_ref().unwrap().max_concurrent, Some(2));
        assert_eq!(login.sessions.unwrap().idle_timeout, Some(Duration::minutes(45)));
        assert_eq!(login.mfa.unwrap().totp.unwrap().issuer_name.as_deref(), Some("Shop"));
        assert_eq!(login.lockout.as_ref().unwrap().max_failures, Some(3));
        assert_eq!(login.lockout.unwrap().duration, Some(Duration::minutes(10)));
        assert_eq!(login.passwords.unwrap().min_length, Some(12));
        assert_eq!(defaults.fill_in(&mut spec), [], "every field is the policy's own now");
        // What every variable may be at most is what the policy may say.
        assert!(KNOWN.iter().all(|known| known.field.starts_with("spec.")));
        assert!(EffectivePolicy::try_from(&AuthPolicySpec::default()).is_err(), "a policy needs more than this");
    }

    #[test]
    fn emergency_tokens_are_for_an_hour_and_for_a_policy_that_says_nothing_of_them() {
        let (defaults, warnings) = read(&[("EMERGENCY_AUTH_MODE", "True")]).unwrap();
        assert!(warnings[0].contains("EMERGENCY_AUTH_MODE: until 2027-01-15T09:00:00.123Z"), "{warnings:?}");
        let role = |name: &str| Role { name: name.into(), ..Role::default() };
        let with = |emergency| AuthPolicySpec {
            issuer: Some("https://auth.shop.example".into()),
            roles: Some(vec![role("admin"), role("user")]),
            emergency,
            ..AuthPolicySpec::default()
        };
        let mut silent = with(None);
        let taken = [Filled { field: "spec.emergency", variable: "EMERGENCY_AUTH_MODE" }];
        assert_eq!(defaults.fill_in(&mut silent), taken);
        let filled = silent.emergency.unwrap();
        assert_eq!((filled.mode, filled.not_after), (Some(Switch::Enabled), Some(Time(NOW.plus(EMERGENCY_MS)))));
        assert_eq!(filled.roles, Some(vec!["admin".to_owned(), "user".to_owned()]));
        let mut narrow = with(Some(Emergency { roles: Some(vec!["user".into()]), ..Emergency::default() }));
        assert_eq!(defaults.fill_in(&mut narrow), taken);
        assert_eq!(narrow.emergency.unwrap().roles, Some(vec!["user".to_owned()]));
        let own = Emergency { mode: Some(Switch::Disabled), ..Emergency::default() };
        let mut off = with(Some(own.clone()));
        assert_eq!(defaults.fill_in(&mut off), []);
        assert_eq!(off.emergency, Some(own));
        let mut verifies_only = AuthPolicySpec::default();
        assert_eq!(defaults.fill_in(&mut verifies_only), []);
        let (none, warnings) = read(&[("EMERGENCY_AUTH_MODE", "false")]).unwrap();
        assert!(warnings.is_empty() && none.0.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        for (name, value) in [
            ("ACCESS_TOKEN_EXPIRE_MINUTES", "-5"),
            ("ACCESS_TOKEN_EXPIRE_MINUTES", "9999999"),
            ("MAX_CONCURRENT_SESSIONS", "0"),
            ("MAX_CONCURRENT_SESSIONS", "1001"),
            ("SESSION_TIMEOUT_MINUTES", "soon"),
            ("SESSION_TIMEOUT_MINUTES", "99999999999999999999"),
            ("MAX_LOGIN_ATTEMPTS", "1.5"),
            ("PASSWORD_MIN_LENGTH", "-1"),
            ("PASSWORD_MIN_LENGTH", "129"),
            ("MFA_ISSUER_NAME", "a\nb"),
            ("TOKEN_ENCRYPTION_KEY", "a"),
            ("CSRF_SECRET_KEY", "fifteen bytes 5"),
            ("EMERGENCY_AUTH_MODE", "perhaps"),
        ] {
            let refused = read(&[(name, value)]).unwrap_err();
            assert!(refused.message.contains(name), "{name}={value}: {refused}");
        }
    }

    #[test]
    fn what_is_not_needed_is_said() {
        let (_, warnings) =
            read(&[("CSRF_SECRET_KEY", "0123456789abcdef"), ("TOKEN_ENCRYPTION_KEY", "0123456789abcdef")]).unwrap();
        assert_eq!(
            warnings,
            [
                "CSRF_SECRET_KEY is not needed: CSRF tokens are signed with the policy's own keys, by which verifiers check them"
            ]
        );
    }
}
