//! The steps of the way, as a client takes them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Told, Way, authenticator::Authenticator, mailed, parties::Parties};
use crate::{
    client::{Answer, Client},
    commands::text,
    credential,
    failure::{Exit, Failure},
    output::printable,
};

/// How long a code of the next time step is waited for, where the issuer takes none ahead of its time: no policy has longer ones.
const LONGEST_PERIOD: Duration = Duration::from_mins(5);
/// How often a verifier is asked whether it knows of the logout.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Whom the way is gone with.
pub(super) struct Person {
    pub(super) email: String,
    pub(super) password: String,
    /// Whether there may be an account, and what it is called where that is known.
    pub(super) made: bool,
    pub(super) id: Option<String>,
    authenticator: Option<Authenticator>,
    setup_token: Option<String>,
    pub(super) backup_codes: Vec<String>,
    /// Of a session that lives.
    pub(super) access: Option<String>,
    refresh: Option<String>,
    /// All access tokens that were given out.
    tokens: Vec<String>,
    pending: bool,
}

impl Person {
    pub(super) fn new(email: &str) -> Result<Self, Failure> {
        Ok(Self {
            email: email.to_owned(),
            password: credential::fresh_password(0)?,
            made: false,
            id: None,
            authenticator: None,
            setup_token: None,
            backup_codes: Vec::new(),
            access: None,
            refresh: None,
            tokens: Vec::new(),
            pending: false,
        })
    }

    /// Takes the tokens of a login or a refresh.
    fn take(&mut self, answer: &Value) -> Result<(), Failure> {
        let access = text(answer, "access_token");
        if access.is_empty() {
            return Err(Failure::no("the issuer answered without an access token"));
        }
        self.access = Some(access.to_owned());
        self.tokens.push(access.to_owned());
        if !text(answer, "refresh_token").is_empty() {
            self.refresh = Some(text(answer, "refresh_token").to_owned());
        }
        Ok(())
    }
}

/// Goes the whole way, up to the first step that fails.
pub(super) async fn walk(parties: &Parties, person: &mut Person, way: &mut Way) -> Result<(), Failure> {
    way.step("register", register(parties, person)).await?;
    way.go_on()?;
    if person.pending {
        way.step("verify e-mail", verify_email(parties, person)).await?;
        way.go_on()?;
    }
    way.step("login", log_in(parties, person)).await?;
    way.go_on()?;
    way.step("set up second factor", set_up(parties, person)).await?;
    way.go_on()?;
    let stop = way.stop.clone();
    let second = async {
        tokio::select! {
            told = log_in_with_code(parties, person) => told,
            () = stop.cancelled() => Err(Failure::no("stopped by a signal")),
        }
    };
    way.step("login with second factor", second).await?;
    way.go_on()?;
    way.step("verify", judged_good(parties, person)).await?;
    way.go_on()?;
    way.step("refresh", refresh(parties, person)).await?;
    way.go_on()?;
    let mut position = None;
    way.step("logout", log_out(parties, person, &mut position)).await?;
    way.go_on()?;
    way.step("tokens refused", judged_ended(parties, person, position.as_deref())).await
}

/// What an answer that isn't the wanted one comes to, with what to do about it.
fn refused(answer: &Answer) -> Failure {
    let failure = Failure { exit: Exit::No, ..answer.failure() };
    if !text(&answer.body, "fix").is_empty() {
        return failure;
    }
    let fix = match (answer.status, text(&answer.body, "error")) {
        (_, "already_registered") => "name an address that has no account: this one's isn't touched",
        (_, "rate_limited") => "wait until the limit's window is over (spec.login.rateLimits), then run this again",
        (_, "address_blocked") => "countersign blocks list, then countersign blocks remove ADDRESS",
        (_, "overloaded") => "the queue for passwords is full: wait, or give the issuer more memory or replicas",
        (_, "weak_password") => "spec.login.passwords asks for more than a random password of 24 characters has",
        (_, "validation_failed") => "--email takes an address as a person would type it",
        (_, "email_unverified") => "name the admin socket with --server, and the issuer with --issuer",
        (403, _) => "only an administrator may: name the admin socket with --server, and the issuer with --issuer",
        (404, _) => "the server is no issuer, or its policy has no spec.login: name another with --server or --policy",
        (503, _) => "look at `countersign status`",
        (500.., _) => "the issuer's log says why",
        _ => "countersign diagnose --user-id ACCOUNT tells every gate",
    };
    failure.fix(fix)
}

async fn post(client: &Client, path: &str, body: &Value) -> Result<Answer, Failure> {
    client.post(path, body, Duration::ZERO).await
}

