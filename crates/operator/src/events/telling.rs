//! How an event is written, and which one is another told again.
//!
//! What is said again of the same object soon after is one event with a count. Its text is part of what is said: the second key that
//! is revoked is told as such, and so is the second person for whom the glass was broken.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// How soon after the last time something is told *again*.
const SOON: SignedDuration = SignedDuration::from_mins(6);
/// How many texts of one reason and object are told apart at a time. Whatever comes beyond is counted on one event, so that nobody
/// fills the API server by having tokens minted.
const TOLD_APART: u32 = 25;
/// The longest name of an object, bytes.
const MAX_NAME: usize = 253;

/// What is said.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// `Normal` or `Warning`.
    pub(super) type_: &'static str,
    pub(super) reason: String,
    pub(super) note: String,
    pub(super) regarding: ObjectReference,
}

/// Writes what is said.
pub(super) struct Teller {
    client: Client,
    controller: &'static str,
    instance: String,
    told: Told,
}

/// What was told lately.
#[derive(Default)]
struct Told {
    hasher: RandomState,
    events: HashMap<u64, Last>,
    /// How many of them have one reason and object.
    alike: HashMap<u64, u32>,
    /// By time; of what was told again, only the last counts.
    order: VecDeque<(Timestamp, u64)>,
}

struct Last {
    name: String,
    count: i32,
    at: Timestamp,
    /// The key of reason and object.
    about: u64,
}

impl Teller {
    pub(super) fn new(client: Client, controller: &'static str, instance: &str) -> Self {
        Self { client, controller, instance: instance.to_owned(), told: Told::default() }
    }

