//! `revoke`: what ends, and on how many verifiers it is in force.

mod history;
mod ids;
mod keys;

use std::{collections::BTreeSet, time::Duration};

use countersign_core::names::PolicyName;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{now, text, texts};
use crate::{
    Session,
    args::{KeyRevoke, RevokeArgs, RevokeKind, RevokeLook},
    client::Client,
    consent, credential,
    failure::{Exit, Failure},
    output::{Block, Report, printable},
    target::{self, Intent, Target},
};

/// How many calls are under way at once when many ids are revoked.
const AT_ONCE: usize = 16;

/// How many of those that failed are named.
const MAX_NAMED: usize = 20;

/// What is posted for each id, beside it.
struct Order {
    kind: RevokeKind,
    before_s: Option<f64>,
    reason: Option<String>,
    issuer: Option<String>,
    wait: Option<Duration>,
}

/// `countersign revoke`
pub(crate) async fn revoke(session: &Session, args: &RevokeArgs) -> Result<Exit, Failure> {
    let kind = match (&args.look, args.kind) {
        (Some(RevokeLook::List(asked)), _) => return history::list(session, asked).await,
        (None, Some(kind)) => kind,
        (None, None) => return Err(Failure::usage("say what is to be revoked")),
    };
    let before = match args.before {
        Some(_) if !matches!(kind, RevokeKind::Subject | RevokeKind::All) => {
            return Err(Failure::usage("--before goes with `subject` and `all`: the others end whenever issued"));
        }
        Some(moment) => Some(moment.resolve(now())),
        None => None,
    };
    if before.is_some_and(|at| at > now()) {
        return Err(Failure::usage("--before is in the future")
            .fix("only what is already issued can be cut off; leave it out for now"));
    }
    let ids = ids::read(session, kind, &args.ids)?;
    let order = Order {
        kind,
        before_s: before.map(|at| {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of this era are far below 2^53")]
            let seconds = at.0 as f64 / 1000.0;
            seconds
        }),
        reason: args.reason.clone(),
        issuer: args.issuer.clone(),
        wait: (!args.no_wait).then_some(args.wait.0),
    };
    carry_out(session, &order, &ids).await
}

/// `countersign keys revoke`
pub(super) async fn revoke_key(session: &Session, args: &KeyRevoke) -> Result<Exit, Failure> {
    let order = Order {
        kind: RevokeKind::Key,
        before_s: None,
        reason: args.reason.clone(),
        issuer: None,
        wait: (!args.no_wait).then_some(args.wait.0),
    };
    carry_out(session, &order, std::slice::from_ref(&args.kid)).await
}

async fn carry_out(session: &Session, order: &Order, ids: &[String]) -> Result<Exit, Failure> {
    let target = target::find(session, Intent::Change).await?;
    match &target {
        Target::Server(client) => on_server(session, &target, client, order, ids).await,
        Target::Cluster(cluster) if order.kind == RevokeKind::Key => {
            keys::on_cluster(session, &target, cluster, order, ids).await
        }
        Target::Cluster(cluster) => {
            let issuer = Client::of_issuer(cluster, session.common.timeout.0)?;
            on_server(session, &target, &issuer, order, ids).await
        }
    }
}

async fn on_server(
    session: &Session,
    target: &Target,
    client: &Client,
    order: &Order,
    ids: &[String],
) -> Result<Exit, Failure> {
    let orders = addressed(session, client, order.kind, ids).await?;
    for policy in orders.iter().map(|(policy, _)| policy).collect::<BTreeSet<_>>() {
        target.announce(session, policy);
        if order.kind == RevokeKind::Key && order.issuer.is_none() {
            let otherwise = "tokens of a trusted issuer signed by it need --issuer";
            known_or_meant(session, &target.keys(policy).await?, ids, otherwise)?;
        }
    }
    if session.common.dry_run {
        let secret = match ids {
            [one] if ids::takes_credentials(order.kind) => policies_of(client, one).await.is_ok(),
            _ => false,
        };
        return session.printer.dry_run(&format!("revoke {}", what(order.kind, ids, secret)));
    }
    if order.kind == RevokeKind::All {
        consent::confirm(
            session,
            &format!(
                "End every token of {}{}?",
                orders.first().map_or("", |(policy, _)| policy.as_str()),
                if order.before_s.is_some() { " issued before that time" } else { "" }
            ),
        )?;
    }
    // All but the last don't wait: once the last is in force, so is what was published before it.
    let (last, earlier) = orders.split_last().ok_or_else(|| Failure::usage("no ID given"))?;
    let no_wait = Order { wait: None, reason: order.reason.clone(), issuer: order.issuer.clone(), ..*order };
    let calls = earlier.iter().map(|(policy, id)| post(client, policy, &no_wait, id));
    let mut results: Vec<Result<Value, Failure>> = stream::iter(calls).buffered(AT_ONCE).collect().await;
    results.push(post(client, &last.0, order, last.1).await);
    let answers = all_or_which(results, &orders)?;
    let verdict = answers.last().cloned().unwrap_or_default();
    let enforced = if order.wait.is_some() && orders.len() > 1 {
        settle(client, &answers, &orders, order).await?
    } else {
        verdict.get("verifiers").cloned().unwrap_or_default()
    };
    report(session, order, ids, &answers, &enforced)
}

