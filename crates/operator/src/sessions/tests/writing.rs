//! Plans carried out against an API server: what is written over what.

use super::{
    super::{
        apply::{ApplyError, Applying},
        lately::Lately,
        steps::Reason,
        times::Ends,
    },
    *,
};
use crate::{run::Context, scripted::ApiServer};

const SESSION: &str = "/apis/countersign.dev/v1alpha1/namespaces/shop/sessions/billing";
const SECRET: &str = "/api/v1/namespaces/shop/secrets/billing-token";
const SESSION_ID: &str = "0190d5a0-0000-7000-8000-000000000001";

/// A session whose Secret no watch has shown yet.
struct Delivery {
    server: ApiServer,
    context: Context,
    world: World,
    session: Session,
}

impl Delivery {
    fn new() -> Self {
        let server = ApiServer::default();
        let (context, _) = server.context();
        let mut world = World::new();
        world.edit(|spec| spec.secret.labels = Some([("team".to_owned(), "billing".to_owned())].into()));
        context.registry.publish(world.view.clone());
        let now = countersign_feed::Clock::wall();
        context.registry.set_feed(crate::registry::FeedPresent {
            fresh: true,
            server_time: Some((now, countersign_feed::Clock::boot_millis())),
            ..crate::registry::FeedPresent::default()
        });
        server.edit(SESSION, |held| *held = serde_json::to_value(&world.session).unwrap());
        let session = serde_json::from_value(server.object(SESSION).unwrap()).unwrap();
        Self { server, context, world, session }
    }

    async fn deliver(&self, secret: Option<&Secret>) -> Result<Outcome, ApplyError> {
        let spec = EffectiveSession::try_from(&self.session).unwrap();
        let applying = Applying {
            context: &self.context,
            cutoffs: &self.world.cutoffs,
            session: &self.session,
            spec: Some(&spec),
            policy: Some(&self.world.view.name),
            view: Some(&self.world.view),
            secret,
            now: countersign_feed::Clock::wall(),
            lately: &Lately::default(),
        };
        let deliver = Step::Deliver { session_id: SESSION_ID.to_owned(), ends: Ends::Never, first: true };
        let outcome = Outcome::Issued { session_id: SESSION_ID.to_owned(), token: None };
        applying.apply(Plan { steps: vec![deliver], outcome, wake: None }).await
    }

    fn put(&self, labels: &serde_json::Value) -> serde_json::Value {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "countersign.dev/session-token",
            "metadata": {"namespace": "shop", "name": "billing-token", "labels": labels}, "data": {"token": "bWluZQ=="}});
        self.server.edit(SECRET, |held| *held = secret);
        self.server.object(SECRET).unwrap()
    }

    fn session_id(&self) -> String {
        let secret: Secret = serde_json::from_value(self.server.object(SECRET).unwrap()).unwrap();
        secret::value(&secret, "session-id").unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn a_secret_that_was_made_for_nobody_or_another_session_is_never_written_though_no_watch_showed_it() {
    for labels in [json!({}), json!({"countersign.dev/owner-uid": "another", "countersign.dev/session-token": "v1"})] {
        let delivery = Delivery::new();
        let before = delivery.put(&labels);
        let outcome = delivery.deliver(None).await.unwrap();
        assert!(matches!(outcome, Outcome::Refused { reason: Reason::SecretConflict, .. }), "{labels}: {outcome:?}");
        assert_eq!(delivery.server.object(SECRET).unwrap(), before, "{labels}");
        let status = &delivery.server.object(SESSION).unwrap()["status"];
        assert_eq!(status["conditions"][0]["reason"], "SecretConflict");
    }
}

#[tokio::test]
async fn a_secret_is_created_with_all_that_is_asked_for_and_one_of_ours_is_found_again() {
    let delivery = Delivery::new();
    let outcome = delivery.deliver(None).await.unwrap();
    assert!(matches!(outcome, Outcome::Issued { token: Some(_), .. }), "{outcome:?}");
    let made = delivery.server.object(SECRET).unwrap();
    assert_eq!(made["metadata"]["labels"]["team"], "billing");
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], UID);
    assert_eq!(delivery.session_id(), SESSION_ID);

    let delivery = Delivery::new();
    delivery.put(&json!({"countersign.dev/owner-uid": UID}));
    let outcome = delivery.deliver(None).await.unwrap();
    assert!(matches!(outcome, Outcome::Issued { token: Some(_), .. }), "{outcome:?}");
    assert_eq!(delivery.session_id(), SESSION_ID);
}

#[tokio::test]
async fn a_secret_that_changed_since_it_was_looked_at_is_looked_at_again() {
    let delivery = Delivery::new();
    let seen: Secret = serde_json::from_value(delivery.put(&json!({"countersign.dev/owner-uid": UID}))).unwrap();
    delivery.put(&json!({"countersign.dev/owner-uid": "another"}));
    let refused = delivery.deliver(Some(&seen)).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Changed(_)), "{refused}");
    assert_eq!(delivery.session_id(), "");
}

#[tokio::test]
async fn a_token_is_made_by_what_the_policy_grants_at_that_moment_and_not_by_what_was_planned_on() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 4] = [
        ("a role is granted no more", |world| {
            world.edit_policy(|policy| policy.declared_sessions.roles = vec!["admin".into()]);
        }),
        ("it is another policy of that name", |world| world.view.uid = "another".into()),
        ("it is withdrawn", |world| world.view.withdrawn = true),
        ("the session was ended", |world| world.end(Kind::Session, SESSION_ID, UnixMillis::FOREVER)),
    ];
    for (what, change) in cases {
        let mut delivery = Delivery::new();
        let planned = delivery.world.view.clone();
        change(&mut delivery.world);
        delivery.context.registry.publish(std::mem::replace(&mut delivery.world.view, planned));
        let refused = delivery.deliver(None).await.unwrap_err();
        assert!(matches!(refused, ApplyError::Changed(_)), "{what}: {refused}");
        assert_eq!(delivery.server.object(SECRET), None, "{what}");
    }
}
