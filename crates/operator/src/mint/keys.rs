//! A policy's rings as the command line shows them; the same shape as the issuer's.

use countersign_api::bundle::RingName;
use serde_json::{Value, json};

use crate::registry::PolicyView;

pub(super) fn shown(view: &PolicyView) -> Value {
    let (mut rings, mut status) = (json!({"access": [], "api_key": []}), json!({}));
    for name in RingName::ALL {
        let Some(ring) = view.own.as_ref().and_then(|own| own.ring(name)) else { continue };
        rings[name.word()] = ring.ring.keys.iter().map(|key| json!(key.view(&ring.status))).collect();
        status[name.word()] = json!(ring.status.view(None));
    }
    json!({"policy": view.name, "rings": rings, "status": status})
}
