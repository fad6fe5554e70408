//! Requests made to be misread, and peers made to be waited for.

use std::{fmt::Write as _, time::Duration};

use serde_json::json;

use crate::{
    rig::{Bundles, Rig, section, token},
    wire::{Connection, request},
};

const VERIFY: &str = "/v1/policies/shop/shop/verify";

fn chunked(headers: &str, body: &str) -> String {
    format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_declared_twice_is_refused_and_the_connection_closed() {
    let (_bundles, rig) = Rig::ordinary().await;
    let body = json!({"token": token()}).to_string();
    let smuggled = "0\r\n\r\nGET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n";
    for headers in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", body.len()),
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n".into(),
        "TRANSFER-ENCODING:chunked\r\nX-Between: 1\r\nCONTENT-LENGTH:4\r\n".into(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".into(),
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n".into(),
        "Transfer-Encoding: gzip, chunked\r\n".into(),
        "Transfer-Encoding: chunked, chunked\r\n".into(),
        "Transfer-Encoding: chunked, identity\r\n".into(),
        "Transfer-Encoding: identity\r\n".into(),
        "Transfer-Encoding: xchunked\r\n".into(),
        "Transfer-Encoding:\x0bchunked\r\n".into(),
        "Transfer-Encoding : chunked\r\n".into(),
        "Transfer-Encoding\r\n : chunked\r\n".into(),
        "Content-Length: 4\r\nContent-Length: 5\r\n".into(),
        "Content-Length: +4\r\n".into(),
        "Content-Length: 4, 4\r\n".into(),
        "Content-Length: -1\r\n".into(),
        "Content-Length: 0x4\r\n".into(),
        "Content-Length: 99999999999999999999999\r\n".into(),
    ] {
        for bytewise in [false, true] {
            let mut connection = if bytewise { rig.tcp().await } else { rig.unix().await };
            let whole = chunked(&headers, &body) + smuggled;
            if bytewise {
                // Cut into many reads, as far as the kernel lets that be.
                for part in whole.as_bytes().chunks(7) {
                    if tokio::io::AsyncWriteExt::write_all(&mut connection.stream, part).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            } else {
                connection.send(&whole).await;
            }
            let answer = connection.answer().await.unwrap_or_else(|| panic!("{headers:?}: closed without an answer"));
            assert_eq!(answer.status, 400, "{headers:?}");
            assert!(connection.is_closed().await, "{headers:?}: what was smuggled got an answer");
        }
    }
    let mut old = rig.unix().await;
    old.send(format!("POST {VERIFY} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")).await;
    assert_eq!(old.answer().await.unwrap().status, 400);
    assert!(old.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_chunked_body_is_taken_and_the_connection_kept() {
    let (_bundles, rig) = Rig::ordinary().await;
    let body = json!({"token": token()}).to_string();
    let mut connection = rig.unix().await;
    for _ in 0..3 {
        connection.send(chunked("Transfer-Encoding: chunked\r\n", &body)).await;
        assert_eq!(connection.answer().await.unwrap().status, 200);
        connection.send(request("POST", VERIFY, &[], body.as_bytes())).await;
        assert_eq!(connection.answer().await.unwrap().status, 200);
    }
    let mut pieces = String::new();
    for piece in body.as_bytes().chunks(10) {
        write!(pieces, "{:x}\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap()).unwrap();
    }
    connection
        .send(format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n{pieces}0\r\n\r\n"))
        .await;
    assert_eq!(connection.answer().await.unwrap().status, 200);
    let big = "x".repeat(70 << 10);
    connection.send(chunked("Transfer-Encoding: chunked\r\n", &big)).await;
    assert_eq!(connection.answer().await.unwrap().status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let (_bundles, rig) = Rig::ordinary().await;
    let good = request("POST", VERIFY, &[], json!({"token": token()}).to_string().as_bytes());
    let bad = request("POST", VERIFY, &[], b"{\"token\":\"x\"}");
    let mut all = Vec::new();
    for _ in 0..20 {
        all.extend_from_slice(&good);
        all.extend_from_slice(&bad);
    }
    let mut connection = rig.unix().await;
    connection.send(&all).await;
    for _ in 0..20 {
        assert_eq!(connection.answer().await.unwrap().status, 200);
        assert_eq!(connection.answer().await.unwrap().status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_a_good_token_still_answered() {
    let (_bundles, rig) = Rig::ordinary().await;
    for bytes in [
        &b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"[..],
        b"GET\r\n\r\n",
        b"POST /v1 HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
        b"\r\n\r\n\r\n\x00\x00\x00",
    ] {
        let mut connection = rig.tcp().await;
        connection.send(bytes).await;
        if let Some(answer) = connection.answer().await {
            assert_eq!(answer.status, 400, "{bytes:?}");
        }
        assert!(connection.is_closed().await);
    }
    assert_eq!(rig.word(&token()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_wants_is_answered_before_it_ends() {
    let (_bundles, rig) = Rig::ordinary().await;
    let mut connection = rig.tcp().await;
    connection.send(format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")).await;
    assert_eq!(connection.answer().await.unwrap().status, 413);
    connection.send(vec![b'x'; 1_000_000]).await;
    connection.send("GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(connection.answer().await.unwrap().status, 200);
    let mut waiting = rig.tcp().await;
    waiting.send(format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\nExpect: 100-continue\r\n\r\n")).await;
    let told_to_go_on = waiting.answer().await.unwrap();
    assert_eq!(told_to_go_on.status, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_peers_are_given_up_one_by_one() {
    let (_bundles, rig) = Rig::ordinary().await;
    let mut slow_head = rig.tcp().await;
    slow_head.send("POST /v1/policies/shop/shop/verify HTTP/1.1\r\nHost: x\r\nX-Slow:").await;
    let mut slow_body = rig.tcp().await;
    slow_body.send(format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{{\"token\":")).await;
    let mut never_reads = rig.tcp().await;
    let flood = request(
        "POST",
        "/v1/policies/shop/shop/verify-batch",
        &[],
        json!({"items": vec![json!({"token": token()}); 1000]}).to_string().as_bytes(),
    );
    let flooding = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        // More than every buffer between us can hold; ends when the peer gives up.
        while never_reads.stream.write_all(&flood).await.is_ok() {}
    });
    for _ in 0..20 {
        assert_eq!(rig.word(&token()).await.0, 200, "others don't notice");
    }
    let patience = Duration::from_secs(25);
    let answer = tokio::time::timeout(patience, slow_body.answer()).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert!(slow_head.is_closed().await);
    tokio::time::timeout(patience, flooding).await.expect("a client that never reads is given up").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_keep_no_probe_from_its_answer() {
    let (_bundles, rig) = Rig::ordinary().await;
    let health = rig.verifier.addresses().verifier_health.unwrap();
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(Connection::tcp(health).await);
    }
    for _ in 0..5 {
        assert_eq!(rig.health("/healthz").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_told_so() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section());
    let rig = Rig::with(&bundles, countersign_verifier::Feed::Without, |config| config.max_connections = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = rig.unix().await;
        assert_eq!(connection.ask("GET", "/v1/feed", &[], "").await.status, 200);
        open.push(connection);
    }
    let mut over: Connection = rig.tcp().await;
    let refused = over.answer().await.unwrap();
    assert_eq!((refused.word(), refused.header("retry-after")), ((503, "overloaded".into()), Some("1")));
    assert!(over.is_closed().await);
    open.pop();
    crate::rig::eventually("a freed place is given again", async || {
        let mut connection = rig.tcp().await;
        connection.send("GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n").await;
        connection.answer().await.is_some_and(|a| a.status == 200)
    })
    .await;
}
