//! What must not be read: secrets never, and who somebody is only where that was asked for.
//!
//! Nothing that a server tells should hold a secret; should one stand there all the same, it goes no further. People's names
//! and addresses become `email-1`, `address-2` …, the same one always the same, so that what belongs together can still be seen.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use countersign_core::mint::API_KEY_PREFIX;
use serde_json::Value;

/// Stands for what was secret.
const SECRET: &str = "(secret)";

/// What credentials of ours begin with, beside API keys: refresh tokens and set-up tokens.
const PREFIXES: [&str; 3] = [API_KEY_PREFIX, "csr_", "cst_"];
/// What a header of a JWS begins with: `{"` in base64url.
const JWS: &str = "eyJ";

/// Members whose text is a secret, whatever it looks like.
const SECRETS: [&str; 18] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "setup_token",
    "device_token",
    "api_key",
    "apiKey",
    "client_secret",
    "private_key",
    "privateKey",
    "authorization",
    "cookie",
    "code",
    "otpauth_url",
];
/// Private members of a JSON Web Key (RFC 7518 section 6).
const PRIVATE_OF_A_KEY: [&str; 7] = ["d", "k", "p", "q", "dp", "dq", "qi"];

/// Members that say who somebody is, and what stands for it.
const PEOPLE: [(&str, &str); 12] = [
    ("subject", "subject"),
    ("sub", "subject"),
    ("actor", "subject"),
    ("user", "name"),
    ("username", "name"),
    ("first_name", "name"),
    ("last_name", "name"),
    ("user_agent", "agent"),
    ("device", "agent"),
    ("device_id", "agent"),
    ("cluster_user", "subject"),
    // Where a session came from until it came from elsewhere.
    ("before", "agent"),
];

/// Takes out what must not be read.
pub(super) struct Mask {
    people_too: bool,
    /// What stands for whom, by kind and text.
    known: HashMap<(&'static str, String), String>,
    counts: HashMap<&'static str, usize>,
}

impl Mask {
    /// One that leaves who somebody is, where that was asked for.
    pub(super) fn new(include_sensitive: bool) -> Self {
        Self { people_too: !include_sensitive, known: HashMap::new(), counts: HashMap::new() }
    }

    /// Masks a document, members' names included.
    pub(super) fn apply(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.apply(item)),
            Value::Object(members) => {
                let is_key = members.contains_key("kty");
                let held = std::mem::take(members);
                for (name, mut value) in held {
                    self.member(&name, is_key, &mut value);
                    members.insert(self.text(&name), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn member(&mut self, name: &str, of_a_key: bool, value: &mut Value) {
        let secret = SECRETS.contains(&name) || of_a_key && PRIVATE_OF_A_KEY.contains(&name);
        match value {
            Value::String(text) if secret && !text.is_empty() => SECRET.clone_into(text),
            Value::String(text) => {
                let people = PEOPLE.iter().find(|(member, _)| *member == name).filter(|_| self.people_too);
                *text = match people {
                    Some((_, kind)) if tells(text) => self.stand_in(kind, text),
                    _ => self.text(text),
                };
            }
            other => self.apply(other),
        }
    }

    /// A text: credentials, e-mail addresses and network addresses can stand anywhere.
    fn text(&mut self, text: &str) -> String {
        let text = without_userinfo(text);
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some((before, email, after)) = self.people_too.then(|| next_email(rest)).flatten() {
            self.words(before, &mut out);
            out.push_str(&self.stand_in("email", &email.to_lowercase()));
            rest = after;
        }
        self.words(rest, &mut out);
        out
    }

    fn words(&mut self, text: &str, out: &mut String) {
        let mut word = String::new();
        for c in text.chars() {
            if is_of_a_word(c) {
                word.push(c);
            } else {
                out.push_str(&self.word(&std::mem::take(&mut word)));
                out.push(c);
            }
        }
        out.push_str(&self.word(&word));
    }

    fn word(&mut self, word: &str) -> String {
        if is_credential(word) {
            return SECRET.to_owned();
        }
        if !self.people_too {
            return word.to_owned();
        }
        let bare = word.trim_end_matches(['.', ':']);
        let rest = &word[bare.len()..];
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return format!("{}{rest}", self.address(ip));
        }
        if let Ok(socket) = bare.parse::<SocketAddr>() {
            return format!("{}:{}{rest}", self.address(socket.ip()), socket.port());
        }
        word.to_owned()
    }

    /// Of this machine, or of none: that tells nothing.
    fn address(&mut self, ip: IpAddr) -> String {
        if ip.is_loopback() || ip.is_unspecified() { ip.to_string() } else { self.stand_in("address", &ip.to_string()) }
    }

    fn stand_in(&mut self, kind: &'static str, text: &str) -> String {
        let counts = &mut self.counts;
        let new = || {
            let count = counts.entry(kind).or_default();
            *count += 1;
            format!("{kind}-{count}")
        };
        self.known.entry((kind, text.to_owned())).or_insert_with(new).clone()
    }
}

/// Whether a text may say who somebody is: an id tells nobody's name, and network addresses have a kind of their own.
fn tells(text: &str) -> bool {
    !text.is_empty() && uuid::Uuid::try_parse(text).is_err() && text.parse::<IpAddr>().is_err()
}

/// What words are made of: all that stands in credentials and network addresses.
fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || "-._~+@:%".contains(c)
}

/// What stands before the `@` of an address that an account can have.
fn is_of_a_mailbox(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c)
}

fn is_credential(word: &str) -> bool {
    let parts = word.split('.').collect::<Vec<_>>();
    let is_jws = parts.len() >= 2 && parts.iter().any(|part| part.starts_with(JWS));
    is_jws || PREFIXES.iter().any(|prefix| word.len() > prefix.len() + 8 && word.starts_with(prefix))
}

/// The first e-mail address in a text, with what stands before and after it. Marks before it are none of it: quotes, mostly.
fn next_email(text: &str) -> Option<(&str, &str, &str)> {
    text.match_indices('@').find_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + 1..]);
        let mailbox = &before[before.trim_end_matches(is_of_a_mailbox).len()..];
        let mailbox = mailbox.trim_start_matches(|c: char| !c.is_alphanumeric());
        let domain = &after[..after.find(|c: char| !c.is_alphanumeric() && c != '-' && c != '.').unwrap_or(after.len())];
        let domain = domain.trim_end_matches(['.', '-']);
        let found = !mailbox.is_empty() && domain.contains('.') && !domain.starts_with('.');
        let (start, end) = (at - mailbox.len(), at + 1 + domain.len());
        found.then(|| (&text[..start], &text[start..end], &text[end..]))
    })
}

