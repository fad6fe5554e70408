//! How passwords are kept: Argon2id (RFC 9106) in PHC strings. What a migration brings is verified once and then replaced.

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version, password_hash::phc::PasswordHash,
};
use icu_normalizer::ComposingNormalizerBorrowed;

use super::legacy;

/// What Argon2id costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Argon2idCost {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Lanes. They are computed one after another.
    pub parallelism: u32,
}

/// How a password relates to a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is another one.
    No,
    /// It is the one, kept as passwords are kept now.
    Yes,
    /// It is the one, kept in another way or at another cost: hash it anew.
    YesButOld,
}

/// A text is no hash that a password could be held against. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableHash {
    /// Not one of the formats.
    #[error(
        "the hash is of no known format; known are argon2, bcrypt, and PBKDF2 as Django, passlib and Werkzeug write it"
    )]
    UnknownFormat,
    /// One of the formats, but broken.
    #[error("the {0} hash is damaged")]
    Damaged(&'static str),
    /// One whose verification would cost more than is ever reasonable.
    #[error("the {0} hash demands more work than is allowed")]
    TooCostly(&'static str),
    /// A cost that Argon2id doesn't allow.
    #[error("these costs of Argon2id are impossible: memory must be at least 8 KiB for each lane")]
    ImpossibleCost,
}

/// The most memory that a hash from elsewhere may demand, KiB.
const MAX_MEMORY_KIB: u32 = 1 << 20;
/// The most passes that a hash from elsewhere may demand.
const MAX_ITERATIONS: u32 = 64;

/// Hashes a password with a salt of its own.
pub(super) fn hash(password: &str, cost: Argon2idCost) -> Result<String, UnusableHash> {
    let params =
        Params::new(cost.memory_kib, cost.iterations, cost.parallelism, None).map_err(|_| UnusableHash::ImpossibleCost)?;
    let hashed = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(normal(password).as_bytes())
        .map_err(|_| UnusableHash::ImpossibleCost)?;
    Ok(hashed.to_string())
}

/// Holds a password against a hash of any known format.
pub(super) fn verify(password: &str, hash: &str, cost: Argon2idCost) -> Result<Match, UnusableHash> {
    if !hash.starts_with("$argon2") {
        return Ok(if legacy::verify(password, hash)? { Match::YesButOld } else { Match::No });
    }
    let parsed = usable_argon2(hash)?;
    let matches = |password: &str| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
    let normal = normal(password);
    // Hashes from elsewhere are of the characters as they were typed.
    let yes = matches(&normal) || (normal != password && matches(password));
    Ok(match (yes, is_current(&parsed, cost)) {
        (false, _) => Match::No,
        (true, true) => Match::Yes,
        (true, false) => Match::YesButOld,
    })
}

/// Whether a password could be held against this, at a cost that is bearable. For what a migration brings.
pub fn check_hash(hash: &str) -> Result<(), UnusableHash> {
    if hash.starts_with("$argon2") { usable_argon2(hash).map(|_| ()) } else { legacy::check(hash) }
}

fn usable_argon2(hash: &str) -> Result<PasswordHash, UnusableHash> {
    const NAME: &str = "argon2";
    let parsed = PasswordHash::new(hash).map_err(|_| UnusableHash::Damaged(NAME))?;
    let params = Params::try_from(&parsed).map_err(|_| UnusableHash::Damaged(NAME))?;
    let known = Algorithm::try_from(parsed.algorithm.as_str()).is_ok() && parsed.salt.is_some() && parsed.hash.is_some();
    if !known {
        return Err(UnusableHash::Damaged(NAME));
    }
    if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_ITERATIONS {
        return Err(UnusableHash::TooCostly(NAME));
    }
    Ok(parsed)
}

fn is_current(hash: &PasswordHash, cost: Argon2idCost) -> bool {
    let same_cost = Params::try_from(hash).is_ok_and(|params| {
        (params.m_cost(), params.t_cost(), params.p_cost()) == (cost.memory_kib, cost.iterations, cost.parallelism)
    });
    same_cost && hash.algorithm.as_str() == Algorithm::Argon2id.as_str() && hash.version == Some(Version::V0x13.into())
}

/// The same characters however a keyboard composes them (NIST SP 800-63B section 3.1.1.2: NFKC).
fn normal(password: &str) -> std::borrow::Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfkc().normalize(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Argon2idCost = Argon2idCost { memory_kib: 64, iterations: 1, parallelism: 1 };

    #[test]
    fn a_hash_is_its_passwords_alone_and_no_two_are_alike() {
        let hashed = hash("correct horse", CHEAP).unwrap();
        assert!(hashed.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hashed}");
        assert_eq!(verify("correct horse", &hashed, CHEAP), Ok(Match::Yes));
        for other in ["", "correct hors", "correct horse ", "Correct horse", "correct horse\0"] {
            assert_eq!(verify(other, &hashed, CHEAP), Ok(Match::No), "{other:?}");
        }
        assert_ne!(hash("correct horse", CHEAP).unwrap(), hashed);
    }

    #[test]
    fn another_cost_or_kind_is_right_and_to_be_replaced() {
        let hashed = hash("correct horse", CHEAP).unwrap();
        let dearer = Argon2idCost { iterations: 2, ..CHEAP };
        assert_eq!(verify("correct horse", &hashed, dearer), Ok(Match::YesButOld));
        assert_eq!(verify("another", &hashed, dearer), Ok(Match::No));
        // RFC 9106's i variant with a salt of "somesalt", by the reference implementation.
        let argon2i = "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA";
        assert_eq!(verify("password", argon2i, CHEAP), Ok(Match::YesButOld));
        assert_eq!(verify("passwore", argon2i, CHEAP), Ok(Match::No));
    }

    #[test]
    fn composed_and_decomposed_letters_are_one() {
        let hashed = hash("caf\u{e9}-caf\u{e9}", CHEAP).unwrap();
        assert_eq!(verify("cafe\u{301}-cafe\u{301}", &hashed, CHEAP), Ok(Match::Yes));
        // One that came from elsewhere was hashed as typed.
        let params = Params::new(64, 1, 1, None).unwrap();
        let typed = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password("cafe\u{301}".as_bytes())
            .unwrap()
            .to_string();
        assert_eq!(verify("cafe\u{301}", &typed, CHEAP), Ok(Match::Yes));
    }

    #[test]
    fn what_is_no_hash_or_too_dear_is_refused_before_any_work() {
        let cases = [
            ("", UnusableHash::UnknownFormat),
            ("correct horse", UnusableHash::UnknownFormat),
            ("$argon2id$", UnusableHash::Damaged("argon2")),
            ("$argon2x$v=19$m=64,t=1,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweA", UnusableHash::Damaged("argon2")),
            ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ", UnusableHash::Damaged("argon2")),
            (
                "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
                UnusableHash::TooCostly("argon2"),
            ),
            (
                "$argon2id$v=19$m=64,t=4000000000,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
                UnusableHash::TooCostly("argon2"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(check_hash(text), Err(expected), "{text}");
            assert_eq!(verify("password", text, CHEAP), Err(expected), "{text}");
        }
        let impossible = Argon2idCost { memory_kib: 8, iterations: 1, parallelism: 4 };
        assert_eq!(hash("password", impossible), Err(UnusableHash::ImpossibleCost));
    }
}