async fn register(parties: &Parties, person: &mut Person) -> Result<Told, Failure> {
    let body = json!({"email": person.email, "password": person.password});
    // From here on there may be an account, even if no answer comes.
    person.made = true;
    let mut answer = post(&parties.issuer, &parties.path("/auth/register"), &body).await?;
    let mut how = "by itself";
    if answer.status == 403
        && let Some((admin, path)) = parties.administration("users")
    {
        let body = json!({"email": person.email, "password": person.password, "email_verified": true});
        (answer, how) = (post(admin, &path, &body).await?, "by the administrator: the policy lets nobody register");
    }
    if !answer.ok() {
        person.made = answer.status >= 500;
        return Err(refused(&answer));
    }
    person.id = Some(text(&answer.body, "id").to_owned()).filter(|id| !id.is_empty());
    person.pending = text(&answer.body, "status") == "pending";
    Ok(Told::Did(format!("account {}, {how}", text(&answer.body, "id"))))
}

async fn verify_email(parties: &Parties, person: &mut Person) -> Result<Told, Failure> {
    if let Some(outbox) = &parties.outbox {
        let unreadable = |error| Failure::unable(format!("{}: {error}", outbox.display()));
        let mailed = mailed::wait_for(outbox, &person.email, parties.patience()).await.map_err(unreadable)?;
        if let Some(mailed) = mailed {
            let answer =
                post(&parties.issuer, &parties.path("/auth/verify-email"), &json!({"token": mailed.token})).await?;
            if !answer.ok() {
                return Err(refused(&answer));
            }
            std::fs::remove_file(&mailed.file).map_err(unreadable)?;
            return Ok(Told::Did("by the mailed link".into()));
        }
    }
    if let (Some(id), Some((admin, path))) = (&person.id, parties.administration("users")) {
        let body = json!({"status": "active", "email_verified": true, "reason": "test-flow"});
        let answer = admin.patch(&format!("{path}/{id}"), &body).await?;
        return match answer.status {
            200..=299 => Ok(Told::Did("by the administrator".into())),
            404 => Err(Failure::no("another account has this address").fix("name one that has no account")),
            _ => Err(refused(&answer)),
        };
    }
    Err(Failure::no("the policy wants addresses verified, and the mail is out of reach")
        .fix("name the admin socket with --server, and the issuer with --issuer"))
}

async fn log_in(parties: &Parties, person: &mut Person) -> Result<Told, Failure> {
    let answer = credentials(parties, person).await?;
    if !text(&answer, "setup_token").is_empty() {
        person.setup_token = Some(text(&answer, "setup_token").to_owned());
        return Ok(Told::Did("by password; the policy demands a second factor first".into()));
    }
    person.take(&answer)?;
    Ok(Told::Did("by password".into()))
}

/// Shows name and password.
async fn credentials(parties: &Parties, person: &Person) -> Result<Value, Failure> {
    let body = json!({"username": person.email, "password": person.password});
    let answer = post(&parties.issuer, &parties.path("/auth/login"), &body).await?;
    if answer.ok() { Ok(answer.body) } else { Err(refused(&answer)) }
}

async fn set_up(parties: &Parties, person: &mut Person) -> Result<Told, Failure> {
    let bearer = person.setup_token.as_ref().or(person.access.as_ref());
    let bearer = bearer.ok_or_else(|| Failure::no("the login gave no token to set up with"))?;
    let issuer = parties.issuer.bearing(bearer);
    let shown = post(&issuer, &parties.path("/auth/2fa/setup/totp"), &json!({})).await?;
    if text(&shown.body, "mfa_mode") == "Disabled" {
        return Ok(Told::Skipped("spec.login.mfa.mode is Disabled".into()));
    }
    if !shown.ok() {
        return Err(refused(&shown));
    }
    let mut authenticator = Authenticator::from_setup(&shown.body)?;
    let code = json!({"code": authenticator.next_code()?});
    let confirmed = post(&issuer, &parties.path("/auth/2fa/verify/totp"), &code).await?;
    if !confirmed.ok() {
        let failure = refused(&confirmed);
        return Err(if text(&confirmed.body, "error") == "invalid_code" {
            failure.fix("compare this machine's clock with the issuer's: they differ by more than spec.login.mfa.totp.skew")
        } else {
            failure
        });
    }
    person.backup_codes = super::super::texts(&confirmed.body, "backup_codes");
    person.authenticator = Some(authenticator);
    Ok(Told::Did(format!("TOTP, {} backup codes", person.backup_codes.len())))
}

