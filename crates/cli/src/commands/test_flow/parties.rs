//! Whom the flow speaks with.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_core::names::PolicyName;
use serde_json::Value;

use super::super::text;
use crate::{
    Session,
    args::TestFlow,
    client::{Address, Client},
    cluster,
    failure::Failure,
    target::{self, ADMIN_POLICIES},
};

/// What a process writes beside its admin socket.
const ADDRESSES: &str = "addresses.json";
/// Where `dev` keeps mails, beside its admin socket.
const OUTBOX: &str = "outbox";

/// Whom the flow speaks with, and about which policy.
pub(super) struct Parties {
    /// As clients call it.
    pub(super) issuer: Client,
    /// What stands before its paths.
    prefix: String,
    /// Absent where none is named: then the issuer judges.
    pub(super) verifier: Option<Client>,
    /// Absent without an administrator's rights.
    pub(super) admin: Option<Client>,
    /// Where mails stay that go nowhere.
    pub(super) outbox: Option<PathBuf>,
    /// Absent where the issuer's own address says which.
    pub(super) policy: Option<PolicyName>,
    /// How long a call, or what it leads to, may take.
    patience: Duration,
}

impl Parties {
    /// Those whom the flags name, or those of the `dev` that runs here.
    pub(super) async fn find(session: &Session, args: &TestFlow) -> Result<Self, Failure> {
        let common = &session.common;
        if common.server.is_none() && args.issuer.is_none() {
            if let Some(context) = common.context.as_deref().filter(|_| cluster::connect::named(common, false).is_some()) {
                return Err(no_issuer_there(context));
            }
            if session.plugin {
                return Err(no_issuer_there("this cluster"));
            }
        }
        let server: Option<Address> = common.server.as_deref().map(parsed).transpose()?;
        let (issuer, admin) = match (&args.issuer, server) {
            (Some(issuer), None) => (Some(parsed(issuer)?), None),
            (Some(issuer), Some(_)) => (Some(parsed(issuer)?), Some(target::admin(session)?)),
            (None, Some(Address::Url(url))) => (Some(Address::Url(url)), None),
            (None, _) => (None, Some(target::admin(session)?)),
        };
        let policy = match &admin {
            Some(admin) => Some(target::policy(session, admin, ADMIN_POLICIES).await?),
            None => target::named_policy(common)?,
        };
        let beside = admin.as_ref().and_then(|admin| match admin.address() {
            Address::Socket(socket) => socket.parent().map(Path::to_owned),
            Address::Url(_) | Address::Cluster(_) => None,
        });
        let bound = beside.as_deref().map_or(Value::Null, addresses_in);
        let issuer = match issuer {
            Some(issuer) => issuer,
            None if text(&bound, "issuer").is_empty() => {
                return Err(Failure::usage("which issuer?").fix("name it with --issuer URL, as its clients call it"));
            }
            None => Address::Url(format!("http://{}", text(&bound, "issuer"))),
        };
        let verifier = match &args.verifier {
            Some(verifier) => Some(parsed(verifier)?),
            None => Some(text(&bound, "socket")).filter(|path| !path.is_empty()).map(|path| {
                // The path is as the process sees it, which may have been started elsewhere.
                let name = Path::new(path).file_name().unwrap_or_default();
                Address::Socket(beside.as_deref().unwrap_or(Path::new("")).join(name))
            }),
        };
        if verifier.is_some() && policy.is_none() {
            return Err(Failure::usage("which policy does the verifier judge by?").fix("name it with --policy NS/NAME"));
        }
        let prefix = match (&issuer, &policy) {
            (Address::Url(url), Some(policy)) if !has_path(url) => format!("/{policy}"),
            _ => String::new(),
        };
        let client = |address| Client::new(address, None, common.timeout.0);
        Ok(Self {
            issuer: client(issuer)?,
            prefix,
            verifier: verifier.map(client).transpose()?,
            admin,
            outbox: beside.map(|directory| directory.join(OUTBOX)).filter(|outbox| outbox.is_dir()),
            policy,
            patience: common.timeout.0,
        })
    }

    /// A path of the issuer's own routes.
    pub(super) fn path(&self, call: &str) -> String {
        format!("{}{call}", self.prefix)
    }

    /// A path of the admin API, where there is one.
    pub(super) fn administration(&self, call: &str) -> Option<(&Client, String)> {
        let policy = self.policy.as_ref()?;
        Some((self.admin.as_ref()?, format!("/admin/v1/policies/{policy}/{call}")))
    }

    /// How long what a call leads to may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Who judges tokens.
    pub(super) fn judge(&self) -> &'static str {
        if self.verifier.is_some() { "the verifier" } else { "the issuer" }
    }

    /// What a person may want to know before an account is made.
    pub(super) fn describe(&self) -> String {
        let policy =
            self.policy.as_ref().map_or_else(|| "the policy of that address".to_owned(), |p| format!("policy {p}"));
        format!("{}, {policy}", self.issuer.address())
    }
}

fn parsed(text: &str) -> Result<Address, Failure> {
    text.parse().map_err(|error: crate::client::InvalidAddress| Failure::usage(error.to_string()))
}

fn no_issuer_there(place: &str) -> Failure {
    Failure::usage(format!("people log in at an issuer, not at {place}'s API server"))
        .fix("name the issuer with --server URL, as its clients call it")
}

/// Whether an issuer's URL names the policy by itself.
fn has_path(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| url.path() != "/")
}

/// What the process behind an admin socket bound; null where it doesn't say.
fn addresses_in(directory: &Path) -> Value {
    let read = std::fs::read(directory.join(ADDRESSES)).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
