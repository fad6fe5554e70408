//! The authenticator of the person who is taken through: codes from the secret that the issuer shows.

use std::time::Duration;

use countersign_issuer::totp::{TotpSecret, TotpSettings};
use serde_json::Value;

use super::super::{now, text};
use crate::failure::Failure;

/// What an `otpauth:` URL says when it says nothing.
const DIGITS: u8 = 6;
const PERIOD_S: u64 = 30;

/// A secret that was shown, and the last time step of which a code was used.
pub(super) struct Authenticator {
    secret: TotpSecret,
    settings: TotpSettings,
    used: u64,
}

impl Authenticator {
    /// From what the issuer answers to a set-up.
    pub(super) fn from_setup(shown: &Value) -> Result<Self, Failure> {
        let url = reqwest::Url::parse(text(shown, "otpauth_url")).map_err(|_| unusable("its otpauth_url is none"))?;
        let asked = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        let number = |name: &str| asked(name).map(|value| value.parse::<u64>()).transpose();
        let digits = number("digits").map_err(|_| unusable("digits"))?;
        let period_s = number("period").map_err(|_| unusable("period"))?.unwrap_or(PERIOD_S).max(1);
        let digits = digits.map_or(Some(DIGITS), |digits| u8::try_from(digits).ok()).ok_or_else(|| unusable("digits"))?;
        let secret = TotpSecret::from_base32(text(shown, "secret")).map_err(|error| unusable(&error.to_string()))?;
        Ok(Self { secret, settings: TotpSettings { issuer_name: String::new(), digits, period_s, skew: 0 }, used: 0 })
    }

    /// A code that was not used yet: the present step's, or the one after those that were, which an issuer that allows for clocks
    /// that are off takes at once.
    pub(super) fn next_code(&mut self) -> Result<String, Failure> {
        self.used = self.step_now().max(self.used + 1);
        let code = self.secret.code_at(&self.settings, self.used * self.settings.period_s);
        code.map_err(|error| unusable(&error.to_string()))
    }

    /// How long until the last code's own time has come.
    pub(super) fn until_due(&self) -> Duration {
        let due_ms = i64::try_from(self.used * self.settings.period_s).unwrap_or(i64::MAX).saturating_mul(1000);
        Duration::from_millis(u64::try_from(due_ms.saturating_sub(now().0)).unwrap_or(0))
    }

    fn step_now(&self) -> u64 {
        u64::try_from(now().as_secs()).unwrap_or(0) / self.settings.period_s
    }
}

fn unusable(why: &str) -> Failure {
    Failure::no(format!("no authenticator can use what the issuer showed: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_code_is_shown_twice_and_each_has_the_digits_that_were_asked_for() {
        let shown = json!({
            "secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
            "otpauth_url": "otpauth://totp/Shop:a?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP&issuer=Shop&digits=8&period=60",
        });
        let mut authenticator = Authenticator::from_setup(&shown).unwrap();
        let (first, second) = (authenticator.next_code().unwrap(), authenticator.next_code().unwrap());
        assert_eq!((first.len(), second.len()), (8, 8));
        assert_ne!(first, second);
        assert!(authenticator.until_due() <= Duration::from_mins(1), "the second is of the next step");
    }
}
