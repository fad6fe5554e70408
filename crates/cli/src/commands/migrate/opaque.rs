//! API keys of the old system, as the files or Secrets that a policy's `opaqueKeys` names: verifiers know such keys by their
//! hashes alone.

use std::collections::{BTreeMap, HashMap};

use countersign_core::{
    opaque::{MAX_KEYS_PER_FILE, parse_keys},
    time::UnixMillis,
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::{
    Batch, Mode,
    mapping::Mapping,
    reading::{Key, MAX_SECRETS, Person, Source},
    tally::{Answered, why},
};
use crate::{
    Session,
    args::KeysArgs,
    commands::{people::Asking, text, texts},
    failure::{Exit, Failure},
    output::{printable, write_out},
};

/// The file in a Secret.
const FILE: &str = "keys.json";

/// `countersign migrate keys`
pub(super) async fn keys(session: &Session, args: &KeysArgs) -> Result<Exit, Failure> {
    let mapping = Mapping::read(&args.reading.mapping)?;
    if mapping.api_keys.is_none() {
        return Err(Failure::usage(format!("--mapping {}: names no apiKeys", args.reading.mapping.display())));
    }
    let asking = Asking::of(session, Mode::Verify.intent()).await?;
    let source = Source::open(&args.reading, session.common.timeout.0).await?;
    let (entries, left_out) = entries(&asking, &source, &mapping).await?;
    source.close().await;
    for (row, why) in &left_out {
        session.printer.warn(&format!("the keys of account {} are left out: {}", printable(row), printable(why)));
    }
    let files: Vec<Vec<Value>> = entries.chunks(MAX_KEYS_PER_FILE).map(<[Value]>::to_vec).collect();
    let texts = files.iter().map(file).collect::<Result<Vec<_>, _>>()?;
    match &args.secret {
        Some(name) => {
            let namespace = session.common.namespace.as_deref();
            let documents: Vec<String> = texts
                .iter()
                .enumerate()
                .map(|(number, text)| {
                    let name = if number == 0 { name.clone() } else { format!("{name}-{}", number + 1) };
                    let mut metadata = BTreeMap::from([("name", name)]);
                    metadata.extend(namespace.map(|namespace| ("namespace", namespace.to_owned())));
                    let secret =
                        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {FILE: text}});
                    countersign_api::crds::to_yaml(&secret)
                })
                .collect();
            write_out(&documents.join("---\n"))?;
        }
        None if texts.len() > 1 => {
            let count = entries.len();
            return Err(Failure::unable(format!("{count} keys don't fit into one file: each takes {MAX_KEYS_PER_FILE}"))
                .fix("print them as Secrets, with --secret NAME"));
        }
        None => write_out(texts.first().map_or("[]\n", String::as_str))?,
    }
    let references: Vec<String> = (0..texts.len().max(1))
        .map(|number| {
            let name = args.secret.as_deref().unwrap_or("NAME");
            let name = if number == 0 { name.to_owned() } else { format!("{name}-{}", number + 1) };
            format!("{{name: {name}, key: {FILE}}}")
        })
        .collect();
    session.printer.remark(&format!(
        "{} keys; in the policy: spec.opaqueKeys: {{secretKeyRefs: [{}]}}",
        entries.len(),
        references.join(", ")
    ));
    Ok(Exit::Done)
}

/// The keys of owners that the issuer has, and why those of others are left out.
struct Owned {
    /// Of every owner who isn't settled yet, by the key of their row.
    keys: HashMap<String, Vec<Key>>,
    kept: Vec<(String, Key)>,
    left_out: Vec<(String, String)>,
}

impl Owned {
    fn leave_out(&mut self, row: &str, why: impl Into<String>) {
        if self.keys.remove(row).is_some() {
            self.left_out.push((row.to_owned(), why.into()));
        }
    }
}

impl Answered for Owned {
    fn reject(&mut self, person: &Person, reason: &str) {
        self.leave_out(&person.key, reason);
    }

    fn settle(&mut self, person: &Person, answer: &Value) {
        let changed = texts(answer, "fields");
        let is_active = person.mapped.as_ref().is_ok_and(|mapped| mapped.told["active"] == Value::Bool(true));
        match text(answer, "outcome") {
            "same" | "changed" if !is_active => self.leave_out(&person.key, "is not active"),
            // An account that was disabled here, and keys that its list doesn't hold: nothing here would end them with it.
            "changed" if changed.iter().any(|field| matches!(field.as_str(), "status" | "api_keys")) => {
                self.leave_out(&person.key, why(answer));
            }
            "same" | "changed" => {
                let subject = text(answer, "id");
                let keys = self.keys.remove(&person.key).unwrap_or_default();
                self.kept.extend(keys.into_iter().map(|key| (subject.to_owned(), key)));
            }
            _ => self.leave_out(&person.key, why(answer)),
        }
    }
}

/// The entries of every owner that the issuer has as the source does, and why those of others are left out, by their rows.
async fn entries(
    asking: &Asking,
    source: &Source,
    mapping: &Mapping,
) -> Result<(Vec<Value>, Vec<(String, String)>), Failure> {
    let keys = source.keys(mapping).await?;
    let mut owned = Owned { keys: keys.clone(), kept: Vec::new(), left_out: Vec::new() };
    let mut batch = Batch::new(asking, &mapping.name, &source.shown, Mode::Verify);
    {
        let mut people = source.people(mapping, keys);
        while let Some(person) = people.next().await {
            batch.take(person?, &mut owned).await?;
        }
    }
    batch.send(&mut owned, true).await?;
    let Owned { keys, kept, mut left_out } = owned;
    left_out.extend(keys.into_keys().map(|row| (row, "is no row of the accounts".to_owned())));
    left_out.sort();
    if kept.len() > MAX_KEYS_PER_FILE * MAX_SECRETS {
        return Err(Failure::unable("there are more keys than a policy's Secrets hold"));
    }
    let entries = kept.iter().map(|(subject, key)| entry(key, subject)).collect::<Result<_, _>>()?;
    Ok((entries, left_out))
}

fn entry(key: &Key, subject: &str) -> Result<Value, Failure> {
    let mut entry = json!({"sha256": key.sha256, "subject": subject, "scopes": key.scopes, "roles": key.roles});
    if let Some(seconds) = key.expires_at {
        let end = jiff::Timestamp::from_millisecond(UnixMillis::from_secs(seconds).0);
        let end = end.map_err(|error| Failure::unable(format!("apiKeys: expiresAt: {error}")))?;
        entry["notAfter"] = json!(end.to_string());
    }
    Ok(entry)
}

/// A file of keys, judged as verifiers will.
fn file(entries: &Vec<Value>) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(entries).map_err(|error| Failure::unable(error.to_string()))? + "\n";
    parse_keys(text.as_bytes()).map_err(|error| Failure::unable(format!("apiKeys: {error}")))?;
    Ok(text)
}
