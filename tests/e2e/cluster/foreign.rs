//! Another identity provider's keys, fetched from its address.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use super::world::{LONG, World, policy};
use crate::{
    forge::Provider,
    rig::{Setup, object_path},
};

/// A server that answers every request with one document. It ends with the process.
struct Server {
    address: String,
    document: Arc<Mutex<Value>>,
}

impl Server {
    fn start(document: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let document = Arc::new(Mutex::new(document));
        let served = document.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let body = served.lock().unwrap().to_string();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length";
                // Whoever asked may have gone.
                let _ = write!(&stream, "{head}: {}\r\n\r\n{body}", body.len());
            }
        });
        Self { address, document }
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_key_set_is_fetched_from_its_address_and_again_when_tokens_name_a_key_that_it_lacks() {
    let arguments = vec!["--jwks-allow-private".to_owned()];
    let world = World::with(Setup { nodes: 1, operators: 1, operator_arguments: arguments, ..Setup::default() });
    let [old, new] = [0, 1].map(|index| Provider::new("https://partner.example", index));
    let keys_of = |provider: &Provider, kid: &str| {
        let mut set = provider.jwks();
        let keys = set["keys"].as_array_mut().unwrap();
        keys.retain(|key| key["kid"] == "ed");
        keys[0]["kid"] = json!(kid);
        keys[0].clone()
    };
    let server = Server::start(json!({"keys": [keys_of(&old, "ed")]}));
    let mut wanted = policy("foreign", "shop");
    wanted["spec"]["trustedIssuers"] = json!([{
        "name": "partner", "issuer": "https://partner.example", "algorithms": ["EdDSA"], "maxTTL": "24h",
        "jwks": {"url": format!("http://{}/jwks", server.address)},
    }]);
    let policy = world.enforced(&wanted);
    let first = old.token("EdDSA");
    world.eventually(&policy, &first, (200, "valid"));

    let header = json!({"alg": "EdDSA", "kid": "next", "typ": "JWT"});
    let second = new.seal(header.to_string(), new.claims().to_string(), "EdDSA");
    assert!(world.verdicts(&policy, &second).iter().all(|(status, _)| *status != 200));
    *server.document.lock().unwrap() = json!({"keys": [keys_of(&old, "ed"), keys_of(&new, "next")]});
    // Asking about it again is what tells of it.
    world.eventually(&policy, &second, (200, "valid"));
    world.eventually(&policy, &first, (200, "valid"));

    // A set that turned bad takes nothing away.
    *server.document.lock().unwrap() = json!({"keys": "none"});
    world.verdicts(
        &policy,
        &new.seal(json!({"alg": "EdDSA", "kid": "other"}).to_string(), new.claims().to_string(), "EdDSA"),
    );
    world.api().wait_condition(&object_path(&policy), "Enforced", "True", LONG);
    assert_eq!(world.verdicts(&policy, &first), [(200, "valid".to_owned())].into());
}
