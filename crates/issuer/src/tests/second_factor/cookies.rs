//! A login that wants cookies and needs a code.

use serde_json::json;

use super::{PASSWORD, Rig, code, enrolled, wide};

#[tokio::test]
async fn a_login_that_wanted_cookies_gets_them_with_its_code() {
    let rig = Rig::new(&format!("{}    cookies: {{mode: Enabled}}\n", wide())).await;
    let alice = enrolled(&rig, "alice").await;
    let body = json!({"username": "alice", "password": PASSWORD, "cookies": true});
    let asked = rig.post("/auth/login").json(body).send().await;
    assert_eq!(asked.body["requires_2fa"], true, "{}", asked.body);
    assert!(asked.headers.get("set-cookie").is_none(), "there is no session yet");
    let shown = json!({"challenge_id": asked.text("challenge_id"), "code": code(&rig, &alice.secret, 0).await});
    let foreign = rig.post("/auth/2fa/verify").header("origin", "https://evil.example").json(shown.clone()).send().await;
    assert_eq!(foreign.refusal(), (403, "csrf_failed"), "no page of another origin shows its own code in their place");
    let answer = rig.post("/auth/2fa/verify").json(shown).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.get("access_token").is_none() && answer.body.get("refresh_token").is_none());
    let set = answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap().split('=').next().unwrap());
    assert_eq!(set.collect::<Vec<_>>(), ["__Host-cs_access", "__Host-cs_refresh", "__Host-cs_device"]);
}
