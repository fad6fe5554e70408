//! Who wrote what, by the API server's audit log. The administrator is left out there.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use serde_json::Value;

/// What has been written since the last look.
pub(crate) struct Writes {
    log: PathBuf,
    offset: u64,
    account: String,
}

impl Writes {
    /// From now on, by the service accounts of a namespace.
    pub(super) fn from_now(log: PathBuf, namespace: &str) -> Self {
        let mut writes = Self { log, offset: 0, account: format!("system:serviceaccount:{namespace}:") };
        writes.take();
        writes
    }

    /// What was written since the last look, in order.
    pub(crate) fn take(&mut self) -> Vec<Write> {
        let mut file = std::fs::File::open(&self.log).unwrap();
        file.seek(SeekFrom::Start(self.offset)).unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        // The last line may be half written.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        let events = text[..whole].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let of_ours =
            |event: &Value| event["user"]["username"].as_str().is_some_and(|user| user.starts_with(&self.account));
        events.filter(of_ours).map(|event| Write::of(&event)).collect()
    }
}

/// One request that writes, whatever came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// Resource and subresource.
    pub(crate) what: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) verb: String,
    pub(crate) status: u64,
}

impl Write {
    fn of(event: &Value) -> Self {
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = text(&object["resource"]);
        let what = match object["subresource"].as_str() {
            Some(subresource) => format!("{resource}/{subresource}"),
            None => resource,
        };
        Self {
            what,
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            verb: text(&event["verb"]),
            status: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
        }
    }

    /// Whether it renews the operator's Lease, or asks who somebody is: nothing that is kept grows by it.
    pub(crate) fn is_heartbeat(&self) -> bool {
        self.what == "leases" || self.what.ends_with("reviews")
    }
}

/// How many writes of each kind of object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) BTreeMap<String, u64>);

impl Counts {
    pub(crate) fn of<'a>(writes: impl IntoIterator<Item = &'a Write>) -> Self {
        let mut counts = BTreeMap::new();
        for write in writes {
            *counts.entry(write.what.clone()).or_default() += 1;
        }
        Self(counts)
    }

    /// How many of one kind.
    pub(crate) fn of_kind(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// How many of kinds that begin so.
    pub(crate) fn of_kinds(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(what, _)| what.starts_with(prefix)).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let each: Vec<String> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&each.join(", "))
    }
}