async fn log_in_with_code(parties: &Parties, person: &mut Person) -> Result<Told, Failure> {
    if person.authenticator.is_none() {
        return Ok(Told::Skipped("there is no second factor".into()));
    }
    // A policy may allow one session alone.
    if person.access.is_some() {
        log_out(parties, person, &mut None).await?;
    }
    let challenged = credentials(parties, person).await?;
    let challenge = text(&challenged, "challenge_id");
    if challenge.is_empty() {
        return Err(Failure::no("the issuer asked for no code of the second factor that was just set up")
            .fix("look at spec.login.mfa: `countersign policy show --effective`"));
    }
    let Some(authenticator) = &mut person.authenticator else {
        return Ok(Told::Skipped("there is no second factor".into()));
    };
    let code = authenticator.next_code()?;
    let body = json!({"challenge_id": challenge, "code": code});
    let path = parties.path("/auth/2fa/verify");
    let mut answer = post(&parties.issuer, &path, &body).await?;
    let mut detail = "by password and code".to_owned();
    if text(&answer.body, "error") == "invalid_code" {
        // With a skew of 0 a code counts from its own time on.
        let wait = authenticator.until_due().min(LONGEST_PERIOD);
        tokio::time::sleep(wait).await;
        answer = post(&parties.issuer, &path, &body).await?;
        detail = format!("by password and code, after {:.0} s until the code was due", wait.as_secs_f64());
    }
    if !answer.ok() {
        return Err(refused(&answer));
    }
    person.take(&answer.body)?;
    Ok(Told::Did(detail))
}

/// A token, and what is said of it.
async fn verdict(parties: &Parties, token: &str, position: Option<&str>) -> Result<Answer, Failure> {
    match (&parties.verifier, &parties.policy) {
        (Some(verifier), Some(policy)) => {
            let mut body = json!({"token": token});
            if let Some(position) = position {
                body["min_position"] = json!(position);
            }
            post(verifier, &format!("/v1/policies/{policy}/verify"), &body).await
        }
        _ => parties.issuer.bearing(token).get(&parties.path("/users/me")).await,
    }
}

async fn judged_good(parties: &Parties, person: &mut Person) -> Result<Told, Failure> {
    let token = person.access.as_deref().ok_or_else(|| Failure::no("there is no access token"))?;
    let answer = verdict(parties, token, None).await?;
    let judge = parties.judge();
    match (answer.status, text(&answer.body, "verdict")) {
        (200, _) => Ok(Told::Did(format!("good, says {judge}"))),
        (403, "denied") => {
            // The token is genuine: what is lacking, a call of its own would bring along.
            let what = [text(&answer.body, "reason"), text(&answer.body, "rule")].join(" ");
            Ok(Told::Did(format!("genuine, says {judge}; a bare call is denied by {}", printable(what.trim()))))
        }
        (404, "") => {
            Err(Failure { exit: Exit::No, ..answer.failure() }.fix("the verifier has no such policy: countersign fleet"))
        }
        (_, "") => Err(refused(&answer)),
        (_, word) => Err(Failure::no(format!("{judge} says {word}: {}", text(&answer.body, "detail")))
            .fix("countersign fleet shows what each verifier holds; countersign status the feed")),
    }
}

async fn refresh(parties: &Parties, person: &mut Person) -> Result<Told, Failure> {
    let held = person.refresh.clone().ok_or_else(|| Failure::no("the login gave no refresh token"))?;
    let answer = post(&parties.issuer, &parties.path("/auth/refresh"), &json!({"refresh_token": held})).await?;
    if !answer.ok() {
        return Err(refused(&answer));
    }
    person.take(&answer.body)?;
    let same = person.refresh.as_deref() == Some(held.as_str());
    judged_good(parties, person).await?;
    let what = if same { "another access token, the refresh token stays" } else { "another pair" };
    Ok(Told::Did(what.into()))
}

async fn log_out(parties: &Parties, person: &mut Person, position: &mut Option<String>) -> Result<Told, Failure> {
    let token = person.access.as_deref().ok_or_else(|| Failure::no("there is no access token"))?;
    let answer = post(&parties.issuer.bearing(token), &parties.path("/auth/logout"), &json!({})).await?;
    match answer.status {
        200 => {
            person.access = None;
            *position = Some(text(&answer.body, "position").to_owned()).filter(|position| !position.is_empty());
            Ok(Told::Did("the session has ended".into()))
        }
        202 => {
            person.access = None;
            let failure = Failure::no("the session has ended, and verifiers can't be told: the feed is out of reach");
            Err(failure.fix("look at `countersign status`"))
        }
        _ => Err(refused(&answer)),
    }
}

/// Every token must be refused: access tokens by whoever judges, the refresh token by the issuer.
async fn judged_ended(parties: &Parties, person: &Person, position: Option<&str>) -> Result<Told, Failure> {
    let judge = parties.judge();
    let until = Instant::now() + parties.patience();
    for token in &person.tokens {
        loop {
            let answer = verdict(parties, token, position).await?;
            if answer.status == 401 {
                break;
            }
            if Instant::now() >= until {
                return Err(Failure::no(format!("{judge} still takes a token of a session that was logged out"))
                    .fix("countersign fleet shows which verifier lags; countersign status the feed"));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
    if let Some(refresh) = &person.refresh {
        let answer = post(&parties.issuer, &parties.path("/auth/refresh"), &json!({"refresh_token": refresh})).await?;
        if answer.status != 401 {
            return Err(Failure::no(format!(
                "the issuer answered {} to the refresh token of an ended session",
                answer.status
            )));
        }
    }
    Ok(Told::Did(format!("{} access tokens by {judge}, the refresh token by the issuer", person.tokens.len())))
}
