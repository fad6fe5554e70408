//! Hashes that a migration brings: bcrypt, and PBKDF2 as Django, passlib and Werkzeug write it. Only ever verified.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use base64::{
    Engine as _,
    alphabet::Alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::UnusableHash;

/// The most rounds that are still verified: seconds of work on any machine.
const MAX_PBKDF2_ITERATIONS: u32 = 5_000_000;
/// The highest cost of bcrypt that is still verified; each step doubles the work.
const MAX_BCRYPT_COST: u32 = 16;

enum Legacy<'a> {
    Bcrypt(&'a str),
    Pbkdf2 { algorithm: pbkdf2::Algorithm, iterations: NonZeroU32, salt: Vec<u8>, hash: Vec<u8> },
}

/// Whether the password is the hash's.
pub(super) fn verify(password: &str, hash: &str) -> Result<bool, UnusableHash> {
    match Legacy::parse(hash)? {
        // Like every implementation before: what is past 72 bytes doesn't count.
        Legacy::Bcrypt(hash) => bcrypt::verify(password, hash).map_err(|_| UnusableHash::Damaged(BCRYPT)),
        Legacy::Pbkdf2 { algorithm, iterations, salt, hash } => {
            Ok(pbkdf2::verify(algorithm, iterations, &salt, password.as_bytes(), &hash).is_ok())
        }
    }
}

/// Whether a password could be held against this.
pub(super) fn check(hash: &str) -> Result<(), UnusableHash> {
    Legacy::parse(hash).map(|_| ())
}

const BCRYPT: &str = "bcrypt";
const PBKDF2: &str = "PBKDF2";

impl<'a> Legacy<'a> {
    fn parse(text: &'a str) -> Result<Self, UnusableHash> {
        // Django writes the name of its hasher first.
        let bcrypt = text.strip_prefix("bcrypt$").unwrap_or(text);
        if ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| bcrypt.starts_with(prefix)) {
            return usable_bcrypt(bcrypt);
        }
        if let Some(rest) = text.strip_prefix("$pbkdf2-") {
            return passlib(rest);
        }
        if let Some(rest) = text.strip_prefix("pbkdf2_") {
            return django(rest);
        }
        if let Some(rest) = text.strip_prefix("pbkdf2:") {
            return werkzeug(rest);
        }
        Err(UnusableHash::UnknownFormat)
    }
}

fn usable_bcrypt(hash: &str) -> Result<Legacy<'_>, UnusableHash> {
    let parts: bcrypt::HashParts = hash.parse().map_err(|_| UnusableHash::Damaged(BCRYPT))?;
    if parts.get_cost() > MAX_BCRYPT_COST {
        return Err(UnusableHash::TooCostly(BCRYPT));
    }
    Ok(Legacy::Bcrypt(hash))
}

/// `$pbkdf2-sha256$29000$SALT$HASH`, in base64 with `.` for `+` and no padding.
fn passlib(rest: &str) -> Result<Legacy<'static>, UnusableHash> {
    let [digest, iterations, salt, hash] = fields(rest, '$')?;
    pbkdf2_of(digest, iterations, base64(salt, '.')?, base64(hash, '.')?)
}

/// `pbkdf2_sha256$260000$salt$HASH`: the salt as it stands, the hash in padded base64.
fn django(rest: &str) -> Result<Legacy<'static>, UnusableHash> {
    let [digest, iterations, salt, hash] = fields(rest, '$')?;
    pbkdf2_of(digest, iterations, salt.as_bytes().to_vec(), base64(hash, '+')?)
}

/// `pbkdf2:sha256:260000$salt$hash`: the salt as it stands, the hash in hex.
fn werkzeug(rest: &str) -> Result<Legacy<'static>, UnusableHash> {
    let [method, salt, hash] = fields(rest, '$')?;
    let [digest, iterations] = fields(method, ':')?;
    let hash = hex::decode(hash).map_err(|_| UnusableHash::Damaged(PBKDF2))?;
    pbkdf2_of(digest, iterations, salt.as_bytes().to_vec(), hash)
}

fn fields<const N: usize>(text: &str, separator: char) -> Result<[&str; N], UnusableHash> {
    let fields: Vec<&str> = text.split(separator).collect();
    fields.try_into().map_err(|_| UnusableHash::Damaged(PBKDF2))
}

fn base64(text: &str, sixty_third: char) -> Result<Vec<u8>, UnusableHash> {
    let text = text.replace(sixty_third, "+");
    let forgiving = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard: &Alphabet = &base64::alphabet::STANDARD;
    GeneralPurpose::new(standard, forgiving).decode(text).map_err(|_| UnusableHash::Damaged(PBKDF2))
}

