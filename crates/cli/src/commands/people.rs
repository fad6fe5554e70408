//! `users`, `sessions`, `api-keys`, `blocks`, `audit` and `diagnose`: what an issuer's admin API tells and does of people.

mod asking;
mod audit;
mod diagnose;
mod grants;

use countersign_core::time::UnixMillis;
use serde_json::{Map, Value, json};

pub(super) use self::asking::{Asking, segment};
pub(crate) use self::{
    audit::audit,
    diagnose::diagnose,
    grants::{api_keys, blocks, sessions},
};
use super::{instant, now, relative, text, texts};
use crate::{
    Session,
    args::{Status, UserCreate, Users, UsersList},
    consent,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    target::Intent,
};

/// `countersign users …`
pub(crate) async fn users(session: &Session, command: Users) -> Result<Exit, Failure> {
    match command {
        Users::List(args) => list(session, &args).await,
        Users::Get(of) => get(session, &of.user).await,
        Users::Create(args) => create(session, &args).await,
        Users::Lock(args) => {
            let until =
                args.lasts.map(|lasts| now().plus(i64::try_from(lasts.0.as_millis()).unwrap_or(i64::MAX)).as_secs());
            let body = json!({"reason": args.reason, "until": until});
            change(session, &args.user, "lock", "lock", &body, "locked; its sessions and tokens have ended").await
        }
        Users::Unlock(args) => {
            let body = json!({"also_address": args.also_address});
            change(session, &args.user, "unlock", "unlock", &body, "may log in again").await
        }
        Users::Disable(args) => set_status(session, &args.user, "disabled", args.reason).await,
        Users::Enable(args) => set_status(session, &args.user, "active", args.reason).await,
        Users::ResetMfa(of) => {
            let done = "has no second factor any more";
            change(session, &of.user, "reset-mfa", "remove the second factor of", &json!({}), done).await
        }
        Users::Delete(of) => delete(session, &of.user).await,
    }
}

async fn list(session: &Session, args: &UsersList) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Look).await?;
    let status = args.status.map(|status| match status {
        Status::Active => "active",
        Status::Pending => "pending",
        Status::Disabled => "disabled",
        Status::Locked => "locked",
    });
    let mut users: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let left = args.limit.saturating_sub(u32::try_from(users.len()).unwrap_or(u32::MAX)).min(1000);
        if left == 0 {
            break;
        }
        let page = asking
            .get(
                "users",
                &[
                    ("email", args.email.clone()),
                    ("username", args.username.clone()),
                    ("status", status.map(str::to_owned)),
                    ("limit", Some(left.to_string())),
                    ("cursor", cursor.take()),
                ],
            )
            .await?;
        users.extend(page["users"].as_array().into_iter().flatten().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let mut table = Table::new(&["ID", "USERNAME", "EMAIL", "STATUS", "ROLES", "2FA", "LAST-LOGIN"])
        .wide(&["CREATED", "VERIFIED", "REASON"]);
    for user in &users {
        table.row(row(user));
    }
    let names = users.iter().map(|user| text(user, "id").to_owned()).collect();
    let human = if users.is_empty() { vec![Block::Text("no account".into())] } else { vec![Block::Table(table)] };
    session.printer.report(&Report { document: json!({"users": users}), human, names })?;
    Ok(Exit::Done)
}

fn row(user: &Value) -> Vec<Cell> {
    let now = now();
    let status = text(user, "status");
    let locked = instant(user, "locked_until").filter(|until| *until > now);
    let (word, tone) = match (status, locked) {
        (_, Some(until)) => (format!("{status}, locked out until {}", relative(until, now)), Tone::Bad),
        ("active", None) => (status.to_owned(), Tone::Good),
        ("pending", None) => (status.to_owned(), Tone::Warn),
        _ => (status.to_owned(), Tone::Bad),
    };
    let yes = |name: &str| if user[name] == Value::Bool(true) { "yes" } else { "no" };
    let seen = instant(user, "last_login_at").map_or_else(|| "never".to_owned(), |at| relative(at, now));
    vec![
        text(user, "id").into(),
        printable(text(user, "username")).into(),
        printable(text(user, "email")).into(),
        Cell::toned(word, tone),
        texts(user, "roles").join(",").into(),
        yes("mfa_enabled").into(),
        seen.into(),
        instant(user, "created_at").map_or_else(String::new, |at: UnixMillis| at.to_string()).into(),
        yes("email_verified").into(),
        printable(text(user, "status_reason")).into(),
    ]
}

