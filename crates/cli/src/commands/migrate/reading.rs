//! Rows of the source as an issuer takes them.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use countersign_core::{digest::sha256, opaque::MAX_KEYS_PER_FILE};
use countersign_issuer::{names, passwords::check_hash};
use countersign_store::{Foreign, Location, StoreError};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{
    field::Texts,
    mapping::{ApiKeys, KeySecret, Mapping, UnusablePasswords, Users},
};
use crate::{
    args::Reading,
    failure::{Failure, chain},
};

/// How many Secrets of API keys a policy may name.
pub(super) const MAX_SECRETS: usize = 3;

/// A row, mapped.
pub(super) struct Person {
    /// Its number, counted from 1.
    pub(super) row: u64,
    /// What tells it apart; empty where it has nothing.
    pub(super) key: String,
    /// What the issuer is told of it, or why nothing can be.
    pub(super) mapped: Result<Mapped, String>,
}

/// A row as an issuer takes it.
pub(super) struct Mapped {
    pub(super) told: Value,
    /// Its owner sets a password by a mailed link.
    pub(super) without_password: bool,
    pub(super) api_keys: u64,
}

/// An API key as an issuer and verifiers take it.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) sha256: String,
    pub(super) name: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) roles: Vec<String>,
    /// Seconds since the Unix epoch.
    pub(super) expires_at: Option<i64>,
}

/// An opened source.
pub(super) struct Source {
    foreign: Foreign,
    /// As people know it.
    pub(super) shown: String,
}

impl Source {
    /// Opens it within `timeout`.
    pub(super) async fn open(args: &Reading, timeout: Duration) -> Result<Self, Failure> {
        let location: Location = args.from.parse().map_err(|error| Failure::usage(format!("--from: {error}")))?;
        let shown = match &location {
            Location::File(path) => format!("sqlite:{}", path.display()),
            Location::Server(server) => server.to_string(),
        };
        let opened = tokio::time::timeout(timeout, Foreign::open(&location, args.query_timeout.0)).await;
        let opened = opened.map_err(|_| Failure::unable(format!("{shown} did not answer in time")))?;
        Ok(Self { foreign: opened.map_err(|error| unreadable(&shown, &error))?, shown })
    }

    /// Every API key, by the key of its owner's row. A policy holds no more than some thousands.
    pub(super) async fn keys(&self, mapping: &Mapping) -> Result<HashMap<String, Vec<Key>>, Failure> {
        let mut of_owner: HashMap<String, Vec<Key>> = HashMap::new();
        let Some(api_keys) = &mapping.api_keys else { return Ok(of_owner) };
        let mut rows = self.foreign.rows(&api_keys.relation, &api_keys.columns);
        let (mut number, mut kept) = (0_u64, 0_usize);
        while let Some(row) = rows.next().await {
            let row = row.map_err(|error| unreadable(&self.shown, &error))?;
            number += 1;
            let key = key(api_keys, &row);
            let key = key.map_err(|reason| Failure::unable(format!("apiKeys, row {number}: {reason}")))?;
            let (Some(key), Some(Some(owner))) = (key, row.first()) else { continue };
            kept += 1;
            if kept > MAX_KEYS_PER_FILE * MAX_SECRETS {
                let most = MAX_KEYS_PER_FILE * MAX_SECRETS;
                return Err(Failure::unable(format!("apiKeys: over {most} keys, more than a policy's Secrets hold"))
                    .fix("leave out those that are not used any more, with a query in place of the table"));
            }
            of_owner.entry(owner.clone()).or_default().push(key);
        }
        Ok(of_owner)
    }

    /// Every account's row, in the order of their keys.
    pub(super) fn people<'s>(
        &'s self,
        mapping: &'s Mapping,
        mut keys: HashMap<String, Vec<Key>>,
    ) -> impl Stream<Item = Result<Person, Failure>> + Unpin + 's {
        let users = &mapping.users;
        let mut seen = Seen::default();
        let mut number = 0;
        self.foreign.rows(&users.relation, &users.columns).map_err(|error| unreadable(&self.shown, &error)).map_ok(
            move |row| {
                number += 1;
                let key = row.first().cloned().flatten().unwrap_or_default();
                let own = keys.remove(&key).unwrap_or_default();
                let mapped = person(users, &key, &row, &own, &mut seen);
                Person { row: number, key, mapped }
            },
        )
    }

    pub(super) async fn close(self) {
        self.foreign.close().await;
    }
}

