//! Who asks the operator, and who keeps whom from it.

use std::{net::IpAddr, sync::Arc};

use axum::{Json, Router, body::Body, routing::post};
use countersign_reviews::{Reviewer, TOKEN_HEADER};
use http::{Request, StatusCode};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use kube::Client;
use serde_json::{Value, json};

use crate::{
    feed::Cutoffs,
    mint::api::{self, Api},
    scripted::ApiServer,
    serving::Peer,
};

/// An API server that knows whoever shows `good-…`, and lets all of them do anything but `good-pod`.
fn reviewing() -> Client {
    async fn who(Json(mut review): Json<Value>) -> Json<Value> {
        let token = review["spec"]["token"].clone();
        let known = token.as_str().is_some_and(|token| token.starts_with("good-"));
        review["status"] = json!({"authenticated": known, "user": {"username": token}, "audiences": ["countersign"]});
        Json(review)
    }
    async fn may(Json(mut review): Json<Value>) -> Json<Value> {
        review["status"] = json!({"allowed": review["spec"]["user"] != "good-pod"});
        Json(review)
    }
    let routes = Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(who))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(may));
    Client::new(routes, "default")
}

#[tokio::test]
async fn strangers_elsewhere_keep_nobody_waiting_who_comes_from_where_others_were_let_in() {
    let (context, _inbox) = ApiServer::default().context();
    let api = Api { context, cutoffs: Arc::new(Cutoffs::new()), reviewer: Reviewer::new(reviewing()) };
    let routes = TowerToHyperService::new(api::routes(api));
    let asks = async |token: &str, from: [u8; 4]| {
        let request =
            Request::get("/operator/v1/status").header(TOKEN_HEADER, token).extension(Peer::at(IpAddr::from(from)));
        routes.call(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    let proxy = [10, 0, 0, 1];
    assert_eq!(asks("good-ann", proxy).await, StatusCode::OK);
    let mut heard = Vec::new();
    for n in 0..250 {
        heard.push(asks(&format!("made-up-{n}"), [10, 1, 0, n]).await);
    }
    assert_eq!(heard[0], StatusCode::UNAUTHORIZED);
    assert!(heard.contains(&StatusCode::SERVICE_UNAVAILABLE), "more than can be asked about: {heard:?}");
    assert_eq!(asks("good-ann", [10, 1, 0, 200]).await, StatusCode::OK, "whoever was let in comes from anywhere");
    assert_eq!(asks("good-bob", proxy).await, StatusCode::OK, "a token that nobody has shown before");
    heard.clear();
    for _ in 0..500 {
        heard.push(asks("good-pod", proxy).await);
    }
    assert_eq!(heard[0], StatusCode::FORBIDDEN);
    assert!(heard.contains(&StatusCode::SERVICE_UNAVAILABLE), "known, and never let in: {heard:?}");
    assert_eq!(asks("good-cat", proxy).await, StatusCode::OK);
}