fn pbkdf2_of(digest: &str, iterations: &str, salt: Vec<u8>, hash: Vec<u8>) -> Result<Legacy<'static>, UnusableHash> {
    let (algorithm, length) = match digest {
        "sha1" => (pbkdf2::PBKDF2_HMAC_SHA1, 20),
        "sha256" => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
        "sha512" => (pbkdf2::PBKDF2_HMAC_SHA512, 64),
        _ => return Err(UnusableHash::UnknownFormat),
    };
    let iterations: NonZeroU32 = iterations.parse().map_err(|_| UnusableHash::Damaged(PBKDF2))?;
    if iterations.get() > MAX_PBKDF2_ITERATIONS {
        return Err(UnusableHash::TooCostly(PBKDF2));
    }
    // A shorter one would be easier to meet by chance.
    if hash.len() != length {
        return Err(UnusableHash::Damaged(PBKDF2));
    }
    Ok(Legacy::Pbkdf2 { algorithm, iterations, salt, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "correct horse": as passlib, Django and Werkzeug write them, made by Python's hashlib.
    const PBKDF2_HASHES: [&str; 4] = [
        "$pbkdf2-sha256$1000$cGVwcGVyIGFuZCBzYWx0$A2UrkDuQr09jdpIzyXFQHoNAcnfQcc5PeMHX7B3VKnw",
        "$pbkdf2-sha512$1000$cGVwcGVyIGFuZCBzYWx0$Xd6zeG5F3S6/oL2ml9vvsd3yeduWU47bmzBV2Wx8Twp6ZVtKURGYoDV0KlGRXLhaiqupsw.SPFYIjCpE0lLq/g",
        "pbkdf2_sha256$1000$saltsalt$qQDPSZa3Ormyy9oK1Pu0ZLLwP2Svzmx3yu8OvDdq/J0=",
        "pbkdf2:sha256:1000$saltsalt$a900cf4996b73ab9b2cbda0ad4fbb464b2f03f64afce6c77caef0ebc376afc9d",
    ];

    #[test]
    fn hashes_of_other_systems_know_their_password() {
        for hash in PBKDF2_HASHES {
            assert_eq!(verify("correct horse", hash), Ok(true), "{hash}");
            assert_eq!(verify("correct horsf", hash), Ok(false), "{hash}");
        }
        // From crypt_blowfish's own tests.
        let bcrypt = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        for hash in [bcrypt, &format!("bcrypt${bcrypt}"), &bcrypt.replace("$2a$", "$2b$"), &bcrypt.replace("$2a$", "$2y$")]
        {
            assert_eq!(verify("U*U", hash), Ok(true), "{hash}");
            assert_eq!(verify("U*V", hash), Ok(false), "{hash}");
        }
    }

    #[test]
    fn bytes_past_the_72nd_never_counted_in_bcrypt_and_still_do_not() {
        let long = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored";
        // From crypt_blowfish's own tests.
        let hash = "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
        assert_eq!(verify(long, hash), Ok(true));
        assert_eq!(verify(&long[..72], hash), Ok(true));
        assert_eq!(verify(&long[..71], hash), Ok(false));
    }

    #[test]
    fn what_is_damaged_or_too_dear_is_told_apart_without_any_work() {
        let dear = PBKDF2_HASHES[0].replace("$1000$", "$4000000000$");
        let none = PBKDF2_HASHES[0].replace("$1000$", "$0$");
        let short = PBKDF2_HASHES[0].rsplit_once('$').map(|(head, tail)| format!("{head}${}", &tail[..8])).unwrap();
        for (hash, expected) in [
            ("plain text", UnusableHash::UnknownFormat),
            ("5f4dcc3b5aa765d61d8327deb882cf99", UnusableHash::UnknownFormat),
            ("pbkdf2_md5$1000$saltsalt$AAAA", UnusableHash::UnknownFormat),
            ("$2a$05$short", UnusableHash::Damaged("bcrypt")),
            ("$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", UnusableHash::TooCostly("bcrypt")),
            ("pbkdf2_sha256$1000$saltsalt", UnusableHash::Damaged("PBKDF2")),
            ("pbkdf2:sha256:1000$saltsalt$zz", UnusableHash::Damaged("PBKDF2")),
            (&none, UnusableHash::Damaged("PBKDF2")),
            (&short, UnusableHash::Damaged("PBKDF2")),
            (&dear, UnusableHash::TooCostly("PBKDF2")),
        ] {
            assert_eq!(check(hash), Err(expected), "{hash}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "(\\$2b\\$|\\$pbkdf2-sha256\\$|pbkdf2_sha1\\$|pbkdf2:sha512:|)[$:.a-zA-Z0-9é]{0,80}") {
            let _ = check(&text);
        }
    }
}