fn unreadable(shown: &str, error: &StoreError) -> Failure {
    let failure = Failure::unable(format!("{shown}: {}", chain(error)));
    if error.is_out_of_time() { failure.fix("give the query longer with --query-timeout") } else { failure }
}

/// What rows before this one have: two alike can't both be brought, whichever it is, so that a plan says what a run does.
#[derive(Default)]
struct Seen {
    /// Hashes: a source may have a million rows.
    taken: HashSet<[u8; 16]>,
}

impl Seen {
    fn is_again(&mut self, what: &str, text: &str) -> bool {
        let mut short = [0; 16];
        short.copy_from_slice(&sha256(format!("{what}\0{text}").as_bytes())[..16]);
        !self.taken.insert(short)
    }
}

fn person(users: &Users, key: &str, row: &Texts, api_keys: &[Key], seen: &mut Seen) -> Result<Mapped, String> {
    if key.is_empty() {
        return Err(format!("{}: is empty, and tells no row apart", users.columns[0]));
    }
    if seen.is_again("key", key) {
        return Err(format!("{}: is that of an earlier row, too", users.columns[0]));
    }
    let text = |field: &Option<super::field::Field>| field.as_ref().and_then(|field| field.text(row));
    let (username, email) = (text(&users.username), text(&users.email));
    for (what, name) in [("username", &username), ("email", &email)] {
        if name.as_ref().is_some_and(|name| seen.is_again(what, &names::folded(name.trim()))) {
            return Err(format!("{what}: is that of an earlier row, too"));
        }
    }
    let password = password(users, text(&users.password))?;
    let verified = match &users.email_verified {
        Some(field) => field.flag(row, "emailVerified")?.unwrap_or(false),
        None => false,
    };
    let active = match &users.active {
        Some(field) => field.certain_flag(row, "active")?,
        None => true,
    };
    let created = match &users.created_at {
        Some(field) => field.time(row, "createdAt")?,
        None => None,
    };
    let told = json!({
        "key": key,
        "id": text(&users.id),
        "username": username,
        "email": email,
        "first_name": text(&users.first_name),
        "last_name": text(&users.last_name),
        "email_verified": verified,
        "active": active,
        "roles": users.roles.as_ref().and_then(|field| field.list(row)),
        "password_hash": password,
        "totp_secret": text(&users.totp),
        "created_at": created,
        "api_keys": api_keys.iter().map(Key::told).collect::<Vec<_>>(),
    });
    let own_keys = u64::try_from(api_keys.len()).unwrap_or(u64::MAX);
    Ok(Mapped { told, without_password: password.is_none(), api_keys: own_keys })
}

/// The hash of a password, if there is one that could ever be right.
fn password(users: &Users, hash: Option<String>) -> Result<Option<String>, String> {
    // Django marks accounts that have none so.
    let Some(hash) = hash.filter(|hash| !hash.starts_with('!')) else { return Ok(None) };
    match (check_hash(&hash), users.unusable_passwords) {
        (Ok(()), _) => Ok(Some(hash)),
        (Err(_), UnusablePasswords::Reset) => Ok(None),
        (Err(error), UnusablePasswords::Reject) => {
            Err(format!("password: {error} (or bring it without, with unusablePasswords: Reset)"))
        }
    }
}

/// A key, unless it is switched off.
fn key(keys: &ApiKeys, row: &Texts) -> Result<Option<Key>, String> {
    if let Some(active) = &keys.active
        && !active.certain_flag(row, "active")?
    {
        return Ok(None);
    }
    let hash = match &keys.secret {
        KeySecret::Sha256(field) => field.text(row).map(|hash| hash.trim().to_ascii_lowercase()),
        KeySecret::Plaintext(field) => field.text(row).map(|text| hex(&sha256(text.as_bytes()))),
    };
    let hash = hash.ok_or("it has no key")?;
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("sha256: is not 64 hex digits: verifiers know keys by their SHA-256 alone".into());
    }
    let list = |field: &Option<super::field::Field>| field.as_ref().and_then(|field| field.list(row)).unwrap_or_default();
    Ok(Some(Key {
        sha256: hash,
        name: keys.name.as_ref().and_then(|field| field.text(row)),
        scopes: list(&keys.scopes),
        roles: list(&keys.roles),
        expires_at: match &keys.expires_at {
            Some(field) => field.time(row, "expiresAt")?,
            None => None,
        },
    }))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Key {
    fn told(&self) -> Value {
        json!({
            "sha256": self.sha256,
            "name": self.name,
            "scopes": self.scopes,
            "roles": self.roles,
            "expires_at": self.expires_at,
        })
    }
}
