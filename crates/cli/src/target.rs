//! Whom a command speaks to, and of which policy.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use countersign_core::names::PolicyName;
use serde_json::Value;

use crate::{
    Session,
    args::Common,
    client::{Address, Answer, Client, listens},
    cluster::{self, Cluster, connect::Source},
    consent,
    failure::Failure,
    output::printable,
};

/// Where `dev` keeps its data unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = ".countersign";
/// The admin API's socket in a data directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";
/// The verifier's socket in a data directory.
pub(crate) const VERIFIER_SOCKET: &str = "verifier.sock";

/// Whom a command speaks to.
pub(crate) enum Target {
    /// An admin API: `dev`'s, or an issuer's.
    Server(Client),
    /// A cluster's API server, and the operator behind it.
    Cluster(Arc<Cluster>),
}

/// What a command is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Look.
    Look,
    /// Change something: then there must be no doubt where.
    Change,
}

/// The target: the server that is named, else the cluster that is, else the data directory here; where nothing listens
/// there, the kubeconfig's current context, but to change that takes consent.
pub(crate) async fn find(session: &Session, intent: Intent) -> Result<Target, Failure> {
    if session.common.server.is_some() {
        return admin(session).map(Target::Server);
    }
    let source = match cluster::connect::named(&session.common, session.plugin) {
        Some(source) => source,
        None if unnamed_context_is_meant(session, intent)? => Source::Kubeconfig,
        None => return admin(session).map(Target::Server),
    };
    Ok(Target::Cluster(Arc::new(cluster::connect::connect(&session.common, source).await?)))
}

/// Whether, of nothing that was named, the kubeconfig's current context is meant.
fn unnamed_context_is_meant(session: &Session, intent: Intent) -> Result<bool, Failure> {
    let Some(context) = cluster::connect::present_context() else { return Ok(false) };
    let context = printable(&context);
    let here = listens(&Path::new(DEFAULT_DATA_DIR).join(ADMIN_SOCKET));
    match (here, intent) {
        (true, Intent::Look) => Ok(false),
        (true, Intent::Change) => context_is_meant(&context),
        (false, Intent::Look) => {
            session.printer.remark(&format!("cluster {context}: the kubeconfig's current context"));
            Ok(true)
        }
        (false, Intent::Change) => {
            let question = format!("Nothing was named, and no server listens here. Change cluster {context}?");
            let fix = format!("name it with --context {context}, or say yes with --yes");
            consent::confirm(session, &question).map(|()| true).map_err(|failure| Failure { fix: Some(fix), ..failure })
        }
    }
}

/// Where both a server here and a context could be meant, a person says which. Whether the context is.
fn context_is_meant(context: &str) -> Result<bool, Failure> {
    let socket = Path::new(DEFAULT_DATA_DIR).join(ADMIN_SOCKET);
    let choice = format!("a server listens on ./{}, and the kubeconfig has context {context}", socket.display());
    // `--yes` is no answer to "which".
    let Some(answer) = consent::ask(&format!("Which is meant: {choice}. [s]erver or [c]ontext?"))? else {
        let fix = format!("name one: --server unix:{}, or --context {context}", socket.display());
        return Err(Failure::usage(format!("which is meant: {choice}")).fix(fix));
    };
    match answer.as_str() {
        "s" | "server" => Ok(false),
        "c" | "context" => Ok(true),
        _ => Err(Failure::no("nothing was changed")),
    }
}

impl Target {
    /// The policy that the flags name, or the only one that there is.
    pub(crate) async fn policy(&self, session: &Session) -> Result<PolicyName, Failure> {
        match self {
            Self::Server(client) => policy(session, client, ADMIN_POLICIES).await,
            Self::Cluster(cluster) => {
                let namespace = session.common.namespace.as_deref().unwrap_or(cluster.namespace());
                if let Some(policy) = named_policy_in(&session.common, namespace)? {
                    return Ok(policy);
                }
                let found = cluster.list(Some(namespace)).await?;
                let names: Vec<PolicyName> = found.iter().filter_map(cluster::name_of).collect();
                the_only_one(&names, &format!("namespace {} of {cluster}", printable(namespace)))
            }
        }
    }

    /// The policy's rings, as the admin API has them.
    pub(crate) async fn keys(&self, policy: &PolicyName) -> Result<Value, Failure> {
        match self {
            Self::Server(client) => {
                let answer = client.get(&format!("/admin/v1/policies/{policy}/keys")).await?;
                of_policy(client, policy, answer).await
            }
            Self::Cluster(cluster) => Ok(cluster::rings::document(policy, &cluster.policy(policy).await?)),
        }
    }

