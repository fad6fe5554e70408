//! Trusted issuers whose keys are fetched.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use countersign_api::bundle::{BundleIssuer, BundleIssuerKeys};
use countersign_core::{jose::Algorithm, keys::SigningKey};
use countersign_verifier::Feed;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{AUDIENCE, Bundles, Rig, eventually, keys, section, token, token_with};

/// An identity provider's HTTP side: answers by path, counts what it was asked.
struct Provider {
    address: SocketAddr,
    pages: Arc<Mutex<Vec<(String, u16, String)>>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self { address: listener.local_addr().unwrap(), pages: Arc::default(), asked: Arc::default() };
        let (pages, asked) = (provider.pages.clone(), provider.asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (pages, asked) = (pages.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut request = vec![0; 8192];
                    let n = stream.read(&mut request).await.unwrap_or(0);
                    let text = String::from_utf8_lossy(&request[..n]).into_owned();
                    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    asked.fetch_add(1, Relaxed);
                    let page = pages.lock().iter().find(|(p, ..)| *p == path).cloned();
                    let (status, body) = page.map_or((404, String::new()), |(_, status, body)| (status, body));
                    let location = if status == 302 { "Location: /jwks\r\n" } else { "" };
                    let head = format!(
                        "HTTP/1.1 {status} X\r\n{location}Connection: close\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all((head + &body).as_bytes()).await;
                });
            }
        });
        provider
    }

    fn put(&self, path: &str, status: u16, body: impl std::fmt::Display) {
        let mut pages = self.pages.lock();
        pages.retain(|(p, ..)| p != path);
        pages.push((path.into(), status, body.to_string()));
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn set_of(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|k| k.public_jwk()).collect::<Vec<_>>()})
}

fn trusting(name: &str, issuer: &str, url: Option<String>) -> BundleIssuer {
    BundleIssuer {
        name: name.into(),
        issuer: Some(issuer.into()),
        any_issuer: false,
        audiences: Some(vec![AUDIENCE.into()]),
        algorithms: vec![Algorithm::EdDSA],
        keys: BundleIssuerKeys::Fetch { url },
        max_ttl_ms: None,
        not_after: None,
        matches: Vec::new(),
        subject: None,
        roles: None,
        scopes: None,
    }
}

fn foreign(key: &SigningKey, issuer: &str) -> String {
    token_with(key, &json!({"iss": issuer, "iat_ms": null}))
}

