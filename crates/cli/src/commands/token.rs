//! `token mint` and `token inspect`.

use std::time::Duration;

use countersign_core::{
    claims,
    mint::{ACCESS_TOKEN_TYPE, API_KEY_TYPE, EMERGENCY_TOKEN_TYPE},
    time::UnixMillis,
};
use serde_json::json;

use super::{instant, now, relative, text};
use crate::{
    Session,
    args::{Format, TokenInspect, TokenMint},
    credential::{self, Unverified},
    failure::{Exit, Failure},
    output::{Block, Report, Table, Tone},
    target::{self, Intent},
};

/// `countersign token mint`
pub(crate) async fn mint(session: &Session, args: &TokenMint) -> Result<Exit, Failure> {
    let target = target::find(session, Intent::Change).await?;
    let policy = target.policy(session).await?;
    target.announce(session, &policy);
    let mut body = json!({
        "subject": args.subject,
        "roles": args.roles,
        "scopes": args.scopes,
        "audiences": args.audiences,
    });
    if let Some(ttl) = args.ttl {
        body["ttl_s"] = json!(whole_seconds(ttl.0)?);
    }
    if let Some(id) = &args.session {
        body["session_id"] = json!(id);
    }
    if args.emergency {
        body["emergency"] = json!(true);
        body["reason"] = json!(args.reason);
    }
    if session.common.dry_run {
        let kind = if args.emergency { "an emergency token" } else { "a token" };
        return session.printer.dry_run(&format!("mint {kind} for {}", args.subject));
    }
    let minted = target.mint(&policy, &body).await.map_err(|failure| {
        // The flag by its own name.
        let message = failure.message.replace("ttl_s must be 1 to ", "--ttl, in seconds, must be 1 to ");
        Failure { message, ..failure }
    })?;
    for warning in super::texts(&minted, "warnings") {
        session.printer.warn(&warning);
    }
    let token = text(&minted, "token").to_owned();
    if let (Some(expires), true) = (instant(&minted, "expires_at"), session.printer.format() == Format::Wide) {
        session.printer.remark(&format!(
            "token {}, session {}, expires {}",
            text(&minted, "token_id"),
            text(&minted, "session_id"),
            relative(expires, now())
        ));
    }
    let names = vec![text(&minted, "token_id").to_owned()];
    session.printer.report(&Report { document: minted, human: vec![Block::Text(token)], names })?;
    Ok(Exit::Done)
}

fn whole_seconds(ttl: Duration) -> Result<u64, Failure> {
    if ttl.as_secs() == 0 || ttl.subsec_millis() != 0 {
        return Err(Failure::usage("--ttl: tokens expire on whole seconds, at least one").fix("for example --ttl 5m"));
    }
    Ok(ttl.as_secs())
}

/// `countersign token inspect`
pub(crate) fn inspect(session: &Session, args: &TokenInspect) -> Result<Exit, Failure> {
    let token = credential::read(session, args.token.as_deref())?;
    let Some(parts) = credential::take_apart(&token) else {
        if is_unsigned(&token) {
            return Err(Failure::no(
                "a token without a signature (alg: none): anybody can write one, and no verifier takes it",
            ));
        }
        return Err(Failure::no("not a signed token: expected three base64url parts, JSON within the first two")
            .fix("an opaque key says nothing of itself; ask a verifier with `countersign verify`"));
    };
    session.printer.warn("nothing here is verified; `countersign verify` says whether the token is good");
    let header = json!({"alg": parts.jws.header.alg, "kid": parts.jws.header.kid, "typ": parts.jws.header.typ});
    let document = json!({"verified": false, "header": header, "claims": parts.claims.all});
    let names = vec![parts.claims.token_id.clone().ok().flatten().unwrap_or_default()];
    session.printer.report(&Report { document, human: vec![Block::Table(in_words(&parts, now()))], names })?;
    Ok(Exit::Done)
}

/// A JWS of three parts, the last of them empty (RFC 7515 appendix A.5).
fn is_unsigned(token: &str) -> bool {
    token.starts_with("eyJ") && token.ends_with('.') && token.matches('.').count() == 2
}

/// Header and claims as sentences' ends.
fn in_words(taken: &Unverified<'_>, now: UnixMillis) -> Table {
    let mut table = Table::new(&["", "", ""]);
    let mut line = |what: &str, value: String, gloss: String| {
        table.row(vec![what.into(), value.into(), crate::output::Cell::toned(gloss, Tone::Faint)]);
    };
    let header = &taken.jws.header;
    let (kind, odd) = match (taken.is_api_key, header.typ.as_deref()) {
        (true, Some(API_KEY_TYPE)) => ("an API key", ""),
        (true, _) => ("a JSON Web Token behind the prefix of an API key", "no verifier takes it: its typ is another"),
        (false, Some(API_KEY_TYPE)) => ("an API key without its prefix", "no verifier takes it so"),
        (false, Some(ACCESS_TOKEN_TYPE)) => ("an access token (RFC 9068)", ""),
        (false, Some(EMERGENCY_TOKEN_TYPE)) => ("an emergency token", "each use of it is recorded"),
        (false, _) => ("a JSON Web Token", ""),
    };
    line("kind", kind.into(), odd.into());
    line("alg", header.alg.clone(), "signature algorithm".into());
    line("kid", header.kid.clone().unwrap_or_else(|| "-".into()), "the key that is said to have signed it".into());
    let c = &taken.claims;
    for (name, value, gloss) in [
        ("iss", &c.issuer, "issued by"),
        ("sub", &c.subject, "speaks for"),
        ("sid", &c.session_id, "session"),
        ("jti", &c.token_id, "token id"),
    ] {
        line(name, said(value), gloss.into());
    }
    line("aud", said(&c.audience.clone().map(|a| a.map(|a| a.join(", ")))), "for".into());
    for (name, value, gloss) in
        [("iat", &c.issued_at, "issued"), ("nbf", &c.not_before, "not before"), ("exp", &c.expires, "expires")]
    {
        match value {
            Ok(Some(at)) => line(name, at.to_string(), format!("{gloss} {}", relative(*at, now))),
            Ok(None) if name == "nbf" => {}
            Ok(None) => line(name, "-".into(), String::new()),
            Err(wrong) => line(name, "?".into(), wrong.0.into()),
        }
    }
    let list = |found: Result<Vec<String>, claims::WrongType>| found.map_or_else(|w| w.0.to_owned(), |l| l.join(" "));
    let wrong = claims::WrongType("not a list of strings");
    line("roles", list(claims::strings(&c.all, "roles", wrong).map(Option::unwrap_or_default)), String::new());
    line("scope", list(claims::scopes(&c.all)), String::new());
    let known = ["iss", "sub", "sid", "jti", "aud", "iat", "iat_ms", "nbf", "exp", "roles", "scope", "scp"];
    for (name, value) in c.all.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line(name, shown, String::new());
    }
    table
}

fn said(claim: &claims::Claim<String>) -> String {
    match claim {
        Ok(Some(value)) => value.clone(),
        Ok(None) => "-".into(),
        Err(wrong) => format!("? ({})", wrong.0),
    }
}
