//! The command line's API on an operator that doesn't lead: bytes go on to the one that does.
//!
//! The Service knows operators and not which of them leads. Callers speak TLS with the leader through here; nothing of what
//! they say is read, and nothing is decided.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use countersign_api::cluster::{COMPONENT_LABEL, LEASE, OPERATOR};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, Client, api::ListParams};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use crate::config::Config;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a caller may take to begin: the leader is looked for then, and not before.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// How long the leader may take to be found and reached.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may last; the leader's own bound is shorter.
const CONNECTION_WITHIN: Duration = Duration::from_secs(90);
/// A pause when the system has nothing to give.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Why a connection isn't passed on. Its caller sees it closed.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    #[error("the API server: {0}")]
    ApiServer(#[from] kube::Error),
    #[error("nobody leads")]
    NoLeader,
    #[error("the leader {0} is no pod with an address")]
    NoAddress(String),
    #[error("the leader at {0}: {1}")]
    Connection(SocketAddr, io::Error),
    #[error("not within {} s", REACHED_WITHIN.as_secs())]
    TooLate,
}

/// Listens where a leader would, until it is dropped: whoever begins to lead listens there then.
pub(crate) async fn run(client: Client, config: Arc<Config>) -> Infallible {
    let Some(address) = config.listen else { return std::future::pending().await };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            // Leading needs the address and will say so; waiting doesn't.
            tracing::warn!(%error, %address, "calls of the command line can't be passed on from here");
            return std::future::pending().await;
        }
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return std::future::pending().await };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (client, config) = (client.clone(), config.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    pass_on(stream, client, &config).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

async fn pass_on(mut caller: TcpStream, client: Client, config: &Config) {
    if !begins(&caller).await {
        return;
    }
    let reached = timeout(REACHED_WITHIN, reach_leader(client, config)).await.unwrap_or(Err(Unreached::TooLate));
    match reached {
        Ok(mut leader) => drop(timeout(CONNECTION_WITHIN, converse(&mut caller, &mut leader)).await),
        Err(error) => tracing::warn!(%error, "a call of the command line can't be passed on to the leader"),
    }
}

/// Whether a caller says anything.
async fn begins(caller: &TcpStream) -> bool {
    matches!(timeout(BEGINS_WITHIN, caller.peek(&mut [0])).await, Ok(Ok(read)) if read > 0)
}

/// Passes bytes on until either side closes: nothing sensible comes after that, and a place is held no longer.
async fn converse(caller: &mut (impl AsyncRead + AsyncWrite + Unpin), leader: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let ((mut from_caller, mut to_caller), (mut from_leader, mut to_leader)) =
        (tokio::io::split(caller), tokio::io::split(leader));
    // An error is a close like another; nobody is left to tell.
    tokio::select! {
        _ = copy(&mut from_caller, &mut to_leader) => {}
        _ = copy(&mut from_leader, &mut to_caller) => {}
    }
}

async fn reach_leader(client: Client, config: &Config) -> Result<TcpStream, Unreached> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &config.system_namespace);
    let lease = leases.get_opt(LEASE).await?;
    let holder = lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
    let holder = holder.ok_or(Unreached::NoLeader)?;
    if holder == config.identity {
        return Err(Unreached::NoLeader);
    }
    let pods: Api<Pod> = Api::namespaced(client, &config.system_namespace);
    let ours =
        ListParams::default().labels(&format!("{COMPONENT_LABEL}={OPERATOR}")).fields(&format!("metadata.name={holder}"));
    let pod = pods.list(&ours).await?.items.pop();
    let ip = pod.and_then(|pod| pod.status?.pod_ip).and_then(|ip| ip.parse().ok());
    let port = config.listen.map_or(countersign_api::cluster::ports::OPERATOR, |address| address.port());
    let address = SocketAddr::new(ip.ok_or(Unreached::NoAddress(holder))?, port);
    TcpStream::connect(address).await.map_err(|error| Unreached::Connection(address, error))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_conversation_ends_when_either_side_closes_and_what_was_said_before_arrives() {
        for leader_closes in [true, false] {
            let ((mut caller, mut near), (mut far, mut leader)) = (duplex(64), duplex(64));
            let passed = tokio::spawn(async move { converse(&mut near, &mut far).await });
            caller.write_all(b"ask").await.unwrap();
            let mut heard = [0; 3];
            leader.read_exact(&mut heard).await.unwrap();
            leader.write_all(b"answer").await.unwrap();
            if leader_closes {
                drop(leader);
                let mut answer = Vec::new();
                caller.read_to_end(&mut answer).await.unwrap();
                assert_eq!((&heard, answer.as_slice()), (b"ask", &b"answer"[..]));
            } else {
                drop(caller);
            }
            tokio::time::timeout(Duration::from_secs(10), passed).await.expect("it ended").unwrap();
        }
    }

    #[tokio::test]
    async fn a_caller_that_says_nothing_is_not_passed_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(!begins(&accepted).await);
        drop(silent);
    }
}
