//! API keys of the old system, as the files or Secrets that a policy's `opaqueKeys` names: verifiers know such keys by their
//! hashes alone.

use std::collections::BTreeMap;

use countersign_core::{
    opaque::{MAX_KEYS_PER_FILE, parse_keys},
    time::UnixMillis,
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::{
    mapping::Mapping,
    reading::{Key, MAX_SECRETS, Source},
};
use crate::{
    Session,
    args::KeysArgs,
    failure::{Exit, Failure},
    output::write_out,
};

/// The file in a Secret.
const FILE: &str = "keys.json";

/// `countersign migrate keys`
pub(super) async fn keys(session: &Session, args: &KeysArgs) -> Result<Exit, Failure> {
    let mapping = Mapping::read(&args.reading.mapping)?;
    if mapping.api_keys.is_none() {
        return Err(Failure::usage(format!("--mapping {}: names no apiKeys", args.reading.mapping.display())));
    }
    let source = Source::open(&args.reading.from, session.common.timeout.0).await?;
    let (entries, ownerless) = entries(&source, &mapping).await?;
    source.close().await;
    if ownerless > 0 {
        session
            .printer
            .warn(&format!("{ownerless} keys are left out: their owners are rejected or inactive, or not there"));
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

/// The entries of every owner that is brought, and how many keys have none.
async fn entries(source: &Source, mapping: &Mapping) -> Result<(Vec<Value>, usize), Failure> {
    let mut keys = source.keys(mapping).await?;
    let mut entries = Vec::new();
    let mut people = source.people(mapping, std::collections::HashMap::new());
    while let Some(person) = people.next().await {
        let person = person?;
        let subject = person.mapped.ok().filter(|mapped| mapped.told["active"] == Value::Bool(true));
        let subject = subject.and_then(|mapped| mapped.told["id"].as_str().map(str::to_owned));
        if let Some(subject) = subject {
            for key in keys.remove(&person.key).unwrap_or_default() {
                entries.push(entry(&key, &subject)?);
            }
        }
    }
    let ownerless = keys.values().map(Vec::len).sum();
    if entries.len() > MAX_KEYS_PER_FILE * MAX_SECRETS {
        return Err(Failure::unable("there are more keys than a policy's Secrets hold"));
    }
    Ok((entries, ownerless))
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
