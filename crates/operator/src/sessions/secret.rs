//! The Secret that a session is delivered as.

use std::collections::BTreeMap;

use countersign_api::{
    cluster::{
        FIELD_MANAGER, FORMAT, OWNER_UID_LABEL, SESSION_ENDS_ANNOTATION, SESSION_TOKEN_LABEL, SESSION_TOKEN_TYPE,
        session_token::{EXPIRES_AT, JWKS, SESSION_ID, TOKEN},
    },
    session::{EffectiveSession, Session},
};
use countersign_core::{
    jose::{Jwk, JwkSet},
    ring::{KeyState, RingKey},
    time::UnixMillis,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference},
};
use kube::Resource as _;
use serde_json::{Map, Value};

use super::times::Ends;
use crate::registry::OwnKeys;

/// Everything about a Secret but the token.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) session: &'a Session,
    pub(super) spec: &'a EffectiveSession,
    pub(super) jwks: &'a str,
    pub(super) ends: Ends,
}

/// A token and what the Secret says of it.
#[derive(Debug)]
pub(super) struct Content<'a> {
    pub(super) token: &'a str,
    pub(super) session_id: &'a str,
    pub(super) expires: UnixMillis,
}

/// Whether the operator made this Secret for that session. The type can't be changed after a Secret was made, and the label
/// names the one object that it was made for.
pub(super) fn is_ours(secret: &Secret, uid: &str) -> bool {
    let label = secret.metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID_LABEL));
    secret.type_.as_deref() == Some(SESSION_TOKEN_TYPE) && label.is_some_and(|label| label == uid)
}

/// A value of a Secret as text.
pub(super) fn value<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(key)?.0).ok()
}

/// When the session in a Secret ends, as it was told when the Secret was written.
pub(super) fn ends(secret: &Secret) -> Option<Ends> {
    Ends::parse(secret.metadata.annotations.as_ref()?.get(SESSION_ENDS_ANNOTATION)?)
}

/// The policy's public keys that verify, as a JWKS.
pub(super) fn jwks(own: &OwnKeys) -> String {
    let keys = own.rings.values().flat_map(|view| &view.ring.keys).filter(|key| key.state != KeyState::Revoked);
    let named = |key: &RingKey| {
        let mut jwk: Jwk = key.public.clone();
        jwk.kid = Some(key.kid.clone());
        jwk
    };
    let keys = keys.map(named).collect();
    serde_json::to_string(&JwkSet { keys }).expect("a key set always serialises")
}

impl Surroundings<'_> {
    /// Whether a Secret has all that it should beside a token, and nothing of ours that it shouldn't. What others added to it
    /// is theirs.
    pub(super) fn hold(&self, secret: &Secret, session_id: &str, expires: UnixMillis) -> bool {
        let has_all = |held: Option<&BTreeMap<String, String>>, wanted: BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| held.and_then(|held| held.get(key)) == Some(value))
        };
        let uid = self.session.metadata.uid.as_deref();
        let is_owned = secret.metadata.owner_references.iter().flatten().any(|owner| Some(owner.uid.as_str()) == uid);
        let has_surplus = |of: &str, wanted: &BTreeMap<String, String>| {
            applied_keys(secret, of).is_some_and(|applied| applied.keys().any(|key| !wanted.contains_key(key_of(key))))
        };
        is_owned
            && !has_surplus("f:labels", &self.labels())
            && !has_surplus("f:annotations", &self.annotations())
            && has_all(secret.metadata.labels.as_ref(), self.labels())
            && has_all(secret.metadata.annotations.as_ref(), self.annotations())
            && value(secret, JWKS) == Some(self.jwks)
            && value(secret, SESSION_ID) == Some(session_id)
            && value(secret, EXPIRES_AT) == Some(rfc3339(expires).as_str())
    }

    /// The Secret as it is applied. `before`: the one that is replaced; when it has changed meanwhile, or is another one, the
    /// API server refuses. Without one it is created.
    pub(super) fn with(&self, content: &Content<'_>, before: Option<&Secret>) -> Secret {
        let data = [
            (TOKEN, content.token),
            (SESSION_ID, content.session_id),
            (EXPIRES_AT, &rfc3339(content.expires)),
            (JWKS, self.jwks),
        ];
        let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())));
        let owner = OwnerReference {
            api_version: Session::api_version(&()).into_owned(),
            kind: Session::kind(&()).into_owned(),
            name: self.session.metadata.name.clone().unwrap_or_default(),
            uid: self.session.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        Secret {
            metadata: ObjectMeta {
                name: Some(self.spec.secret.name.clone()),
                namespace: self.session.metadata.namespace.clone(),
                labels: Some(self.labels()),
                annotations: Some(self.annotations()),
                owner_references: Some(vec![owner]),
                uid: before.and_then(|secret| secret.metadata.uid.clone()),
                resource_version: before.and_then(|secret| secret.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            type_: Some(SESSION_TOKEN_TYPE.to_owned()),
            data: Some(data.into()),
            ..Secret::default()
        }
    }

    /// The Secret as it is made, with what never changes of it.
    pub(super) fn first(&self, content: &Content<'_>) -> Secret {
        let mut secret = self.with(content, None);
        secret.metadata.labels = Some(self.own_labels());
        secret.metadata.annotations = Some(self.own_annotations());
        secret
    }

    /// Whether the spec asks for more than that.
    pub(super) fn asks_for_more(&self) -> bool {
        self.labels() != self.own_labels() || self.annotations() != self.own_annotations()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.spec.secret.labels.clone();
        labels.extend(self.own_labels());
        labels
    }

    fn own_labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        labels.insert(SESSION_TOKEN_LABEL.to_owned(), FORMAT.to_owned());
        labels.insert(OWNER_UID_LABEL.to_owned(), self.session.metadata.uid.clone().unwrap_or_default());
        labels
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = self.spec.secret.annotations.clone();
        annotations.extend(self.own_annotations());
        annotations
    }

    fn own_annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(SESSION_ENDS_ANNOTATION.to_owned(), self.ends.to_string())])
    }
}

/// Leaves of the fields' owners only ourselves.
pub(super) fn keep_own_fields(secret: &mut Secret) {
    if let Some(owners) = &mut secret.metadata.managed_fields {
        let is_ours = |owner: &ManagedFieldsEntry| {
            owner.manager.as_deref() == Some(FIELD_MANAGER) && owner.operation.as_deref() == Some("Apply")
        };
        owners.retain(is_ours);
    }
}

/// The labels or annotations that we applied, as the API server keeps account of them (`FieldsV1`).
fn applied_keys<'a>(secret: &'a Secret, of: &str) -> Option<&'a Map<String, Value>> {
    let owners = secret.metadata.managed_fields.iter().flatten();
    let ours = owners.filter(|owner| owner.manager.as_deref() == Some(FIELD_MANAGER));
    let mut fields = ours.filter_map(|owner| owner.fields_v1.as_ref());
    fields.find_map(|fields| fields.0.get("f:metadata")?.get(of)?.as_object())
}

/// A field's name as it stands in `FieldsV1`.
fn key_of(field: &str) -> &str {
    field.strip_prefix("f:").unwrap_or(field)
}

fn rfc3339(at: UnixMillis) -> String {
    at.to_string()
}
