//! How passwords are kept: Argon2id (RFC 9106) in PHC strings. What a migration brings is verified once and then replaced.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use icu_normalizer::ComposingNormalizerBorrowed;

use super::{legacy, memory::Memory};

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

/// The most memory that a hash from elsewhere may demand, KiB: 256 MiB.
const MAX_MEMORY_KIB: u32 = 1 << 18;
/// The most that all its passes together may go over, KiB: 1 GiB.
const MAX_WORK_KIB: u64 = 1 << 20;

/// Hashes a password with a salt of its own.
pub(super) fn hash(password: &str, cost: Argon2idCost, memory: &mut Memory) -> Result<String, UnusableHash> {
    let impossible = UnusableHash::ImpossibleCost;
    let params = Params::new(cost.memory_kib, cost.iterations, cost.parallelism, None).map_err(|_| impossible)?;
    let salt = Salt::generate();
    let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
    let output = computed(algorithm, version, &params, normal(password).as_bytes(), &salt, memory).ok_or(impossible)?;
    let hashed = PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(&params).map_err(|_| impossible)?,
        salt: Some(salt),
        hash: Some(output),
    };
    Ok(hashed.to_string())
}

/// The tag (RFC 9106 section 3.1), as long as the parameters say. `None`: they and the inputs don't go together.
fn computed(
    algorithm: Algorithm,
    version: Version,
    params: &Params,
    password: &[u8],
    salt: &[u8],
    memory: &mut Memory,
) -> Option<Output> {
    let mut buffer = zeroize::Zeroizing::new([0; Output::MAX_LENGTH]);
    let tag = buffer.get_mut(..params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN))?;
    let blocks = memory.of(params.block_count());
    Argon2::new(algorithm, version, params.clone()).hash_password_into_with_memory(password, salt, tag, blocks).ok()?;
    Output::new(tag).ok()
}

/// Holds a password against a hash of any known format.
pub(super) fn verify(password: &str, hash: &str, cost: Argon2idCost, memory: &mut Memory) -> Result<Match, UnusableHash> {
    if !hash.starts_with("$argon2") {
        return Ok(if legacy::verify(password, hash)? { Match::YesButOld } else { Match::No });
    }
    let parsed = usable_argon2(hash)?;
    let mut matches = |password: &str| holds(&parsed, password.as_bytes(), memory);
    let normal = normal(password);
    // Hashes from elsewhere are of the characters as they were typed.
    let yes = matches(&normal) || (normal != password && matches(password));
    Ok(match (yes, is_current(&parsed, cost)) {
        (false, _) => Match::No,
        (true, true) => Match::Yes,
        (true, false) => Match::YesButOld,
    })
}

/// Whether a hash is this password's. Outputs are compared in constant time.
fn holds(hash: &PasswordHash, password: &[u8], memory: &mut Memory) -> bool {
    let algorithm = Algorithm::try_from(hash.algorithm.as_str());
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from);
    let (Ok(algorithm), Ok(version), Ok(params), Some(salt), Some(expected)) =
        (algorithm, version, Params::try_from(hash), &hash.salt, &hash.hash)
    else {
        return false;
    };
    computed(algorithm, version, &params, password, salt, memory).is_some_and(|tag| tag == *expected)
}

/// Whether a password could be held against this, at a cost that is bearable. For what a migration brings.
pub fn check_hash(hash: &str) -> Result<(), UnusableHash> {
    if hash.starts_with("$argon2") { usable_argon2(hash).map(|_| ()) } else { legacy::check(hash) }
}

/// How much memory it takes to hold a password against this, KiB. What can't be read is answered by work at the policy's own cost.
pub(super) fn memory_kib(hash: &str, cost: Argon2idCost) -> u32 {
    let own = hash.starts_with("$argon2").then(|| usable_argon2(hash).ok().and_then(|hash| Params::try_from(&hash).ok()));
    own.flatten().map_or(cost.memory_kib, |params| params.m_cost().max(cost.memory_kib))
}

fn usable_argon2(hash: &str) -> Result<PasswordHash, UnusableHash> {
    const NAME: &str = "argon2";
    let parsed = PasswordHash::new(hash).map_err(|_| UnusableHash::Damaged(NAME))?;
    let params = Params::try_from(&parsed).map_err(|_| UnusableHash::Damaged(NAME))?;
    let known = Algorithm::try_from(parsed.algorithm.as_str()).is_ok() && parsed.salt.is_some() && parsed.hash.is_some();
    if !known {
        return Err(UnusableHash::Damaged(NAME));
    }
    let work = u64::from(params.m_cost()).saturating_mul(u64::from(params.t_cost()));
    if params.m_cost() > MAX_MEMORY_KIB || work > MAX_WORK_KIB {
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
    use argon2::PasswordHasher as _;

    use super::*;

    fn hash(password: &str, cost: Argon2idCost) -> Result<String, UnusableHash> {
        super::hash(password, cost, &mut Memory::default())
    }

    fn verify(password: &str, hash: &str, cost: Argon2idCost) -> Result<Match, UnusableHash> {
        super::verify(password, hash, cost, &mut Memory::default())
    }

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
    fn what_an_earlier_hash_left_in_the_memory_changes_nothing() {
        let memory = &mut Memory::default();
        let larger =
            super::hash("another", Argon2idCost { memory_kib: 256, iterations: 3, parallelism: 2 }, memory).unwrap();
        let hashed = super::hash("correct horse", CHEAP, memory).unwrap();
        assert_eq!(verify("correct horse", &hashed, CHEAP), Ok(Match::Yes), "in memory of its own");
        for _ in 0..2 {
            assert_eq!(super::verify("correct horse", &hashed, CHEAP, memory), Ok(Match::Yes));
            assert_eq!(super::verify("another", &hashed, CHEAP, memory), Ok(Match::No));
            assert_eq!(super::verify("another", &larger, CHEAP, memory), Ok(Match::YesButOld));
        }
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
                "$argon2id$v=19$m=262145,t=1,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
                UnusableHash::TooCostly("argon2"),
            ),
            (
                "$argon2id$v=19$m=262144,t=5,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
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
        let dearest = "$argon2id$v=19$m=262144,t=4,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA";
        assert_eq!(check_hash(dearest), Ok(()));
        let impossible = Argon2idCost { memory_kib: 8, iterations: 1, parallelism: 4 };
        assert_eq!(hash("password", impossible), Err(UnusableHash::ImpossibleCost));
    }
}
