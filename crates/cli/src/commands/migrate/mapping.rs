//! Which column is what: the mapping file, checked before anything is read.

use std::{collections::BTreeMap, fs, path::Path};

use countersign_api::yaml;
use countersign_store::Relation;
use serde::Deserialize;
use serde_json::Value;

use super::field::Field;
use crate::failure::Failure;

/// The longest name of an import, characters.
const MAX_NAME: usize = 63;

/// What a mapping file says.
#[derive(Debug)]
pub(super) struct Mapping {
    /// The import's name.
    pub(super) name: String,
    pub(super) users: Users,
    pub(super) api_keys: Option<ApiKeys>,
}

/// Where accounts are read from, and as what.
#[derive(Debug)]
pub(super) struct Users {
    pub(super) relation: Relation,
    /// The columns to read, the one that tells rows apart first.
    pub(super) columns: Vec<String>,
    pub(super) id: Option<Field>,
    pub(super) username: Option<Field>,
    pub(super) email: Option<Field>,
    pub(super) first_name: Option<Field>,
    pub(super) last_name: Option<Field>,
    pub(super) email_verified: Option<Field>,
    pub(super) active: Option<Field>,
    pub(super) roles: Option<Field>,
    pub(super) password: Option<Field>,
    pub(super) totp: Option<Field>,
    pub(super) created_at: Option<Field>,
    pub(super) unusable_passwords: UnusablePasswords,
}

/// Where API keys are read from, and as what.
#[derive(Debug)]
pub(super) struct ApiKeys {
    pub(super) relation: Relation,
    /// The columns to read, the owner's first.
    pub(super) columns: Vec<String>,
    pub(super) secret: KeySecret,
    pub(super) name: Option<Field>,
    pub(super) scopes: Option<Field>,
    pub(super) roles: Option<Field>,
    pub(super) expires_at: Option<Field>,
    pub(super) active: Option<Field>,
}

/// How the old system keeps its API keys.
#[derive(Debug)]
pub(super) enum KeySecret {
    /// By their SHA-256, in hex.
    Sha256(Field),
    /// As they are.
    Plaintext(Field),
}

