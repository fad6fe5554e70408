//! A second factor as people have it.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use serde_json::json;

use super::{Front, text};

/// How long a code is shown, seconds.
const STEP: u64 = 30;

/// An authenticator (RFC 6238 with SHA-1 and six digits), and the backup codes that came with it.
pub(crate) struct Authenticator {
    secret: Vec<u8>,
    /// The step whose code confirmed it, and so is used up.
    confirmed_at: u64,
    pub(crate) backup_codes: Vec<String>,
}

impl Authenticator {
    /// Sets one up for an account that has none.
    pub(crate) fn enrol(front: &Front, name: &str, password: &str) -> Self {
        let login = front.post("/auth/login", &json!({"username": name, "password": password}));
        let token = text(&login, "access_token");
        let shown = front.with_token("POST", "/auth/2fa/setup/totp", &token, &json!({}));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        // An issuer takes the code before the present one as well, so that later ones are left.
        let mut authenticator =
            Self { secret: base32(&text(&shown, "secret")), confirmed_at: now / STEP - 1, backup_codes: Vec::new() };
        let code = json!({"code": authenticator.code(0)});
        let confirmed = front.with_token("POST", "/auth/2fa/verify/totp", &token, &code);
        let codes = confirmed.json()["backup_codes"].clone();
        let codes = codes.as_array().unwrap_or_else(|| panic!("{} {}", confirmed.status, confirmed.json()));
        authenticator.backup_codes = codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
        authenticator
    }

    /// The code so many steps after the one that confirmed it. The first two are good for half a minute at least.
    pub(crate) fn code(&self, steps: u64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.secret);
        let tag = hmac::sign(&key, &(self.confirmed_at + steps).to_be_bytes());
        // RFC 4226 section 5.3: the last four bits say where the number lies.
        let offset = usize::from(tag.as_ref()[19] & 15);
        let number = u32::from_be_bytes(tag.as_ref()[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
        format!("{:06}", number % 1_000_000)
    }
}

/// RFC 4648, without padding.
fn base32(text: &str) -> Vec<u8> {
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'2'..=b'7' => letter - b'2' + 26,
            other => panic!("{:?} is no letter of base32", char::from(other)),
        };
        held = held << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).unwrap());
        }
    }
    bytes
}
