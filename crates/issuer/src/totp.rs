//! Time-based one-time passwords (RFC 6238): making a secret, showing it, and telling which time step a code is of.
//!
//! That a step counts once, on every replica, is the store's to hold; how many guesses there are is the lockout's.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use totp_rs::{Algorithm, Builder, Secret, Totp};
use zeroize::Zeroizing;

/// How a policy's codes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotpSettings {
    /// The name that an authenticator shows.
    pub issuer_name: String,
    /// Digits of a code: 6, 7 or 8.
    pub digits: u8,
    /// How long a code lasts, seconds; not 0.
    pub period_s: u64,
    /// How many periods a clock may be off, each way.
    pub skew: u16,
}

/// An authenticator's secret: 160 random bits (RFC 4226 section 4, R6).
#[derive(Clone)]
pub struct TotpSecret(Zeroizing<Vec<u8>>);

/// What a person needs to set an authenticator up. Secret.
pub struct Provisioning {
    /// The secret in base32, to be typed.
    pub secret: Zeroizing<String>,
    /// The secret as a link.
    pub otpauth_url: Zeroizing<String>,
    /// The link as a QR code: a `data:` URL with a PNG image.
    pub qr_code: Zeroizing<String>,
}

/// Why there are no codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TotpError {
    /// The system's random numbers failed.
    #[error("the system gave no random numbers")]
    NoRandomness,
    /// A secret from elsewhere that is under 128 bits (RFC 4226 section 4, R6), or is none.
    #[error("the secret isn't base32 of at least 16 bytes")]
    WeakSecret,
    /// The settings make no codes.
    #[error("codes have 6 to 8 digits and last at least a second")]
    Settings,
    /// The account's name is too long for a QR code.
    #[error("the account's name is too long for a QR code")]
    TooLong,
}

impl TotpSecret {
    /// The fewest bytes of a secret.
    const MIN_BYTES: usize = 16;
    /// The bytes of one of ours.
    const BYTES: usize = 20;

