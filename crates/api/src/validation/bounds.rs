//! How short and how long durations may be.

use serde_json::Value;

use super::{CelRule, expand::is_no_duration};
use crate::values::Duration;

/// A duration's bounds.
pub(super) struct Bound {
    pub(super) at: &'static str,
    pub(super) field: &'static str,
    least: &'static str,
    /// Empty: whatever can be written.
    most: &'static str,
}

impl Bound {
    pub(super) fn rule(&self) -> CelRule {
        let value = format!("self{}", self.field);
        let least = format!("duration({value}) >= duration('{}')", self.least);
        let holds = match self.most {
            "" => least,
            most => format!("({least} && duration({value}) <= duration('{most}'))"),
        };
        CelRule {
            at: self.at,
            field: self.field,
            cel: format!("!has({value}) || {} || {holds}", is_no_duration(&value)),
            message: self.message(),
        }
    }

    pub(super) fn message(&self) -> String {
        let name = self.field.trim_start_matches('.');
        match self.most {
            "" => format!("{name} must be at least {}", self.least),
            most if self.least == "0s" => format!("{name} must be at most {most}"),
            most => format!("{name} must be from {} to {most}", self.least),
        }
    }

    /// Whether the duration is outside. One that can't be read was told of by the schema.
    pub(super) fn is_broken(&self, place: &Value) -> bool {
        let given = place.get(self.field.trim_start_matches('.')).and_then(Value::as_str);
        let Some(given) = given.and_then(|text| text.parse::<Duration>().ok()) else { return false };
        let outside = |bound: &str, is_outside: fn(&Duration, &Duration) -> bool| {
            bound.parse::<Duration>().is_ok_and(|bound| is_outside(&given, &bound))
        };
        outside(self.least, Duration::lt) || outside(self.most, Duration::gt)
    }
}

macro_rules! bounds {
    ($($at:literal $field:literal: $least:literal $(..= $most:literal)?;)*) => {
        &[$(Bound { at: $at, field: $field, least: $least, most: concat!($($most)?) }),*]
    };
}

pub(super) const POLICY: &[Bound] = bounds! {
    "spec.tokens" ".accessTTL": "1s"..="24h";
    "spec.tokens" ".clockSkew": "0s"..="5m";
    "spec.tokens" ".refreshGrace": "0s"..="5m";
    "spec.tokens" ".apiKeyMaxTTL": "1s";
    "spec.keys" ".absentAfter": "1s";
    "spec.revocation" ".maxStaleness": "100ms";
    "spec.verificationRateLimit" ".window": "1s";
    "spec.trustedIssuers[]" ".maxTTL": "1s";
    "spec.emergency" ".maxTTL": "1s"..="24h";
    "spec.login.lockout" ".window": "1s";
    "spec.login.lockout" ".duration": "1s";
    "spec.login.passwords" ".maxAge": "1h";
    "spec.login.mfa" ".challengeTTL": "1s"..="1h";
    "spec.login.mfa.totp" ".period": "10s"..="5m";
    "spec.login.rateLimits.login.perAccountAndAddress" ".window": "1s";
    "spec.login.rateLimits.login.perAddress" ".window": "1s";
    "spec.login.rateLimits.register.perAddress" ".window": "1s";
    "spec.login.rateLimits.passwordReset.perAccount" ".window": "1s";
    "spec.login.rateLimits.passwordReset.perAddress" ".window": "1s";
    "spec.login.rateLimits.api.perSubject" ".window": "1s";
    "spec.login.addressBlocking" ".window": "1s";
    "spec.login.addressBlocking" ".duration": "1s";
};

pub(super) const SESSION: &[Bound] = bounds! {
    "spec" ".tokenTTL": "1m"..="24h";
    "spec" ".renewBefore": "1s";
    "spec" ".lifetime": "1m";
};
