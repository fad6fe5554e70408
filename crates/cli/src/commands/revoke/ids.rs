//! What is to be revoked, as it was given: ids, and credentials in their place.

use std::io::BufRead as _;

use countersign_core::mint::API_KEY_TYPE;

use crate::{Session, args::RevokeKind, credential, failure::Failure, output::printable};

/// What begins a line of standard input that says nothing.
const COMMENT: char = '#';

/// The ids of a command line, or of standard input.
pub(super) fn read(session: &Session, kind: RevokeKind, given: &[String]) -> Result<Vec<String>, Failure> {
    if kind == RevokeKind::All {
        return if given.is_empty() {
            Ok(vec![String::new()])
        } else {
            Err(Failure::usage("`revoke all` takes no ID: it cuts the whole policy off"))
        };
    }
    let mut ids = Vec::new();
    let mut shown = false;
    for id in given {
        if id == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|e| Failure::usage(format!("can't read IDs from standard input: {e}")))?;
                ids.extend(Some(line.trim().to_owned()).filter(|l| !l.is_empty() && !l.starts_with(COMMENT)));
            }
        } else {
            shown |= credential::looks_like_one(id);
            ids.push(id.clone());
        }
    }
    if ids.is_empty() && !given.is_empty() {
        return Err(Failure::usage("standard input held no ID"));
    }
    if ids.is_empty() || ids.iter().any(String::is_empty) {
        return Err(Failure::usage("no ID given").fix("give IDs as arguments, or `-` and one a line on standard input"));
    }
    if shown {
        credential::remark_argument(session);
    }
    ids.iter().try_for_each(|id| fits(kind, id))?;
    Ok(ids)
}

/// Whether this kind of thing may be named by the credential itself.
pub(super) fn takes_credentials(kind: RevokeKind) -> bool {
    matches!(kind, RevokeKind::Token | RevokeKind::ApiKey)
}

/// Whether an id is a credential by its looks, where one may stand. An opaque key looks like nothing: only the server can tell.
pub(super) fn is_credential(kind: RevokeKind, id: &str) -> bool {
    takes_credentials(kind) && credential::looks_like_one(id)
}

/// A secret where a name belongs would be stored and shown, and end nothing. `revoke token` of an API key would be understood,
/// but hardly be meant.
fn fits(kind: RevokeKind, id: &str) -> Result<(), Failure> {
    if !credential::looks_like_one(id) {
        return Ok(());
    }
    let parts = credential::take_apart(id);
    let is_api_key = parts.as_ref().is_some_and(|p| p.is_api_key || p.jws.header.typ.as_deref() == Some(API_KEY_TYPE));
    let (noun, itself) = if is_api_key { ("an API key", "api-key") } else { ("a token", "token") };
    let claims = parts.map(|p| p.claims);
    let wanted = match (kind, is_api_key) {
        (RevokeKind::Token, false) | (RevokeKind::ApiKey, true) => return Ok(()),
        (RevokeKind::Token, true) => {
            return Err(Failure::usage("that is an API key").fix("countersign revoke api-key …"));
        }
        (RevokeKind::ApiKey, false) => {
            return Err(Failure::usage("that is a token, not an API key").fix("countersign revoke token …"));
        }
        (RevokeKind::Session, _) => ("session", claims.and_then(|c| c.session_id.ok().flatten())),
        (RevokeKind::Subject, _) => ("subject", claims.and_then(|c| c.subject.ok().flatten())),
        (RevokeKind::Key, _) => ("key", None),
        (RevokeKind::Ip, _) => ("ip", None),
        (RevokeKind::All, _) => ("all", None),
    };
    let mut fix = format!("to end it alone: countersign revoke {itself} -");
    if let (kind, Some(named)) = &wanted {
        // What a token says of itself may be anybody's words: a person decides.
        fix.extend(["; the ", kind, " that it names: countersign revoke ", kind, " '", &printable(named), "'"]);
    }
    Err(Failure::usage(format!("that is {noun}, not what `revoke {}` takes; nothing was sent", wanted.0)).fix(fix))
}
