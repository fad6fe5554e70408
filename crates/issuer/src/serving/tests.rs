use countersign_process::ServingTls;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};

use super::*;
use crate::tests::rig::{QUICK, Rig};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a listener says to one request, before it closes.
async fn said(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let mut all = Vec::new();
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: auth.shop.example\r\nConnection: close\r\n\r\n").await;
    // Whoever doesn't like how a connection begins may be gone already.
    let _ = (asked, tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end"));
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_every_listeners_and_healths_takes_plain_http_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = ServingTls::load(&cert, &key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = TlsConnector::from(Arc::new(client));

    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (public, health, admin) = (bind().await, bind().await, bind().await);
    let [at_public, at_health, at_admin] = [&public, &health, &admin].map(|listener| listener.local_addr().unwrap());
    let admin_socket = AdminSocket::bind(&directory.path().join("admin.sock")).unwrap();
    let listeners = Listeners { public, health, admin, tls: Some(tls.acceptor()), admin_socket, vouched: None };
    let (rig, stop) = (Rig::new(QUICK).await, CancellationToken::new());
    let (issuer, until) = (rig.issuer.clone(), stop.clone());
    let serving = tokio::spawn(async move { issuer.serve(listeners, until).await });
    for (address, takes_plain) in [(at_public, false), (at_health, true), (at_admin, false)] {
        let stream = TcpStream::connect(address).await.unwrap();
        let encrypted = client.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        assert!(said(encrypted).await.starts_with("HTTP/1.1"), "{address}");
        let plain = said(TcpStream::connect(address).await.unwrap()).await;
        assert_eq!(plain.starts_with("HTTP/1.1 200"), takes_plain, "{address}: {plain}");
        assert!(takes_plain || !plain.contains("HTTP/1.1"), "{address}: {plain}");
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, serving).await.expect("it ends").unwrap();
}
