//! Which server and which policy a command speaks of.

use std::path::{Path, PathBuf};

use countersign_core::names::PolicyName;
use serde_json::Value;

use crate::{
    Session,
    args::Common,
    client::{Address, Client, listens},
    failure::Failure,
    output::printable,
};

/// Where `dev` keeps its data unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = ".countersign";
/// The admin API's socket in a data directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";
/// The verifier's socket in a data directory.
pub(crate) const VERIFIER_SOCKET: &str = "verifier.sock";

/// The admin API that the flags name, or the one of the data directory here.
pub(crate) fn admin(session: &Session) -> Result<Client, Failure> {
    let address = match named(&session.common)? {
        Some(Address::Socket(path)) if path.is_dir() => Address::Socket(path.join(ADMIN_SOCKET)),
        Some(Address::Socket(path)) if path.file_name().is_some_and(|n| n == VERIFIER_SOCKET) => {
            return Err(Failure::usage(format!("unix:{} is a verifier, which has no admin API", path.display()))
                .fix(format!("name the {ADMIN_SOCKET} beside it, or the admin URL")));
        }
        Some(address) => address,
        None => Address::Socket(here(ADMIN_SOCKET)?),
    };
    connect(session, address)
}

/// The verifier that the flags name: itself, or the one beside the admin socket.
pub(crate) fn verifier(session: &Session) -> Result<Client, Failure> {
    let address = match named(&session.common)? {
        Some(Address::Socket(path)) if path.is_dir() => Address::Socket(path.join(VERIFIER_SOCKET)),
        Some(Address::Socket(path)) if path.file_name().is_some_and(|n| n == ADMIN_SOCKET) => {
            Address::Socket(path.with_file_name(VERIFIER_SOCKET))
        }
        Some(address) => address,
        None => Address::Socket(here(VERIFIER_SOCKET)?),
    };
    connect(session, address)
}

fn connect(session: &Session, address: Address) -> Result<Client, Failure> {
    let bearer = match &session.common.bearer_token_file {
        Some(file) => Some(read_bearer(file)?),
        None => None,
    };
    Client::new(address, bearer, session.common.timeout.0)
}

fn read_bearer(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::usage(format!("--bearer-token-file {}: {e}", file.display())))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Failure::usage(format!("--bearer-token-file {}: holds no token", file.display())));
    }
    Ok(token.to_owned())
}

fn named(common: &Common) -> Result<Option<Address>, Failure> {
    common
        .server
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|e: crate::client::InvalidAddress| Failure::usage(e.to_string()))
}

fn here(socket: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(DEFAULT_DATA_DIR).join(socket);
    if listens(&path) {
        Ok(path)
    } else {
        Err(Failure::unable(format!("no server named, and nothing listens on ./{}", path.display()))
            .fix("start `countersign dev` here, or name a server with --server (COUNTERSIGN_SERVER)"))
    }
}

/// The policy that the flags name.
pub(crate) fn named_policy(common: &Common) -> Result<Option<PolicyName>, Failure> {
    let Some(text) = &common.policy else { return Ok(None) };
    let parsed = match text.split_once('/') {
        Some((namespace, name)) => match &common.namespace {
            Some(other) if other != namespace => {
                return Err(Failure::usage(format!("--policy {text} and --namespace {other} name different namespaces")));
            }
            _ => PolicyName::try_new(namespace, name),
        },
        None => PolicyName::try_new(common.namespace.as_deref().unwrap_or("default"), text),
    };
    parsed.map(Some).map_err(|e| Failure::usage(format!("--policy: {e}")))
}

/// The policy that the flags name, or the only one in the server's list at `path`.
pub(crate) async fn policy(session: &Session, client: &Client, path: &str) -> Result<PolicyName, Failure> {
    if let Some(policy) = named_policy(&session.common)? {
        return Ok(policy);
    }
    let ask = || Failure::usage("which policy?").fix("name it with --policy NS/NAME");
    let answer = client.get(path).await?;
    if !answer.ok() {
        return Err(ask());
    }
    let within = |name: &PolicyName| session.common.namespace.as_deref().is_none_or(|ns| ns == name.namespace());
    let names: Vec<PolicyName> = policies_of(&answer.body).into_iter().filter(within).collect();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::unable(format!("{} has no policy", client.address()))),
        several => {
            let list: Vec<String> = several.iter().map(|n| printable(n.as_str())).collect();
            Err(Failure::usage("which policy?").fix(format!("name it with --policy: {}", list.join(", "))))
        }
    }
}

/// The names in a listing `{"policies": [{"policy": …}]}`.
pub(crate) fn policies_of(listing: &Value) -> Vec<PolicyName> {
    let items = listing.get("policies").and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|p| p.get("policy")?.as_str()?.parse().ok()).collect()
}

/// The admin API's and the verifier's lists of policies.
pub(crate) const ADMIN_POLICIES: &str = "/admin/v1/policies";
pub(crate) const VERIFIER_POLICIES: &str = "/v1/policies";

/// Said before a command changes something.
pub(crate) fn announce(session: &Session, client: &Client, policy: &PolicyName) {
    session.printer.remark(&format!("{}, policy {policy}", client.address()));
}
