//! Start, takeover, drain, certificates.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::Arc,
    time::Duration,
};

use countersign_verifier::{Feed, StartError};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::json;
use tokio_rustls::TlsConnector;

use crate::{
    rig::{Bundles, Rig, eventually, section, token},
    wire::{Connection, request},
};

const VERIFY: &str = "/v1/policies/shop/shop/verify";

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_has_begun_and_closes_the_rest() {
    let (_bundles, rig) = Rig::ordinary().await;
    let body = json!({"token": token()}).to_string();
    let mut half = rig.unix().await;
    half.send(&request("POST", VERIFY, &[], body.as_bytes())[..120]).await;
    let mut idle = rig.tcp().await;
    assert_eq!(idle.ask("GET", "/v1/feed", &[], "").await.header("connection"), None);
    let mut busy = rig.tcp().await;
    assert_eq!(busy.ask("GET", "/v1/feed", &[], "").await.status, 200);
    let health = rig.verifier.addresses().verifier_health.unwrap();
    let socket = rig.socket.clone();
    let Rig { verifier, .. } = rig;
    let ending = tokio::spawn(verifier.shutdown());
    eventually("not ready while draining", async || {
        let mut connection = Connection::tcp(health).await;
        connection.ask("GET", "/readyz", &[], "").await.status == 503
    })
    .await;
    let last = busy.ask("GET", "/v1/feed", &[], "").await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(busy.is_closed().await);
    half.send(&request("POST", VERIFY, &[], body.as_bytes())[120..]).await;
    assert_eq!(half.answer().await.unwrap().status, 200);
    assert!(idle.is_closed().await);
    tokio::time::timeout(Duration::from_secs(10), ending).await.unwrap().unwrap();
    assert!(!socket.exists(), "the socket is gone with its process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_the_socket_over_and_no_request_fails() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section());
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("verifier.sock");
    let on = |config: &mut countersign_verifier::Config| config.socket = Some(path.clone());
    let mut current = Rig::with(&bundles, Feed::Without, on).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (path, stopped) = (path.clone(), stopped.clone());
            tokio::spawn(async move {
                let bytes = request("POST", VERIFY, &[], json!({"token": token()}).to_string().as_bytes());
                let mut answers = 0_u32;
                while !*stopped.borrow() {
                    let mut connection = Connection::unix(&path).await;
                    loop {
                        connection.send(&bytes).await;
                        let answer = connection.answer().await.expect("a request was dropped");
                        assert_eq!(answer.status, 200);
                        answers += 1;
                        if answer.header("connection") == Some("close") || *stopped.borrow() {
                            break;
                        }
                    }
                }
                answers
            })
        })
        .collect();
    for _ in 0..3 {
        let next = Rig::with(&bundles, Feed::Without, on).await;
        let inode = std::fs::metadata(&path).unwrap().ino();
        let before = std::mem::replace(&mut current, next);
        let Rig { verifier, .. } = before;
        verifier.shutdown().await;
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode, "the old process left the new one's socket alone");
    }
    stop.send(true).unwrap();
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_bound_is_said() {
    let (bundles, rig) = Rig::ordinary().await;
    let taken = rig.verifier.addresses().verifier.unwrap();
    let error = Rig::try_with(&bundles, Feed::Without, |config| config.listen = Some(taken)).await.err().unwrap();
    assert!(matches!(error, StartError::Bind(_)) && error.to_string().contains(&taken.to_string()), "{error}");
    let long = format!("/tmp/{}", "x".repeat(120));
    let error = Rig::try_with(&bundles, Feed::Without, |config| config.socket = Some(long.into())).await.err().unwrap();
    assert!(error.to_string().contains("107"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_that_were_bound_are_written_down() {
    let bundles = Bundles::new();
    let data = tempfile::tempdir().unwrap();
    let rig = Rig::with(&bundles, Feed::Without, |config| config.data_dir = Some(data.path().to_owned())).await;
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data.path().join("addresses.json")).unwrap()).unwrap();
    assert_eq!(written["verifier"], rig.verifier.addresses().verifier.unwrap().to_string());
    assert_eq!(written["verifier_health"], rig.verifier.addresses().verifier_health.unwrap().to_string());
}

struct Certificate {
    pem: String,
    key: String,
    der: rustls::pki_types::CertificateDer<'static>,
}

fn certificate() -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    Certificate { pem: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

async fn over_tls(address: std::net::SocketAddr, trusted: &Certificate) -> std::io::Result<Connection> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    Ok(Connection::over(stream))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_the_certificate_that_is_on_disk_now() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section());
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let (first, second) = (certificate(), certificate());
    let put = |pem: &str, private: &str| {
        std::fs::write(&cert, pem).unwrap();
        std::fs::write(&key, private).unwrap();
    };
    put(&first.pem, &second.key);
    let tls = countersign_verifier::config::TlsFiles { cert: cert.clone(), key: key.clone() };
    let mixed = Rig::try_with(&bundles, Feed::Without, |config| config.tls = Some(tls.clone())).await.err().unwrap();
    assert!(matches!(mixed, StartError::Tls(_)), "{mixed}");
    put(&first.pem, &first.key);
    let rig = Rig::with(&bundles, Feed::Without, |config| config.tls = Some(tls)).await;
    let address = rig.verifier.addresses().verifier.unwrap();
    let body = json!({"token": token()}).to_string();
    let answer = over_tls(address, &first).await.unwrap().ask("POST", VERIFY, &[], &body).await;
    assert_eq!(answer.status, 200);
    // The socket needs none; the health port takes both, since probes come without.
    assert_eq!(rig.word(&token()).await.0, 200);
    assert_eq!(rig.health("/readyz").await.status, 200);
    let health = rig.verifier.addresses().verifier_health.unwrap();
    assert_eq!(over_tls(health, &first).await.unwrap().ask("GET", "/readyz", &[], "").await.status, 200);
    let mut plain = rig.tcp().await;
    plain.send("GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let said = tokio::time::timeout(Duration::from_secs(10), async {
        let mut all = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain.stream, &mut all).await;
        all
    });
    assert!(!String::from_utf8_lossy(&said.await.unwrap()).contains("position"), "TLS is not optional");

    put("nonsense", "nonsense");
    put(&second.pem, &second.key);
    eventually("the new certificate is served", async || over_tls(address, &second).await.is_ok()).await;
    assert!(over_tls(address, &first).await.is_err());
}
