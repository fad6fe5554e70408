//! Gates of a token: each check on its own, as far as the ones before let it be looked at.

use std::net::IpAddr;

use countersign_core::{
    check::{self, Ask, Authenticated, CredentialKind, World},
    ratelimit::RateLimiter,
    revocation::Kind,
    rules,
    time::UnixMillis,
    verdict::{Denial, DenialReason, Refusal},
};

use super::{Gate, command};
use crate::{bearer, call::Call, emergency::Noted, minter::Scopes, problem::Failed};

pub(super) async fn gates(call: &Call, token: &str, ip: Option<IpAddr>) -> Result<Vec<Gate>, Failed> {
    let credential = match bearer::genuine(&call.issuer, &call.policy, token) {
        Ok(credential) => credential,
        Err(refusal) => return Ok(vec![genuine(call, &refusal)]),
    };
    let kind = credential.kind().word();
    let detail = format!("a genuine credential ({kind}) of {}", credential.subject());
    let mut gates = vec![Gate::new("token", true, detail, "")];
    let judged = judged(call, &credential, ip);
    gates.push(time(&credential, judged.as_ref()));
    gates.push(revocations(call, &credential, judged.as_ref()).await?);
    gates.extend(session(call, &credential).await?);
    gates.push(rules(call, judged.as_ref()));
    Ok(gates)
}

fn genuine(call: &Call, refusal: &Refusal) -> Gate {
    let fix = match refusal {
        Refusal::UntrustedIssuer => {
            "ask the policy that it is of (--policy), or add its issuer to spec.trustedIssuers".into()
        }
        Refusal::UnknownKey | Refusal::BadSignature => command(call, "keys list"),
        Refusal::WrongAudience => "add the audience to spec.audiences, or ask for a token for one of them".into(),
        _ => "log in again, and take the whole token".to_owned(),
    };
    Gate::new("token", false, format!("{}: {}", refusal.word(), refusal.detail()), fix)
}

/// The verdict of this moment. A use that is noted is dropped: looking is none.
fn judged(call: &Call, credential: &Authenticated, ip: Option<IpAddr>) -> Result<(), Refusal> {
    let feed = &call.issuer.parts.feed;
    let world = World {
        now: feed.now(call.policy.clock_skew_ms),
        revocations: feed.revocations(),
        feed_age_ms: Some(0),
        behind: false,
        rate_limiter: &RateLimiter::default(),
        witness: &Noted::default(),
    };
    let ask = Ask { client: rules::Client { ip, ..rules::Client::default() }, ..Ask::default() };
    check::judge(&call.policy.compiled, credential, &ask, &world).map(|_| ())
}

fn time(credential: &Authenticated, judged: Result<&(), &Refusal>) -> Gate {
    let ends = credential.expires_at().map_or_else(|| "it has no end".to_owned(), |at| format!("good until {at}"));
    match judged {
        Err(Refusal::Expired) => Gate::new("expiry", false, ends, "refresh it, or log in again"),
        Err(Refusal::NotYetValid) => {
            Gate::new("expiry", false, "not good yet", "compare the clocks of whoever issued it and of this issuer")
        }
        _ => Gate::new("expiry", true, ends, ""),
    }
}

/// What SQL holds against it, and what the feed told.
async fn revocations(call: &Call, credential: &Authenticated, judged: Result<&(), &Refusal>) -> Result<Gate, Failed> {
    let scopes = Scopes { policy: &call.policy.name, issuer: credential.issuer().unwrap_or_default() };
    let access = credential.kind() != CredentialKind::ApiKey;
    let since = credential.issued_at().unwrap_or(UnixMillis(i64::MIN));
    let entries = call.store().entries(&scopes.of_credential(credential)).await?;
    let found = entries.iter().find(|entry| entry.cutoff >= since && (access || entry.id != Scopes::ACCESS_ONLY));
    let fix = "nothing that was revoked comes back: log in again, or make another API key";
    Ok(match (found, judged) {
        (Some(entry), _) => {
            let what = match entry.kind {
                Kind::Token => "the token itself",
                Kind::ApiKey => "the API key itself",
                Kind::Session => "its session",
                Kind::Subject => "everything issued to its subject until then",
                Kind::Key => "the key that signed it",
                Kind::Policy => "everything issued under the policy until then",
                Kind::Ip => "an address",
            };
            let reason = if entry.reason.is_empty() { "no reason given" } else { entry.reason.as_str() };
            Gate::new("revocations", false, format!("{what} was revoked: {reason}"), fix)
        }
        (None, Err(refusal @ Refusal::Revoked(_))) => Gate::new("revocations", false, refusal.detail(), fix),
        (None, _) => Gate::new("revocations", true, "nothing that it rests on was revoked", ""),
    })
}

/// The session that it is of, where it is one that is kept here.
async fn session(call: &Call, credential: &Authenticated) -> Result<Option<Gate>, Failed> {
    let (CredentialKind::Access, Some(id)) = (credential.kind(), credential.session_id()) else { return Ok(None) };
    let Some(session) = call.store().session(&call.policy.name, id).await? else { return Ok(None) };
    let now = call.now().await?;
    Ok(Some(match (session.ended, &session.ended_because) {
        (Some(at), because) => {
            let because = because.as_deref().unwrap_or("no reason given");
            Gate::new("session", false, format!("{id} ended at {at}: {because}"), "log in again")
        }
        (None, _) if !session.is_live(now) => {
            Gate::new("session", false, format!("{id} ran out at {}", session.ends()), "log in again")
        }
        (None, _) => {
            let detail = format!("{id} lives until {} at least, last seen {}", session.ends(), session.last_seen);
            Gate::new("session", true, detail, "")
        }
    }))
}

/// The policy's rules and address lists, for a bare call from the address that is named.
fn rules(call: &Call, judged: Result<&(), &Refusal>) -> Gate {
    let name = "rules";
    let explain = command(call, "verify --explain TOKEN --method M --path P");
    match judged {
        Ok(()) => Gate::new(name, true, "the policy's rules and address lists let a bare call through", ""),
        Err(Refusal::Denied(Denial { missing, rule, .. })) if !missing.is_empty() => {
            let rule = rule.as_deref().unwrap_or("the address lists");
            Gate::new(name, true, format!("{rule} looks at {}, which isn't known here: {explain}", missing.join(", ")), "")
        }
        Err(Refusal::Denied(Denial { reason: DenialReason::Rule, rule, .. })) => {
            let rule = rule.as_deref().unwrap_or_default();
            Gate::new(name, false, format!("the rule {rule} denies it"), explain)
        }
        Err(refusal @ Refusal::Denied(Denial { reason: DenialReason::Ip, .. })) => {
            Gate::new(name, false, refusal.detail(), "look at spec.access and `countersign blocks list`")
        }
        Err(refusal @ Refusal::Denied(_)) => Gate::new(name, false, refusal.detail(), explain),
        Err(_) => Gate::new(name, true, "not looked at: the token is refused before", ""),
    }
}