    /// Writes it, as an event of its own or as one more time of the same.
    pub(super) async fn tell(&mut self, said: &Said, now: Timestamp) -> Result<(), kube::Error> {
        let events: Api<Event> =
            Api::namespaced(self.client.clone(), said.regarding.namespace.as_deref().unwrap_or("default"));
        self.told.forget(now);
        let (key, about) = self.told.keys(said);
        let count = self.told.events.get(&key).map_or(1, |last| last.count.saturating_add(1));
        if let Some(last) = self.told.events.get(&key) {
            let again = json!({"series": EventSeries { count, last_observed_time: MicroTime(now) }});
            match events.patch(&last.name, &PatchParams::default(), &Patch::Merge(&again)).await {
                Ok(_) => {
                    let name = last.name.clone();
                    self.told.note(key, Last { name, count, at: now, about });
                    return Ok(());
                }
                // Somebody deleted it.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(said, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        events.create(&PostParams::default(), &event).await?;
        self.told.note(key, Last { name, count: 1, at: now, about });
        Ok(())
    }

    fn event(&self, said: &Said, now: Timestamp) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name(said.regarding.name.as_deref().unwrap_or(self.controller), now)),
                namespace: said.regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(said.type_.to_owned()),
            reason: Some(said.reason.clone()),
            note: Some(said.note.clone()),
            action: Some("Reconcile".to_owned()),
            regarding: Some(said.regarding.clone()),
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

impl Told {
    /// The key of what is said, and that of its reason and object.
    fn keys(&self, said: &Said) -> (u64, u64) {
        let ObjectReference { kind, namespace, name, uid, .. } = &said.regarding;
        let about = self.hasher.hash_one((said.type_, &said.reason, kind, namespace, name, uid));
        let key = self.hasher.hash_one((about, &said.note));
        let is_one_more =
            !self.events.contains_key(&key) && self.alike.get(&about).is_some_and(|alike| *alike >= TOLD_APART);
        (if is_one_more { about } else { key }, about)
    }

    fn note(&mut self, key: u64, last: Last) {
        let (at, about) = (last.at, last.about);
        self.order.push_back((at, key));
        if self.events.insert(key, last).is_none() {
            *self.alike.entry(about).or_default() += 1;
        }
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.order.pop_front_if(|(at, _)| now.duration_since(*at) >= SOON) {
            let Some(last) = self.events.remove(&key) else { continue };
            if last.at != at {
                self.events.insert(key, last);
            } else if let Some(alike) = self.alike.get_mut(&last.about) {
                *alike -= 1;
                if *alike == 0 {
                    self.alike.remove(&last.about);
                }
            }
        }
    }
}

/// An event's name: the object's, as much of it as there is room for, and the time.
fn name(object: &str, now: Timestamp) -> String {
    let time = format!("{:x}", now.as_nanosecond());
    let room = object.floor_char_boundary(MAX_NAME - 1 - time.len());
    format!("{}.{time}", object[..room].trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use countersign_api::cluster::FIELD_MANAGER;
    use serde_json::Value;

    use super::*;
    use crate::scripted::ApiServer;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn said(note: &str) -> Said {
        let regarding = ObjectReference {
            kind: Some("AuthPolicy".into()),
            namespace: Some("shop".into()),
            name: Some("shop".into()),
            uid: Some("u1".into()),
            ..ObjectReference::default()
        };
        Said { type_: "Warning", reason: "KeyRevoked".into(), note: note.into(), regarding }
    }

    fn teller(server: &ApiServer) -> Teller {
        Teller::new(server.client(), FIELD_MANAGER, "a")
    }

    fn path(at: Timestamp) -> String {
        format!("/apis/events.k8s.io/v1/namespaces/shop/events/{}", name("shop", at))
    }

    fn told_at(server: &ApiServer, at: Timestamp) -> Option<(String, Value)> {
        let event = server.object(&path(at))?;
        Some((event["note"].as_str().unwrap().to_owned(), event["series"]["count"].clone()))
    }

    #[tokio::test]
    async fn what_differs_in_its_text_alone_is_told_too_and_what_is_said_again_is_counted() {
        let server = ApiServer::default();
        let mut teller = teller(&server);
        let at = |seconds| AT + SignedDuration::from_secs(seconds);
        for (second, note) in
            [(0, "key a is revoked"), (1, "key b is revoked"), (2, "key a is revoked"), (3, "key a is revoked")]
        {
            teller.tell(&said(note), at(second)).await.unwrap();
        }
        assert_eq!(told_at(&server, at(0)), Some(("key a is revoked".into(), 3.into())));
        assert_eq!(told_at(&server, at(1)), Some(("key b is revoked".into(), Value::Null)));
        assert_eq!((told_at(&server, at(2)), told_at(&server, at(3))), (None, None));
    }

    #[tokio::test]
    async fn long_after_or_after_somebody_deleted_it_an_event_is_told_anew_and_nothing_old_is_remembered() {
        let server = ApiServer::default();
        let mut teller = teller(&server);
        let (soon, later) = (AT + SignedDuration::from_mins(5), AT + SignedDuration::from_mins(12));
        teller.tell(&said("a"), AT).await.unwrap();
        server.delete(&path(AT));
        teller.tell(&said("a"), soon).await.unwrap();
        assert_eq!((told_at(&server, AT), told_at(&server, soon)), (None, Some(("a".into(), Value::Null))));

        teller.tell(&said("a"), later).await.unwrap();
        assert_eq!(told_at(&server, later), Some(("a".into(), Value::Null)));
        let told = &teller.told;
        assert_eq!((told.events.len(), told.order.len(), told.alike.values().sum::<u32>()), (1, 1, 1));
    }

    #[tokio::test]
    async fn whoever_has_very_much_told_of_one_object_gets_one_event_for_the_rest() {
        let server = ApiServer::default();
        let mut teller = teller(&server);
        for second in 0..100 {
            teller.tell(&said(&format!("token {second}")), AT + SignedDuration::from_secs(second)).await.unwrap();
        }
        let told: Vec<_> = (0..100).filter_map(|second| told_at(&server, AT + SignedDuration::from_secs(second))).collect();
        let apart = i64::from(TOLD_APART);
        let (rest, one_by_one) = told.split_last().unwrap();
        assert_eq!(one_by_one.len(), TOLD_APART as usize);
        assert_eq!(*rest, (format!("token {apart}"), (100 - apart).into()));
    }

    #[test]
    fn an_event_of_an_object_with_a_long_name_has_a_name_that_the_api_server_takes() {
        let (label, end) = ("a".repeat(63), "b".repeat(61));
        for object in [format!("{label}.{label}.{label}.{end}"), format!("{}.{end}", "a".repeat(235)), "shop".to_owned()] {
            let name = name(&object, Timestamp::from_second(1_795_331_686).unwrap());
            assert!(name.len() <= MAX_NAME, "{name}");
            assert!(name.split('.').all(|part| part.ends_with(|c: char| c.is_ascii_alphanumeric())), "{name}");
        }
    }
}
