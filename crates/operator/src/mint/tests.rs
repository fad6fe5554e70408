//! What may be asked for, and what a stranger on the wire can do.

mod issuing;
mod strangers;

use std::sync::Arc;

use axum::{Router, http::StatusCode, routing::post};
use countersign_api::{
    policy::{AuthPolicySpec, EffectivePolicy, Switch},
    values::{Duration, Time},
};
use countersign_core::time::UnixMillis;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::{
    problem::Problem,
    request::{Asked, Kind, Wanted},
    server::{self, Server},
};

const NOW: UnixMillis = UnixMillis(1_800_000_000_123);

fn policy() -> EffectivePolicy {
    let spec: AuthPolicySpec = serde_json::from_value(json!({
        "audiences": ["shop-api", "shop-admin"], "issuer": "https://auth.shop.example",
        "roles": [{"name": "user", "permissions": ["orders:read"]}, {"name": "admin", "permissions": ["*"]}], "tokens": {"accessTTL": "10m", "apiKeyMaxTTL": "24h"},
    }))
    .unwrap();
    EffectivePolicy::try_from(&spec).unwrap()
}

fn wanted(body: Value) -> Result<Wanted, Problem> {
    let asked: Asked = serde_json::from_value(body).unwrap();
    asked.under(&policy(), NOW)
}

/// The same under a policy that takes emergency tokens until an hour from now.
fn wanted_in_emergency(body: Value) -> Result<Wanted, Problem> {
    let mut policy = policy();
    policy.emergency.mode = Switch::Enabled;
    policy.emergency.not_after = Some(Time(NOW.plus(3_600_000)));
    policy.emergency.max_ttl = Duration::hours(2);
    policy.emergency.roles = vec!["admin".into()];
    serde_json::from_value::<Asked>(body).unwrap().under(&policy, NOW)
}

#[test]
fn what_is_not_asked_for_is_the_policy_s() {
    let plain = wanted(json!({"subject": "alice"})).unwrap();
    assert_eq!((plain.kind, plain.ttl_ms), (Kind::Access, 600_000));
    assert_eq!(plain.audiences, ["shop-api", "shop-admin"]);
    assert_eq!((plain.roles.len(), plain.scopes.len(), plain.session_id, plain.warnings.len()), (0, 0, None, 0));
    let key = wanted(json!({"subject": "alice", "kind": "api_key", "roles": ["user"], "ttl_s": 86400})).unwrap();
    assert_eq!((key.kind, key.ttl_ms), (Kind::ApiKey, 86_400_000));
    let elsewhere = wanted(json!({"subject": "alice", "audiences": ["other"]})).unwrap();
    assert!(elsewhere.warnings[0].contains("wrong_audience"), "{:?}", elsewhere.warnings);
}

#[test]
fn what_goes_beyond_the_policy_is_refused_by_the_name_of_the_field() {
    for (body, field) in [
        (json!({"subject": ""}), "subject"),
        (json!({"subject": "a\nb"}), "subject"),
        (json!({"subject": "x".repeat(257)}), "subject"),
        (json!({"subject": "a", "roles": ["user", "root"]}), "root"),
        (json!({"subject": "a", "ttl_s": 601}), "accessTTL"),
        (json!({"subject": "a", "ttl_s": 0}), "ttl_s"),
        (json!({"subject": "a", "ttl_s": -5}), "ttl_s"),
        (json!({"subject": "a", "ttl_s": i64::MAX}), "ttl_s"),
        (json!({"subject": "a", "kind": "api_key", "ttl_s": 86401}), "apiKeyMaxTTL"),
        (json!({"subject": "a", "kind": "api_key", "session_id": "s"}), "session_id"),
        (json!({"subject": "a", "session_id": ""}), "session_id"),
        (json!({"subject": "a", "scopes": ["a b"]}), "scopes"),
        (json!({"subject": "a", "scopes": vec!["s"; 65]}), "scopes"),
        (json!({"subject": "a", "reason": "\u{7}"}), "reason"),
    ] {
        let problem = wanted(body.clone()).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert!(format!("{problem:?}").contains(field), "{body}: {problem:?}");
    }
}

