//! `report`: one file for a support case. What is secret is in none; what tells who somebody is, only where that was asked for.

mod mask;

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf, time::Duration};

use countersign_core::names::PolicyName;
use serde_json::{Map, Value, json};

use self::mask::Mask;
use super::{now, text};
use crate::{
    Session,
    args::ReportArgs,
    client::{Address, Client},
    failure::{Exit, Failure},
    output,
    target::{self, ADMIN_POLICIES, Intent, Target},
};

/// Events of one call.
const PAGE: u32 = 1000;
/// What a process writes beside its admin socket, and the listeners in it that tell metrics.
const ADDRESSES: &str = "addresses.json";
const TELL_METRICS: [(&str, &str); 2] = [("issuer", "issuer_health"), ("verifier", "verifier_health")];

/// `countersign report`
pub(crate) async fn report(session: &Session, args: &ReportArgs) -> Result<Exit, Failure> {
    let client = match target::find(session, Intent::Look).await? {
        Target::Server(client) => client,
        Target::Cluster(cluster) => {
            return Err(Failure::usage(format!("{cluster}: a report is made of what an issuer tells"))
                .fix("name the issuer's admin API with --server; `countersign status -o json` tells of the cluster"));
        }
    };
    let at = now();
    let path = args.to.clone().unwrap_or_else(|| PathBuf::from(format!("countersign-report-{}.json", at.as_secs())));
    if session.common.dry_run {
        return session.printer.dry_run(&format!("write what {} tells to {}", client.address(), path.display()));
    }
    let mut gathered = Gathered::default();
    let policies = gathered.everything(session, &client, args.events).await?;
    let mut document = json!({
        "report": {
            "made_at": at.to_string(),
            "by": format!("countersign {}", env!("CARGO_PKG_VERSION")),
            "server": client.address().to_string(),
            "includes_sensitive": args.include_sensitive,
        },
        "policies": policies,
        "missing": gathered.missing,
    });
    for (name, part) in gathered.parts {
        document[name] = part;
    }
    Mask::new(args.include_sensitive).apply(&mut document);
    let mut file = serde_json::to_string_pretty(&document).map_err(|e| Failure::unable(e.to_string()))?;
    file.push('\n');
    if path.as_os_str() == "-" {
        output::write_out(&file)?;
        return Ok(Exit::Done);
    }
    let failed = |error: std::io::Error| Failure::unable(format!("{}: {error}", path.display()));
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    to.write_all(file.as_bytes()).and_then(|()| to.sync_all()).map_err(failed)?;
    for missing in document["missing"].as_array().into_iter().flatten() {
        session.printer.remark(&format!("without {}: {}", text(missing, "what"), text(missing, "why")));
    }
    let shown = path.display().to_string();
    session.printer.report(&output::Report {
        document: json!({"file": shown, "bytes": file.len(), "missing": document["missing"]}),
        human: vec![output::Block::Text(shown.clone())],
        names: vec![shown],
    })?;
    Ok(Exit::Done)
}

/// What was told so far, and what could not be had.
#[derive(Default)]
struct Gathered {
    parts: Map<String, Value>,
    missing: Vec<Value>,
}

impl Gathered {
    async fn everything(&mut self, session: &Session, client: &Client, events: u32) -> Result<Value, Failure> {
        let status = self.ask(client, "status", "/admin/v1/status").await;
        let fleet = self.ask(client, "fleet", "/admin/v1/fleet").await;
        let metrics = self.metrics(session, client).await;
        self.parts.extend([("status".to_owned(), status), ("fleet".to_owned(), fleet), ("metrics".to_owned(), metrics)]);
        let mut policies = Map::new();
        for policy in policies_of(session, client).await? {
            let of = |call: &str| format!("/admin/v1/policies/{policy}/{call}");
            let mut shown = self.ask(client, &format!("the report of {policy}"), &of("debug-report")).await;
            shown["verifiers"] = self.ask(client, &format!("the verifiers of {policy}"), &of("verifiers")).await;
            shown["audit"] = self.events(client, &policy, events).await;
            policies.insert(policy.to_string(), shown);
        }
        if policies.values().all(|shown| shown["version"].is_null()) {
            return Err(Failure::unable("the server told nothing of any policy")
                .fix("name an issuer's admin API with --server; over HTTP with --bearer-token-file"));
        }
        Ok(Value::Object(policies))
    }

    /// What a call answers; what can't be had is written down instead.
    async fn ask(&mut self, client: &Client, what: &str, path: &str) -> Value {
        match client.get(path).await.and_then(crate::client::Answer::success) {
            Ok(body) => body,
            Err(failure) => {
                self.missing.push(json!({"what": what, "why": failure.message}));
                Value::Object(Map::new())
            }
        }
    }

    /// The latest events of a policy.
    async fn events(&mut self, client: &Client, policy: &PolicyName, at_most: u32) -> Value {
        let (mut events, mut cursor) = (Vec::new(), String::new());
        while events.len() < at_most as usize {
            let left = at_most.saturating_sub(u32::try_from(events.len()).unwrap_or(u32::MAX)).min(PAGE);
            let path = format!("/admin/v1/policies/{policy}/audit?limit={left}{cursor}");
            let page = self.ask(client, &format!("the trail of {policy}"), &path).await;
            events.extend(page["events"].as_array().into_iter().flatten().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        Value::Array(events)
    }

    /// What the processes behind an admin socket tell of themselves, as Prometheus reads it.
    async fn metrics(&mut self, session: &Session, client: &Client) -> Value {
        let mut told = Map::new();
        let bound = match client.address() {
            Address::Socket(socket) => {
                let file = socket.with_file_name(ADDRESSES);
                std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            }
            Address::Url(_) | Address::Cluster(_) => None,
        };
        for (process, listener) in TELL_METRICS {
            let what = format!("metrics of the {process}");
            let address = bound.as_ref().map(|bound| text(bound, listener)).filter(|address| !address.is_empty());
            let Some(address) = address else {
                self.missing.push(json!({"what": what, "why": "its health listener isn't known here"}));
                continue;
            };
            match exposition(address, session.common.timeout.0).await {
                Ok(text) => {
                    told.insert(process.to_owned(), json!(text));
                }
                Err(failure) => self.missing.push(json!({"what": what, "why": failure.message})),
            }
        }
        Value::Object(told)
    }
}

async fn exposition(address: &str, timeout: Duration) -> Result<String, Failure> {
    Client::new(Address::Url(format!("http://{address}")), None, timeout)?.text("/metrics").await
}

/// The policy that was named, or all that the server has.
async fn policies_of(session: &Session, client: &Client) -> Result<Vec<PolicyName>, Failure> {
    if let Some(policy) = target::named_policy(&session.common)? {
        return Ok(vec![policy]);
    }
    let listing = client.get(ADMIN_POLICIES).await?;
    if !listing.ok() {
        return Err(Failure::usage("which policy?").fix("name it with --policy NS/NAME"));
    }
    Ok(target::policies_of(&listing.body))
}