/// The answers; when some calls failed, which.
fn all_or_which(results: Vec<Result<Value, Failure>>, orders: &[(PolicyName, &String)]) -> Result<Vec<Value>, Failure> {
    let total = results.len();
    let mut answers = Vec::with_capacity(total);
    let mut failed: Vec<(&String, Failure)> = Vec::new();
    for (result, (_, id)) in results.into_iter().zip(orders) {
        match result {
            Ok(answer) => answers.push(answer),
            Err(failure) => failed.push((id, failure)),
        }
    }
    let Some((_, first)) = failed.first() else { return Ok(answers) };
    if total == 1 {
        return Err(first.clone());
    }
    let name = |id: &str| if credential::looks_like_one(id) { "a credential".into() } else { shortened(&printable(id)) };
    let head = if failed.len() == total {
        format!("none of the {total} is revoked:")
    } else {
        format!("{} of {total} are not revoked, the others are:", failed.len())
    };
    let mut lines = vec![head];
    lines.extend(failed.iter().take(MAX_NAMED).map(|(id, failure)| format!("  {}: {}", name(id), failure.message)));
    if failed.len() > MAX_NAMED {
        lines.push(format!("  and {} more", failed.len() - MAX_NAMED));
    }
    // What could not be done is worse than what was not understood.
    let unable = failed.iter().any(|(_, failure)| failure.exit == Exit::Unable);
    Err(Failure { exit: if unable { Exit::Unable } else { first.exit }, message: lines.join("\n"), fix: first.fix.clone() })
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 64 { text.to_owned() } else { text.chars().take(61).chain("...".chars()).collect() }
}

/// Waits for the latest of all positions: a row that was there before keeps its old one, so the last call's may be early.
async fn settle(
    client: &Client,
    answers: &[Value],
    orders: &[(PolicyName, &String)],
    order: &Order,
) -> Result<Value, Failure> {
    let position = |a: &&Value| text(a, "position").parse::<countersign_core::revocation::Position>().ok();
    let latest = answers.iter().zip(orders).filter_map(|(a, (p, _))| Some((position(&a)?, p))).max_by_key(|(at, _)| *at);
    let (Some((position, policy)), Some(wait)) = (latest, order.wait) else { return Ok(Value::Null) };
    let path = format!("/admin/v1/policies/{policy}/verifiers?position={position}&wait_ms={}", wait.as_millis());
    let answer = client.get_longer(&path, wait).await?.success()?;
    Ok(answer.get("verifiers").cloned().unwrap_or_default())
}

/// Each id with the policy to revoke it in. A credential that several policies accept has to end in each of them.
async fn addressed<'a>(
    session: &Session,
    client: &Client,
    kind: RevokeKind,
    ids: &'a [String],
) -> Result<Vec<(PolicyName, &'a String)>, Failure> {
    let mut named = target::named_policy(&session.common)?;
    let find = named.is_none() && ids::takes_credentials(kind);
    let mut unnamed = None;
    let mut orders = Vec::with_capacity(ids.len());
    for id in ids {
        if find && ids::is_credential(kind, id) {
            orders.extend(policies_of(client, id).await?.into_iter().map(|policy| (policy, id)));
            continue;
        }
        if named.is_none() && unnamed.is_none() {
            match target::policy(session, client, target::ADMIN_POLICIES).await {
                Ok(policy) => named = Some(policy),
                Err(failure) => unnamed = Some(failure),
            }
        }
        match (&named, &unnamed) {
            (Some(policy), _) => orders.push((policy.clone(), id)),
            // An opaque key finds its policies by its hash.
            (None, Some(failure)) => match policies_of(client, id).await {
                Ok(policies) if find => orders.extend(policies.into_iter().map(|policy| (policy, id))),
                _ => return Err(failure.clone()),
            },
            (None, None) => return Err(Failure::usage("which policy?")),
        }
    }
    Ok(orders)
}

async fn policies_of(client: &Client, credential: &str) -> Result<Vec<PolicyName>, Failure> {
    let answer = client.post("/admin/v1/policy-of", &json!({"credential": credential}), Duration::ZERO).await?;
    let named = texts(&answer.success()?, "policies").iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>();
    match named {
        Ok(policies) if !policies.is_empty() => Ok(policies),
        _ => Err(Failure::unable("the server named no policy for this credential")),
    }
}

/// The word for it of the admin API.
const fn word(kind: RevokeKind) -> &'static str {
    match kind {
        RevokeKind::Token => "token",
        RevokeKind::Session => "session",
        RevokeKind::Subject => "subject",
        RevokeKind::ApiKey => "api_key",
        RevokeKind::Key => "key",
        RevokeKind::Ip => "ip",
        RevokeKind::All => "policy",
    }
}