#[test]
fn an_emergency_token_is_bounded_by_the_policy_s_emergency_and_by_nothing_else() {
    let body = json!({"subject": "alice", "emergency": true, "reason": "the pager is on fire", "roles": ["admin"]});
    let plain = wanted_in_emergency(body.clone()).unwrap();
    let end = Some(NOW.plus(3_600_000));
    assert_eq!((plain.kind, plain.ttl_ms, plain.emergency), (Kind::Access, 7_200_000, end));
    assert_eq!(plain.reason.as_deref(), Some("the pager is on fire"));
    let ordinary = wanted_in_emergency(json!({"subject": "alice", "emergency": false})).unwrap();
    assert_eq!((ordinary.ttl_ms, ordinary.emergency), (600_000, None));

    let with = |changes: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        body
    };
    for (changes, field) in [
        (json!({"reason": null}), "reason"),
        (json!({"reason": ""}), "reason"),
        (json!({"roles": ["admin", "user"]}), "spec.emergency.roles: user"),
        (json!({"ttl_s": 7201}), "emergency.maxTTL"),
        (json!({"kind": "api_key"}), "kind"),
    ] {
        let problem = wanted_in_emergency(with(changes)).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:?}");
        assert!(format!("{problem:?}").contains(field), "{problem:?}");
    }
    let disabled = wanted(body.clone()).unwrap_err();
    assert_eq!(disabled.status, StatusCode::FORBIDDEN);
    assert!(format!("{disabled:?}").contains("spec.emergency.mode is Disabled"), "{disabled:?}");
    let mut over = policy();
    over.emergency.mode = Switch::Enabled;
    over.emergency.not_after = Some(Time(NOW));
    let over = serde_json::from_value::<Asked>(body).unwrap().under(&over, NOW).unwrap_err();
    assert_eq!(over.status, StatusCode::FORBIDDEN);
    assert!(format!("{over:?}").contains("notAfter"), "{over:?}");
}

#[test]
fn unknown_members_are_errors() {
    for body in [json!({"subject": "a", "role": ["user"]}), json!({}), json!({"subject": "a", "kind": "refresh"})] {
        assert!(serde_json::from_value::<Asked>(body.clone()).is_err(), "{body}");
    }
}

/// A server under the real limits whose one route takes what it gets.
async fn listening() -> std::net::SocketAddr {
    let routes = Router::new().route("/", post(async |body: String| body.len().to_string()));
    let server = Server { routes: TowerToHyperService::new(routes), requests: Arc::new(Semaphore::new(1)) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = server::door("countersign-system", None).unwrap();
    tokio::spawn(async move { server.serve(&door, &listener, &TaskTracker::new()).await });
    address
}

/// Sends text over TLS and gives back all that comes.
pub(crate) async fn ask(address: std::net::SocketAddr, text: &str) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust::Anyone))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server may close without more ado.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_answers_one_request_and_heads_are_bounded() {
    let address = listening().await;
    let said = ask(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("\r\n3"), "{said}");
    let long = format!("POST / HTTP/1.1\r\nHost: x\r\nX-A: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(33_000));
    assert!(ask(address, &long).await.starts_with("HTTP/1.1 431"));
    let many = format!("POST / HTTP/1.1\r\nHost: x\r\n{}Content-Length: 0\r\n\r\n", "X-A: a\r\n".repeat(100));
    assert!(ask(address, &many).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_shown_the_door() {
    let address = listening().await;
    let begun = std::time::Instant::now();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), silent.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "no handshake");
    let said = ask(address, "POST / HTTP/1.1\r\nHost: x\r\n").await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_comes_keeps_nobody_else_waiting() {
    let address = listening().await;
    let slow = tokio::spawn(async move {
        let said = ask(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na").await;
        assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    });
    // There is one place for requests, and the slow one has begun before most of these.
    while !slow.is_finished() {
        let said = ask(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
    slow.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_its_limit_is_refused_unread() {
    let address = listening().await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n";
    let said = ask(address, &format!("{head}{}", "a".repeat(70_000))).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 413"), "{said}");
}

mod trust {
    //! The certificate is of the server's own making; who asks is proven by a token.

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