fn private(config: &mut countersign_verifier::Config) {
    config.fetch_rules.allow_private = true;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_kept_and_looked_for_again() {
    let provider = Provider::start().await;
    provider.put("/jwks", 200, set_of(&[&keys().foreign]));
    let issuer = "https://idp.example";
    let bundles = Bundles::new();
    let data = tempfile::tempdir().unwrap();
    let mut verify = section();
    verify.trusted_issuers = vec![trusting("idp", issuer, Some(provider.url("/jwks")))];
    bundles.put_policy("shop/shop", 1, verify);
    let on = |config: &mut countersign_verifier::Config| {
        private(config);
        config.data_dir = Some(data.path().to_owned());
    };
    let rig = Rig::with(&bundles, Feed::Without, on).await;
    let told = rig.verify("shop/shop", json!({"token": foreign(&keys().foreign, issuer)})).await.json();
    assert_eq!((&told["verdict"], &told["kind"], &told["roles"]), (&json!("valid"), &json!("external"), &json!([])));

    // A rotation at the provider: the first token of the new key is refused, and makes us look.
    provider.put("/jwks", 200, set_of(&[&keys().foreign, &keys().next]));
    let asked = provider.asked.load(Relaxed);
    let new = foreign(&keys().next, issuer);
    for _ in 0..50 {
        assert_eq!(rig.word(&new).await, (401, "unknown_key".into()));
    }
    rig.eventually_word(&new, 200, "valid").await;
    assert_eq!(provider.asked.load(Relaxed) - asked, 1, "fifty tokens are one question");

    rig.verifier.shutdown().await;
    // The provider is away: the last good set is.
    provider.put("/jwks", 500, "");
    let again = Rig::with(&bundles, Feed::Without, on).await;
    assert_eq!(again.word(&new).await, (200, "valid".into()));
    assert_eq!(again.word(&token()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_answer_is_a_failed_fetch_and_troubles_no_other_issuer() {
    let provider = Provider::start().await;
    provider.put("/good", 200, set_of(&[&keys().foreign]));
    provider.put("/jwks", 200, set_of(&[&keys().foreign]));
    let rsa_only = json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "weak"}]});
    for (path, status, body) in [
        ("/empty", 200, json!({"keys": []}).to_string()),
        ("/weak", 200, rsa_only.to_string()),
        ("/html", 200, "<html>".into()),
        ("/moved", 302, String::new()),
        ("/big", 200, format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(2 << 20))),
        ("/twice", 200, "{\"keys\":[],\"keys\":[]}".into()),
    ] {
        provider.put(path, status, body);
    }
    let bundles = Bundles::new();
    let mut verify = section();
    let paths = ["/empty", "/weak", "/html", "/moved", "/big", "/twice", "/missing", "/good"];
    verify.trusted_issuers =
        paths.iter().map(|p| trusting(&p[1..], &format!("https://idp.example{p}"), Some(provider.url(p)))).collect();
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::with(&bundles, Feed::Without, private).await;
    for path in &paths[..7] {
        let said = rig.word(&foreign(&keys().foreign, &format!("https://idp.example{path}"))).await;
        assert_eq!(said, (503, "not_ready".into()), "{path}: nothing is known of its keys");
    }
    assert_eq!(rig.word(&foreign(&keys().foreign, "https://idp.example/good")).await.0, 200);
    let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
    for (result, n) in [("ok", 1), ("status", 2), ("too_large", 1), ("no_usable_key", 2), ("invalid", 2)] {
        let line = format!("countersign_jwks_fetches_total{{result=\"{result}\"}} {n}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_is_believed_only_about_its_own_issuer() {
    let provider = Provider::start().await;
    provider.put("/jwks", 200, set_of(&[&keys().foreign]));
    let document = |issuer: &str| json!({"issuer": issuer, "jwks_uri": provider.url("/jwks")});
    let (good, liar) = (provider.url("/good"), provider.url("/liar"));
    provider.put("/good/.well-known/openid-configuration", 200, document(&good));
    provider.put("/liar/.well-known/openid-configuration", 200, document(&good));
    let bundles = Bundles::new();
    let mut verify = section();
    verify.trusted_issuers = vec![trusting("good", &good, None), trusting("liar", &liar, None)];
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::with(&bundles, Feed::Without, private).await;
    assert_eq!(rig.word(&foreign(&keys().foreign, &good)).await.0, 200);
    assert_eq!(rig.word(&foreign(&keys().foreign, &liar)).await, (503, "not_ready".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_never_asked() {
    let provider = Provider::start().await;
    provider.put("/jwks", 200, set_of(&[&keys().foreign]));
    let bundles = Bundles::new();
    let mut verify = section();
    let by_name = format!("https://localhost:{}/jwks", provider.address.port());
    let by_address = format!("https://{}/jwks", provider.address);
    verify.trusted_issuers = vec![
        trusting("a", "https://a.example", Some(provider.url("/jwks"))),
        trusting("b", "https://b.example", Some(by_name)),
        trusting("c", "https://c.example", Some(by_address)),
    ];
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::on(&bundles).await;
    eventually("all three were refused", async || {
        let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
        metrics.contains("countersign_jwks_fetches_total{result=\"forbidden\"} 3\n")
    })
    .await;
    assert_eq!(provider.asked.load(Relaxed), 0);
}
