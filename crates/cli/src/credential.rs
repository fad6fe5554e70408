//! Tokens as commands take them, and what they say of themselves; passwords for accounts that commands make.

use std::{fmt::Write as _, io::Read as _};

use countersign_core::{
    claims::Claims,
    jose::{Compact, MAX_TOKEN_BYTES, compact},
    mint::API_KEY_PREFIX,
};
use countersign_issuer::Secrets;

use crate::{Session, failure::Failure};

/// What a character of each kind that a policy may demand begins a password with.
const EACH_KIND: &str = "Cs1-";
/// Random bytes of it, and what it then has at least, characters.
const RANDOM_BYTES: usize = 10;
const SHORTEST: usize = EACH_KIND.len() + 2 * RANDOM_BYTES;

/// A random password of at least so many characters.
pub(crate) fn fresh_password(least: usize) -> Result<String, Failure> {
    let mut password = EACH_KIND.to_owned();
    while password.len() < least.max(SHORTEST) {
        let random = Secrets::fresh().map_err(|error| Failure::unable(error.to_string()))?;
        for byte in random.iter().take(RANDOM_BYTES) {
            let _ = write!(password, "{byte:02x}");
        }
    }
    Ok(password)
}

/// The token of a command line: the argument (with a warning: other users see arguments), `-` for standard input, or
/// COUNTERSIGN_TOKEN.
pub(crate) fn read(session: &Session, argument: Option<&str>) -> Result<String, Failure> {
    let text = match argument {
        Some("-") => read_stdin()?,
        Some(token) => {
            remark_argument(session);
            token.to_owned()
        }
        None => std::env::var("COUNTERSIGN_TOKEN").map_err(|_| {
            Failure::usage("no token given").fix("give it as TOKEN, `-` for standard input, or in COUNTERSIGN_TOKEN")
        })?,
    };
    let token = text.trim();
    if token.is_empty() { Err(Failure::usage("the token is empty")) } else { Ok(token.to_owned()) }
}

/// Said where a credential was an argument: other users see arguments.
pub(crate) fn remark_argument(session: &Session) {
    session.printer.remark("note: a token on the command line shows in the process list; `-` reads standard input");
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    // A byte more than any token has, with room for a line's end: too long is the verifier's to say.
    std::io::stdin()
        .take(MAX_TOKEN_BYTES as u64 * 4)
        .read_to_string(&mut text)
        .map_err(|e| Failure::usage(format!("can't read the token from standard input: {e}")))?;
    Ok(text)
}

/// A token taken apart. Nothing in it is verified.
pub(crate) struct Unverified<'a> {
    pub(crate) jws: Compact<'a>,
    pub(crate) claims: Claims,
    pub(crate) is_api_key: bool,
}

/// Takes a token apart; `None` for opaque keys and for what is no token.
pub(crate) fn take_apart(token: &str) -> Option<Unverified<'_>> {
    let (text, is_api_key) = match token.strip_prefix(API_KEY_PREFIX) {
        Some(rest) => (rest, true),
        None => (token, false),
    };
    let jws = compact::parse(text).ok()?;
    let claims = Claims::new(jws.payload.clone());
    Some(Unverified { jws, claims, is_api_key })
}

/// Whether a text is a credential rather than an id.
pub(crate) fn looks_like_one(text: &str) -> bool {
    text.starts_with(API_KEY_PREFIX) || take_apart(text).is_some()
}