    /// A new token, as the admin API has it.
    pub(crate) async fn mint(&self, policy: &PolicyName, order: &Value) -> Result<Value, Failure> {
        match self {
            Self::Server(client) => {
                let path = format!("/admin/v1/policies/{policy}/tokens");
                let answer = client.post(&path, order, std::time::Duration::ZERO).await?;
                of_policy(client, policy, answer).await
            }
            Self::Cluster(cluster) => cluster.operator_post(&cluster::operator::of_policy(policy, "tokens"), order).await,
        }
    }

    /// Said before a command changes something.
    pub(crate) fn announce(&self, session: &Session, policy: &PolicyName) {
        match self {
            Self::Server(client) => announce(session, client, policy),
            Self::Cluster(cluster) => session.printer.remark(&format!("{cluster}, policy {policy}")),
        }
    }
}

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
        None if cluster::connect::named(&session.common, session.plugin).is_some() => {
            return Err(Failure::usage("a verdict comes from one verifier, not from a cluster").fix(
                "name it with --server: on a node unix:/run/countersign/verifier.sock, in a pod \
                 http://countersign-verifier.countersign-system:7480, elsewhere by `kubectl port-forward`",
            ));
        }
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
        return Ok(path);
    }
    Err(Failure::unable(format!("no server named, and nothing listens on ./{}", path.display())).fix(
        "start `countersign dev` here, or name a server with --server (COUNTERSIGN_SERVER), or a cluster with --context",
    ))
}

/// The policy that the flags name, where a bare name is meant in namespace `default`.
pub(crate) fn named_policy(common: &Common) -> Result<Option<PolicyName>, Failure> {
    named_policy_in(common, common.namespace.as_deref().unwrap_or("default"))
}

fn named_policy_in(common: &Common, default_namespace: &str) -> Result<Option<PolicyName>, Failure> {
    let Some(text) = &common.policy else { return Ok(None) };
    let parsed = match text.split_once('/') {
        Some((namespace, name)) => match &common.namespace {
            Some(other) if other != namespace => {
                return Err(Failure::usage(format!("--policy {text} and --namespace {other} name different namespaces")));
            }
            _ => PolicyName::try_new(namespace, name),
        },
        None => PolicyName::try_new(default_namespace, text),
    };
    parsed.map(Some).map_err(|e| Failure::usage(format!("--policy: {e}")))
}

/// The policy that the flags name, or the only one in the server's list at `path`.
pub(crate) async fn policy(session: &Session, client: &Client, path: &str) -> Result<PolicyName, Failure> {
    if let Some(policy) = named_policy(&session.common)? {
        return Ok(policy);
    }
    let answer = client.get(path).await?;
    if !answer.ok() {
        return Err(Failure::usage("which policy?").fix("name it with --policy NS/NAME"));
    }
    let within = |name: &PolicyName| session.common.namespace.as_deref().is_none_or(|ns| ns == name.namespace());
    let names: Vec<PolicyName> = policies_of(&answer.body).into_iter().filter(within).collect();
    the_only_one(&names, &client.address().to_string())
}

/// The body of a success. Where the policy is unknown, the failure says which there are.
pub(crate) async fn of_policy(client: &Client, policy: &PolicyName, answer: Answer) -> Result<Value, Failure> {
    if answer.status == 404
        && let Ok(listing) = client.get(ADMIN_POLICIES).await
        && listing.ok()
    {
        let names = policies_of(&listing.body);
        if !names.contains(policy) {
            return Err(unknown_policy(policy, &names));
        }
    }
    answer.success()
}

/// What to say where a policy is named that there isn't.
pub(crate) fn unknown_policy(policy: &PolicyName, names: &[PolicyName]) -> Failure {
    let list: Vec<String> = names.iter().map(|n| printable(n.as_str())).collect();
    let there_are = if list.is_empty() { "there is none".to_owned() } else { format!("there are: {}", list.join(", ")) };
    Failure::unable(format!("there is no policy {policy}")).fix(there_are)
}

fn the_only_one(names: &[PolicyName], place: &str) -> Result<PolicyName, Failure> {
    match names {
        [one] => Ok(one.clone()),
        [] => Err(Failure::unable(format!("{place} has no policy"))),
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