/// What becomes of rows whose password can't be verified here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum UnusablePasswords {
    /// They are reported, and not brought.
    #[default]
    Reject,
    /// They are brought without a password.
    Reset,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawMapping {
    name: String,
    users: RawUsers,
    api_keys: Option<RawApiKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawUsers {
    table: Option<String>,
    query: Option<String>,
    key: String,
    columns: RawUserColumns,
    #[serde(default)]
    unusable_passwords: UnusablePasswords,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawUserColumns {
    id: Option<Value>,
    username: Option<Value>,
    email: Option<Value>,
    first_name: Option<Value>,
    last_name: Option<Value>,
    email_verified: Option<Value>,
    active: Option<Value>,
    roles: Option<Value>,
    password: Option<Value>,
    totp: Option<Value>,
    created_at: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApiKeys {
    table: Option<String>,
    query: Option<String>,
    columns: RawKeyColumns,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawKeyColumns {
    user: String,
    sha256: Option<Value>,
    plaintext: Option<Value>,
    name: Option<Value>,
    scopes: Option<Value>,
    roles: Option<Value>,
    expires_at: Option<Value>,
    active: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawField {
    column: Option<String>,
    value: Option<String>,
    #[serde(default)]
    map: BTreeMap<String, Value>,
    default: Option<Value>,
    separator: Option<String>,
}

impl Mapping {
    /// Reads a mapping file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let named = |error: &dyn std::fmt::Display| Failure::usage(format!("--mapping {}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| {
            named(&error).fix("print one to begin with: `countersign migrate example home-grown > mapping.yaml`")
        })?;
        Self::parse(&text).map_err(|error| named(&error))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut documents = yaml::parse(text).map_err(|error| error.to_string())?;
        let (Some(document), true) = (documents.pop(), documents.is_empty()) else {
            return Err("one YAML document is needed".into());
        };
        let raw: RawMapping = serde_json::from_value(document.value).map_err(|error| error.to_string())?;
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if raw.name.is_empty() || raw.name.len() > MAX_NAME || !raw.name.bytes().all(good) {
            return Err(format!("name: 1 to {MAX_NAME} lower-case letters, digits and hyphens"));
        }
        let api_keys = raw.api_keys.map(ApiKeys::of).transpose()?;
        let users = Users::of(raw.users)?;
        if api_keys.is_some() && users.id.is_none() {
            return Err("apiKeys: needs users.columns.id, so that keys speak for the ids that their owners keep".into());
        }
        Ok(Self { name: raw.name, users, api_keys })
    }
}

impl Users {
    fn of(raw: RawUsers) -> Result<Self, String> {
        let relation = relation("users", raw.table, raw.query)?;
        let mut columns = Columns::beginning_with(raw.key);
        let mut field = |name: &str, raw: Option<Value>| columns.field(&format!("users.columns.{name}"), raw);
        let raw_columns = raw.columns;
        let users = Self {
            relation,
            id: field("id", raw_columns.id)?,
            username: field("username", raw_columns.username)?,
            email: field("email", raw_columns.email)?,
            first_name: field("firstName", raw_columns.first_name)?,
            last_name: field("lastName", raw_columns.last_name)?,
            email_verified: field("emailVerified", raw_columns.email_verified)?,
            active: field("active", raw_columns.active)?,
            roles: field("roles", raw_columns.roles)?,
            password: field("password", raw_columns.password)?,
            totp: field("totp", raw_columns.totp)?,
            created_at: field("createdAt", raw_columns.created_at)?,
            unusable_passwords: raw.unusable_passwords,
            columns: Vec::new(),
        };
        if users.username.is_none() && users.email.is_none() {
            return Err("users.columns: username or email is needed, to log in by".into());
        }
        Ok(Self { columns: columns.names, ..users })
    }
}

impl ApiKeys {
    fn of(raw: RawApiKeys) -> Result<Self, String> {
        let relation = relation("apiKeys", raw.table, raw.query)?;
        let raw = raw.columns;
        let mut columns = Columns::beginning_with(raw.user);
        let mut field = |name: &str, raw: Option<Value>| columns.field(&format!("apiKeys.columns.{name}"), raw);
        let secret = match (field("sha256", raw.sha256)?, field("plaintext", raw.plaintext)?) {
            (Some(hash), None) => KeySecret::Sha256(hash),
            (None, Some(text)) => KeySecret::Plaintext(text),
            _ => return Err("apiKeys.columns: one of sha256 and plaintext is needed".into()),
        };
        let keys = Self {
            relation,
            secret,
            name: field("name", raw.name)?,
            scopes: field("scopes", raw.scopes)?,
            roles: field("roles", raw.roles)?,
            expires_at: field("expiresAt", raw.expires_at)?,
            active: field("active", raw.active)?,
            columns: Vec::new(),
        };
        Ok(Self { columns: columns.names, ..keys })
    }
}

fn relation(of: &str, table: Option<String>, query: Option<String>) -> Result<Relation, String> {
    match (table, query) {
        (Some(table), None) => Ok(Relation::Table(table)),
        (None, Some(query)) => Ok(Relation::Query(query)),
        _ => Err(format!("{of}: one of table and query is needed")),
    }
}

/// The columns that are read, each once.
struct Columns {
    names: Vec<String>,
}

impl Columns {
    fn beginning_with(name: String) -> Self {
        Self { names: vec![name] }
    }

    fn place(&mut self, name: String) -> usize {
        self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }

    fn field(&mut self, path: &str, raw: Option<Value>) -> Result<Option<Field>, String> {
        let raw = match raw {
            None => return Ok(None),
            Some(Value::String(column)) => return Ok(Some(Field::of_column(self.place(column)))),
            Some(raw) => serde_json::from_value::<RawField>(raw).map_err(|error| format!("{path}: {error}"))?,
        };
        let list = |value: Value| texts(value).ok_or_else(|| format!("{path}: a text or a list of texts is needed"));
        let map = raw.map.into_iter().map(|(from, to)| Ok::<_, String>((from, list(to)?))).collect::<Result<_, _>>()?;
        let default = raw.default.map(list).transpose()?;
        match (raw.column, raw.value) {
            (Some(column), None) => {
                let place = self.place(column);
                let mut field = Field::of_column(place);
                (field.map, field.default, field.separator) = (map, default, raw.separator);
                Ok(Some(field))
            }
            (None, Some(value)) if map.is_empty() && default.is_none() && raw.separator.is_none() => {
                Ok(Some(Field::of_value(value)))
            }
            _ => Err(format!("{path}: a column, or a value and nothing else, is needed")),
        }
    }
}

fn texts(value: Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Schema, commands::migrate::example};

    #[test]
    fn every_example_is_a_mapping() {
        for schema in <Schema as clap::ValueEnum>::value_variants() {
            let mapping = Mapping::parse(example(*schema)).unwrap_or_else(|error| panic!("{schema:?}: {error}"));
            assert_eq!(mapping.users.columns[0], "id", "{schema:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let users = "users: {table: users, key: id, columns: {email: email}}\n";
        for (text, said) in [
            ("", "one YAML document"),
            ("name: a\n", "missing field `users`"),
            (&format!("name: Old Shop\n{users}"), "name: 1 to 63"),
            (
                &format!("name: a\n{users}apiKeys: {{table: k, columns: {{user: u, sha256: h}}}}\n"),
                "needs users.columns.id",
            ),
            ("name: a\nusers: {key: id, columns: {email: email}}\n", "users: one of table and query"),
            ("name: a\nusers: {table: t, query: q, key: id, columns: {email: email}}\n", "users: one of table and query"),
            ("name: a\nusers: {table: t, key: id, columns: {emial: email}}\n", "unknown field `emial`"),
            ("name: a\nusers: {table: t, key: id, columns: {password: p}}\n", "username or email is needed"),
            ("name: a\nusers: {table: t, key: id, columns: {email: {map: {}}}}\n", "users.columns.email: a column"),
            ("name: a\nusers: {table: t, key: id, columns: {email: {column: e, map: {a: 1}}}}\n", "a list of texts"),
        ] {
            let error = Mapping::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