async fn post(client: &Client, policy: &PolicyName, order: &Order, id: &str) -> Result<Value, Failure> {
    let mut body = if ids::is_credential(order.kind, id) {
        json!({"credential": id})
    } else {
        let kind = word(order.kind);
        if order.kind == RevokeKind::All { json!({"kind": kind}) } else { json!({"kind": kind, "id": id}) }
    };
    if let Some(before) = order.before_s {
        body["before"] = json!(before);
    }
    for (name, value) in [("reason", &order.reason), ("issuer", &order.issuer)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    let wait = order.wait.unwrap_or_default();
    let path = format!("/admin/v1/policies/{policy}/revocations?wait_ms={}", wait.as_millis());
    let answer = client.post(&path, &body, wait).await?;
    target::of_policy(client, policy, answer).await
}

/// Says what revoking these keys ends. A mistyped kid revokes nothing that exists: one that is in no ring takes consent.
/// `keys` is the policy's rings, as the admin API has them; `otherwise`, what may be meant by such a one.
fn known_or_meant(session: &Session, keys: &Value, kids: &[String], otherwise: &str) -> Result<(), Failure> {
    let mut unknown = Vec::new();
    for kid in kids {
        let found = ["access", "api_key"].into_iter().find_map(|ring| {
            let keys = keys["rings"][ring].as_array()?;
            keys.iter().find(|k| text(k, "kid") == kid).map(|k| (ring, text(k, "state")))
        });
        let what = match found {
            Some((_, "Revoked")) => "is revoked already".to_owned(),
            Some((ring, state)) => {
                let things = if ring == "access" { "access token" } else { "API key" };
                let then =
                    if state == "Active" { "; a new key takes its place, and until it signs none is minted" } else { "" };
                format!("({state}): every {things} that it signed is refused, for ever{then}")
            }
            None => {
                session.printer.warn(&format!("key {} is in none of the policy's rings: {otherwise}", printable(kid)));
                unknown.push(printable(kid));
                continue;
            }
        };
        session.printer.remark(&format!("key {} {what}", printable(kid)));
    }
    if unknown.is_empty() || session.common.dry_run {
        return Ok(());
    }
    consent::confirm(session, &format!("Revoke {} all the same?", unknown.join(", "))).map_err(|failure| Failure {
        fix: Some("`countersign keys list` shows the keys that there are; --yes revokes what isn't among them".into()),
        ..failure
    })
}

/// What is revoked, in words. `secret`: the one id is a credential, which is never repeated.
fn what(kind: RevokeKind, ids: &[String], secret: bool) -> String {
    let noun = match kind {
        RevokeKind::Token => "token",
        RevokeKind::Session => "session",
        RevokeKind::Subject => "subject",
        RevokeKind::ApiKey => "API key",
        RevokeKind::Key => "key",
        RevokeKind::Ip => "address",
        RevokeKind::All => return "every token of the policy".into(),
    };
    match ids {
        [one] if secret || credential::looks_like_one(one) => format!("the {noun}"),
        [one] => format!("{noun} {}", printable(one)),
        several => format!("{} {noun}{}", several.len(), if noun.ends_with('s') { "es" } else { "s" }),
    }
}

fn report(session: &Session, order: &Order, ids: &[String], answers: &[Value], enforced: &Value) -> Result<Exit, Failure> {
    let pending = answers.iter().filter(|a| a.get("pending") == Some(&Value::Bool(true))).count();
    let number = |name: &str| enforced.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (total, confirmed, lagging) = (number("total"), number("confirmed"), texts(enforced, "lagging"));
    // An opaque key is known by another id than its own text.
    let secret =
        ids::takes_credentials(order.kind) && !answers.iter().any(|answer| ids.iter().any(|id| id == text(answer, "id")));
    let ended = format!("revoked {}", what(order.kind, ids, secret));
    let (exit, state) = if pending > 0 {
        (Exit::Unable, "written down, but the feed is out of reach: pending until it is back".to_owned())
    } else if order.wait.is_none() {
        (Exit::Done, "in the feed; not waited for verifiers".to_owned())
    } else if confirmed < total {
        (
            Exit::Unable,
            format!("enforced on {confirmed} of {total} verifiers; not yet on {}", printable(&lagging.join(", "))),
        )
    } else {
        (Exit::Done, format!("enforced on {confirmed} of {total} verifiers"))
    };
    let mut document = match answers {
        [one] => one.clone(),
        several => json!({"revoked": several}),
    };
    document["verifiers"] = if enforced.is_null() { Value::Null } else { enforced.clone() };
    let names = answers.iter().map(|a| text(a, "position").to_owned()).collect();
    session.printer.report(&Report { document, human: vec![Block::Text(format!("{ended}; {state}"))], names })?;
    Ok(exit)
}