/// Without the user and password of a URL (RFC 3986 section 3.2.1).
fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c == '/' || c == '?' || c == '#' || c.is_whitespace()).unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(at) => {
                out.push_str(SECRET);
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(value: &Value, include_sensitive: bool) -> Value {
        let mut value = value.clone();
        Mask::new(include_sensitive).apply(&mut value);
        value
    }

    #[test]
    fn secrets_are_taken_out_wherever_they_stand() {
        let jws = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln";
        let key = format!("csk_{jws}");
        let told = json!({
            "password": "hunter2",
            "nested": [{"refresh_token": "abc"}, {"why": format!("got {jws}, and Bearer {key}.")}],
            "feed": {"server": "redis://default:p%40ss@10.0.0.5:6379/0"},
            "keys": [{"kty": "oct", "k": "AyM1SysP", "kid": "a"}, {"d": 3, "k": "no key"}],
            "metrics": "# csr_0123456789abcdefghij\n",
        });
        for include_sensitive in [false, true] {
            let text = masked(&told, include_sensitive).to_string();
            for secret in ["hunter2", "\"abc\"", "eyJ", "csk_", "p%40ss", "default", "AyM1SysP", "csr_"] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
            assert!(text.contains("no key") && text.contains("\"kid\":\"a\"") && text.contains(":6379/0"), "{text}");
        }
    }

    #[test]
    fn who_somebody_is_shows_only_where_it_was_asked_for_and_the_same_one_is_always_the_same() {
        let told = json!({
            "events": [
                {"subject": "alice", "ip": "203.0.113.7", "user_agent": "curl/8", "details": {"for": "Ann@Shop.example"}},
                {"subject": "alice", "ip": "2001:db8::1", "note": "mail to ann@shop.example, from [2001:db8::1]:443"},
            ],
            "subject": "01985c2e-0000-7000-8000-000000000000",
            "listens": "127.0.0.1:7490 and 203.0.113.0/24 at 2026-11-21T23:58:25Z in countersign::audit",
        });
        let text = masked(&told, false);
        assert_eq!(text["events"][0]["subject"], text["events"][1]["subject"]);
        assert_eq!(text["events"][0]["details"]["for"], "email-1");
        assert_eq!(
            text["events"][1]["note"],
            format!("mail to email-1, from [{}]:443", text["events"][1]["ip"].as_str().unwrap())
        );
        assert_eq!(text["subject"], told["subject"], "an id is nobody's name");
        assert_eq!(text["listens"], "127.0.0.1:7490 and address-3/24 at 2026-11-21T23:58:25Z in countersign::audit");
        for hidden in ["alice", "203.0.113", "2001:db8", "curl", "shop.example"] {
            assert!(!text.to_string().to_lowercase().contains(hidden), "{hidden} in {text}");
        }
        assert_eq!(masked(&told, true), told);
    }

    #[test]
    fn of_people_nothing_shows_whatever_their_addresses_are_made_of_and_wherever_they_came_from() {
        let told = json!({
            "why": "no mail to 'o'brien/sales@shop.example' (o'brien/sales@shop.example.); a@b is none",
            "details": {"cluster_user": "system:serviceaccount:ci:deployer", "before": "curl/8 of carol"},
            "moved": {"ip": "203.0.113.7", "before": "203.0.113.7"},
            "cut": {"before": 1_700_000_000},
        });
        let text = masked(&told, false);
        assert_eq!(text["why"], "no mail to 'email-1' (email-1.); a@b is none");
        assert_eq!(text["details"], json!({"cluster_user": "subject-1", "before": "agent-1"}));
        assert_eq!(text["moved"]["ip"], text["moved"]["before"]);
        assert_eq!(text["cut"], told["cut"]);
    }
}