async fn get(session: &Session, user: &str) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Look).await?;
    let found = asking.get(&format!("users/{}", segment(user)), &[]).await?;
    let lines = found.as_object().into_iter().flatten().map(|(name, value)| {
        let shown = match value {
            Value::String(text) => printable(text),
            Value::Null => "-".to_owned(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).map(printable).collect::<Vec<_>>().join(", "),
            Value::Number(_) if name.ends_with("_at") || name.ends_with("_until") => {
                instant(&found, name).map_or_else(String::new, |at| format!("{at} ({})", relative(at, now())))
            }
            other => other.to_string(),
        };
        format!("{name:<16} {shown}")
    });
    let human = vec![Block::Text(lines.collect::<Vec<_>>().join("\n"))];
    let names = vec![text(&found, "id").to_owned()];
    session.printer.report(&Report { document: found, human, names })?;
    Ok(Exit::Done)
}

async fn create(session: &Session, args: &UserCreate) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Change).await?;
    let mut body = Map::new();
    body.insert("email".into(), json!(args.email));
    for (name, value) in [("username", &args.username), ("first_name", &args.first_name), ("last_name", &args.last_name)] {
        if let Some(value) = value {
            body.insert(name.into(), json!(value));
        }
    }
    if !args.roles.is_empty() {
        body.insert("roles".into(), json!(args.roles));
    }
    if args.verified {
        body.insert("email_verified".into(), json!(true));
    }
    if args.password_stdin {
        let mut password = String::new();
        std::io::stdin().read_line(&mut password).map_err(|e| Failure::usage(format!("can't read standard input: {e}")))?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(Failure::usage("standard input held no password"));
        }
        body.insert("password".into(), json!(password));
    }
    if session.common.dry_run {
        return session.printer.dry_run(&format!("make the account {}", printable(&args.email)));
    }
    let made = asking.post("users", &Value::Object(body)).await?;
    let id = text(&made, "id").to_owned();
    let how = if args.password_stdin { "" } else { "; its owner gets a mail with a link to set a password" };
    let human = vec![Block::Text(format!("account {id} ({}) is made{how}", printable(&args.email)))];
    session.printer.report(&Report { document: made, human, names: vec![id] })?;
    Ok(Exit::Done)
}

async fn change(session: &Session, user: &str, call: &str, verb: &str, body: &Value, done: &str) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Change).await?;
    let shown = printable(user);
    if session.common.dry_run {
        return session.printer.dry_run(&format!("{verb} {shown}"));
    }
    let answer = asking.post(&format!("users/{}/{call}", segment(user)), body).await?;
    let mut human = vec![Block::Text(format!("{shown} {done}"))];
    if let Some(held) = answer["held_by"].as_array() {
        let held: Vec<String> = held.iter().filter_map(Value::as_str).map(printable).collect();
        let text =
            if held.is_empty() { "nothing held it".to_owned() } else { format!("it was held by {}", held.join(", ")) };
        human.push(Block::Text(text));
    }
    told(session, answer, human)
}

async fn set_status(session: &Session, user: &str, status: &str, reason: Option<String>) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Change).await?;
    let shown = printable(user);
    if session.common.dry_run {
        return session.printer.dry_run(&format!("make {shown} {status}"));
    }
    let body = json!({"status": status, "reason": reason});
    let answer = asking.patch(&format!("users/{}", segment(user)), &body).await?;
    let more = if status == "disabled" { "; its sessions, API keys and tokens have ended" } else { "" };
    told(session, answer, vec![Block::Text(format!("{shown} is {status}{more}"))])
}

async fn delete(session: &Session, user: &str) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Change).await?;
    let shown = printable(user);
    if session.common.dry_run {
        return session.printer.dry_run(&format!("erase the account {shown}"));
    }
    consent::confirm(session, &format!("Erase the account {shown}, with all that it holds?"))?;
    let answer = asking.delete(&format!("users/{}", segment(user)), &[]).await?;
    told(session, answer, vec![Block::Text(format!("{shown} is erased"))])
}

fn told(session: &Session, answer: Value, mut human: Vec<Block>) -> Result<Exit, Failure> {
    let id = ["id", "deleted", "network"].into_iter().map(|name| text(&answer, name)).find(|id| !id.is_empty());
    let names = id.map(str::to_owned).into_iter().collect();
    let exit = in_force([&answer], &mut human);
    session.printer.report(&Report { document: answer, human, names })?;
    Ok(exit)
}

/// Whether verifiers have heard of what these answers ended, which is said where they have not.
fn in_force<'a>(answers: impl IntoIterator<Item = &'a Value>, human: &mut Vec<Block>) -> Exit {
    if answers.into_iter().any(|answer| answer["pending"] == Value::Bool(true)) {
        human.push(Block::Text("the feed is out of reach: verifiers hear of it later".to_owned()));
        Exit::Unable
    } else {
        Exit::Done
    }
}
