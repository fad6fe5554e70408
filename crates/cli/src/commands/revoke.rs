//! `revoke`: what ends, and on how many verifiers it is in force.

mod keys;

use std::{collections::BTreeSet, io::BufRead as _, time::Duration};

use countersign_core::{mint::API_KEY_TYPE, names::PolicyName};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{now, text, texts};
use crate::{
    Session,
    args::{KeyRevoke, RevokeArgs, RevokeKind},
    client::{Answer, Client},
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
    let before = match args.before {
        Some(_) if !matches!(args.kind, RevokeKind::Subject | RevokeKind::All) => {
            return Err(Failure::usage("--before goes with `subject` and `all`: the others end whenever issued"));
        }
        Some(moment) => Some(moment.resolve(now())),
        None => None,
    };
    if before.is_some_and(|at| at > now()) {
        return Err(Failure::usage("--before is in the future")
            .fix("only what is already issued can be cut off; leave it out for now"));
    }
    let ids = ids(args)?;
    let order = Order {
        kind: args.kind,
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

fn ids(args: &RevokeArgs) -> Result<Vec<String>, Failure> {
    if args.kind == RevokeKind::All {
        return if args.ids.is_empty() {
            Ok(vec![String::new()])
        } else {
            Err(Failure::usage("`revoke all` takes no ID: it cuts the whole policy off"))
        };
    }
    let mut ids = Vec::new();
    for id in &args.ids {
        if id == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|e| Failure::usage(format!("can't read IDs from standard input: {e}")))?;
                ids.extend(Some(line.trim().to_owned()).filter(|l| !l.is_empty()));
            }
        } else {
            ids.push(id.clone());
        }
    }
    if ids.is_empty() && !args.ids.is_empty() {
        return Err(Failure::usage("standard input held no ID"));
    }
    if ids.is_empty() || ids.iter().any(String::is_empty) {
        return Err(Failure::usage("no ID given").fix("give IDs as arguments, or `-` and one a line on standard input"));
    }
    Ok(ids)
}

async fn carry_out(session: &Session, order: &Order, ids: &[String]) -> Result<Exit, Failure> {
    let target = target::find(session, Intent::Change).await?;
    match &target {
        Target::Server(client) => on_server(session, &target, client, order, ids).await,
        Target::Cluster(cluster) => keys::on_cluster(session, &target, cluster, order, ids).await,
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
            say_what_ends(session, &target.keys(policy).await?, ids, otherwise);
        }
    }
    if session.common.dry_run {
        return session.printer.dry_run(&format!("revoke {}", what(order.kind, ids)));
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
    let mut lines = vec![format!("{} of {total} are not revoked, the others are:", failed.len())];
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
    let find = named.is_none();
    let mut orders = Vec::with_capacity(ids.len());
    for id in ids {
        if find && is_credential(kind, id) {
            orders.extend(policies_of(client, id).await?.into_iter().map(|policy| (policy, id)));
            continue;
        }
        let policy = match &named {
            Some(policy) => policy.clone(),
            None => named.insert(target::policy(session, client, target::ADMIN_POLICIES).await?).clone(),
        };
        orders.push((policy, id));
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

fn is_credential(kind: RevokeKind, id: &str) -> bool {
    matches!(kind, RevokeKind::Token | RevokeKind::ApiKey) && credential::looks_like_one(id)
}

async fn post(client: &Client, policy: &PolicyName, order: &Order, id: &str) -> Result<Value, Failure> {
    let mut body = if is_credential(order.kind, id) {
        check_kind(order.kind, id)?;
        json!({"credential": id})
    } else {
        let kind = match order.kind {
            RevokeKind::Token => "token",
            RevokeKind::Session => "session",
            RevokeKind::Subject => "subject",
            RevokeKind::ApiKey => "api_key",
            RevokeKind::Key => "key",
            RevokeKind::Ip => "ip",
            RevokeKind::All => "policy",
        };
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
    let answer: Answer = client.post(&path, &body, wait).await?;
    answer.success()
}

/// `revoke token` of an API key would be understood, but hardly be meant.
fn check_kind(kind: RevokeKind, id: &str) -> Result<(), Failure> {
    let typ = credential::take_apart(id).and_then(|t| t.jws.header.typ);
    let is_api_key = typ.as_deref() == Some(API_KEY_TYPE);
    match (kind, is_api_key) {
        (RevokeKind::Token, true) => Err(Failure::usage("that is an API key").fix("countersign revoke api-key …")),
        (RevokeKind::ApiKey, false) => {
            Err(Failure::usage("that is a token, not an API key").fix("countersign revoke token …"))
        }
        _ => Ok(()),
    }
}

/// `keys` is the policy's rings, as the admin API has them; `otherwise`, what may be meant by a key that is in none.
fn say_what_ends(session: &Session, keys: &Value, kids: &[String], otherwise: &str) {
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
                // Never left out: a mistyped kid revokes nothing that exists.
                session.printer.warn(&format!("key {} is in none of the policy's rings: {otherwise}", printable(kid)));
                continue;
            }
        };
        session.printer.remark(&format!("key {} {what}", printable(kid)));
    }
}

fn what(kind: RevokeKind, ids: &[String]) -> String {
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
        [one] if credential::looks_like_one(one) => format!("the {noun}"),
        [one] => format!("{noun} {}", printable(one)),
        several => format!("{} {noun}{}", several.len(), if noun.ends_with('s') { "es" } else { "s" }),
    }
}

fn report(session: &Session, order: &Order, ids: &[String], answers: &[Value], enforced: &Value) -> Result<Exit, Failure> {
    let pending = answers.iter().filter(|a| a.get("pending") == Some(&Value::Bool(true))).count();
    let number = |name: &str| enforced.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (total, confirmed, lagging) = (number("total"), number("confirmed"), texts(enforced, "lagging"));
    let ended = format!("revoked {}", what(order.kind, ids));
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
