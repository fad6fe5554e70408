//! Taking away what was made: by the administrator where there is one, else by the account itself.

use serde_json::json;

use super::{Told, Way, parties::Parties, steps::Person};
use crate::{client::Answer, commands::text, failure::Failure, output::printable};

/// Erases the account. What is left when that can't be done, with the command that does.
pub(super) async fn clean_up(parties: &Parties, person: &mut Person, way: &mut Way) -> Option<Failure> {
    if !person.made {
        return None;
    }
    let erased = way.step("clean up", erase(parties, person)).await;
    let failure = erased.err()?;
    Some(person.left_behind(parties, &failure.message))
}

async fn erase(parties: &Parties, person: &Person) -> Result<Told, Failure> {
    if let (Some(id), Some((admin, path))) = (&person.id, parties.administration("users")) {
        // By its id: an address may be somebody else's.
        let answer = admin.delete(&format!("{path}/{id}")).await?;
        return match answer.status {
            200..=299 => Ok(Told::Did("the account is erased, by the administrator".into())),
            404 => Ok(Told::Skipped("no account was made".into())),
            _ => Err(unable(&answer)),
        };
    }
    let Some(token) = token(parties, person).await? else { return Ok(Told::Skipped("no account was made".into())) };
    let issuer = parties.issuer.bearing(&token);
    let answer = issuer.delete_saying(&parties.path("/users/me"), &json!({"password": person.password})).await?;
    if answer.ok() { Ok(Told::Did("the account is erased, by itself".into())) } else { Err(unable(&answer)) }
}

/// A token that the account may erase itself with; none when there is no account of this password.
async fn token(parties: &Parties, person: &Person) -> Result<Option<String>, Failure> {
    if let Some(token) = &person.access {
        return Ok(Some(token.clone()));
    }
    let mut body = json!({"username": person.email, "password": person.password});
    if let Some(code) = person.backup_codes.first() {
        body["mfa_code"] = json!(code);
    }
    let answer = parties.issuer.post(&parties.path("/auth/login"), &body, std::time::Duration::ZERO).await?;
    let token = text(&answer.body, "access_token");
    match answer.status {
        200 if !token.is_empty() => Ok(Some(token.to_owned())),
        401 if text(&answer.body, "error") == "invalid_credentials" => Ok(None),
        _ => Err(unable(&answer)),
    }
}

fn unable(answer: &Answer) -> Failure {
    Failure::no(format!("the account can't be erased: {}", answer.failure().message))
}

impl Person {
    /// The account is there still.
    pub(super) fn left_behind(&self, parties: &Parties, why: &str) -> Failure {
        let (email, account) = (printable(&self.email), self.id.as_deref().unwrap_or(&self.email));
        let policy = parties.policy.as_ref().map_or_else(String::new, |policy| format!(" --policy {policy}"));
        let fix = format!("as administrator: countersign users delete {}{policy}", printable(account));
        Failure::no(format!("the account {email} is left behind: {why}")).fix(fix)
    }
}