    /// A fresh one.
    pub fn generate() -> Result<Self, TotpError> {
        let mut bytes = Zeroizing::new(vec![0; Self::BYTES]);
        SystemRandom::new().fill(&mut bytes).map_err(|_| TotpError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// One that was kept.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, TotpError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < Self::MIN_BYTES { Err(TotpError::WeakSecret) } else { Ok(Self(bytes)) }
    }

    /// One that a migration brings, in base32.
    pub fn from_base32(text: &str) -> Result<Self, TotpError> {
        let secret = Secret::try_from_base32(text).map_err(|_| TotpError::WeakSecret)?;
        Self::from_bytes(secret.as_bytes().to_vec())
    }

    /// Its bytes, to be kept sealed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What sets an authenticator up for `account`.
    pub fn provisioning(&self, settings: &TotpSettings, account: &str) -> Result<Provisioning, TotpError> {
        // A colon would end the issuer's name in the link's label.
        let plain = |text: &str| text.replace(':', " ");
        let issuer = Some(plain(&settings.issuer_name)).filter(|name| !name.is_empty());
        let totp = self.builder(settings).with_issuer(issuer).with_account_name(plain(account));
        let totp = totp.build().map_err(|_| TotpError::Settings)?;
        let png = totp.to_qr_png().map_err(|_| TotpError::TooLong)?;
        let otpauth_url = totp.to_url().map_err(|_| TotpError::Settings)?;
        Ok(Provisioning {
            secret: Zeroizing::new(totp.secret().to_base32()),
            otpauth_url: Zeroizing::new(otpauth_url),
            qr_code: Zeroizing::new(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))),
        })
    }

    /// The time step that a code is of, if it is of one in the window around `unix_s`, seconds since the Unix epoch.
    pub fn step_of(&self, settings: &TotpSettings, code: &str, unix_s: u64) -> Result<Option<u64>, TotpError> {
        Ok(self.totp(settings)?.check(code, unix_s))
    }

    /// The code of a moment, seconds since the Unix epoch.
    pub fn code_at(&self, settings: &TotpSettings, unix_s: u64) -> Result<String, TotpError> {
        Ok(self.totp(settings)?.generate(unix_s).to_string())
    }

    fn totp(&self, settings: &TotpSettings) -> Result<Totp, TotpError> {
        self.builder(settings).build().map_err(|_| TotpError::Settings)
    }

    fn builder(&self, settings: &TotpSettings) -> Builder {
        Builder::new()
            // What every authenticator knows; others are ignored by many, which then show wrong codes.
            .with_algorithm(Algorithm::SHA1)
            .with_digits(settings.digits)
            .with_step_duration(settings.period_s)
            .with_skew(settings.skew)
            .with_secret(self.0.to_vec())
    }
}

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> TotpSettings {
        TotpSettings { issuer_name: "Shop".into(), digits: 6, period_s: 30, skew: 1 }
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = TotpSecret::from_bytes(b"12345678901234567890".to_vec()).unwrap();
        let eight = TotpSettings { digits: 8, ..settings() };
        // RFC 6238 appendix B, SHA-1.
        for (time, code) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            assert_eq!(secret.code_at(&eight, time).unwrap(), code);
            assert_eq!(secret.step_of(&eight, code, time), Ok(Some(time / 30)));
        }
    }

    #[test]
    fn a_code_is_of_its_step_within_the_window_and_of_none_outside() {
        let secret = TotpSecret::generate().unwrap();
        let now = 1_700_000_000;
        let step = now / 30;
        let code = secret.code_at(&settings(), now).unwrap();
        for (later, expected) in [(0, Some(step)), (30, Some(step)), (-30, Some(step)), (90, None), (-90, None)] {
            let found = secret.step_of(&settings(), &code, now.checked_add_signed(later).unwrap()).unwrap();
            // One in a million times another step has the same code.
            assert!(found == expected || found.is_some_and(|found| found != step), "{later} {found:?}");
        }
        for nonsense in ["", "1", "12345", "1234567", "abcdef", "１２３４５６", "12345\u{0}", &"1".repeat(1 << 20)] {
            assert_eq!(secret.step_of(&settings(), nonsense, now), Ok(None), "{nonsense:.20}");
        }
        let other = TotpSecret::generate().unwrap();
        assert_ne!(other.as_bytes(), secret.as_bytes());
    }

    #[test]
    fn setting_up_shows_one_secret_three_ways_and_names_stay_names() {
        let secret = TotpSecret::from_bytes(b"12345678901234567890".to_vec()).unwrap();
        let shown = secret.provisioning(&settings(), "ann@shop.example?issuer=Evil&secret=AAAA:x").unwrap();
        assert_eq!(*shown.secret, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        let (label, query) = shown.otpauth_url.strip_prefix("otpauth://totp/").unwrap().split_once('?').unwrap();
        assert!(label.starts_with("Shop:ann%40shop") && !label.contains(['?', '&', '=']), "{label}");
        assert_eq!(query.matches("secret=").count(), 1, "{query}");
        assert!(query.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ") && query.contains("issuer=Shop"), "{query}");
        let png = BASE64_STANDARD.decode(shown.qr_code.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        assert!(png.starts_with(b"\x89PNG"), "{png:.8?}");
        assert_eq!(TotpSecret::from_base32(&shown.secret).unwrap().as_bytes(), secret.as_bytes());
        assert_eq!(format!("{secret:?}"), "TotpSecret(…)");
    }

    #[test]
    fn what_makes_no_codes_is_told() {
        assert_eq!(TotpSecret::from_base32("GEZDGNBVGY3TQOJQ").unwrap_err(), TotpError::WeakSecret);
        assert_eq!(TotpSecret::from_base32("not base32!").unwrap_err(), TotpError::WeakSecret);
        let secret = TotpSecret::generate().unwrap();
        for bad in [TotpSettings { digits: 5, ..settings() }, TotpSettings { period_s: 0, ..settings() }] {
            assert_eq!(secret.code_at(&bad, 0).unwrap_err(), TotpError::Settings);
        }
        assert!(secret.provisioning(&settings(), &"é".repeat(4000)).is_err());
    }
}
