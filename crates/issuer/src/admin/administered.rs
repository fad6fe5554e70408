//! A call of an administrator, as the functions of a policy's own routes take it.

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{OfPolicy, client_of};
use crate::{
    actor::{Actor, PeerUser},
    audit::EventKind,
    call::Call,
    limits::CountedBy,
    problem::Problem,
    serving::Issuer,
};

/// A call about a policy, whether or not it has people. Events of it are an administrator's.
pub(super) struct Acting(pub(super) Call);

/// A call about a policy's people.
pub(super) struct Administered(pub(super) Call);

impl FromRequestParts<Issuer> for Acting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, issuer: &Issuer) -> Result<Self, Problem> {
        let OfPolicy(policy) = OfPolicy::from_request_parts(parts, issuer).await?;
        let client = client_of(parts, issuer)?;
        // A token's bearer stands there since the token was judged; else it came over the socket.
        let uid = parts.extensions.get::<PeerUser>().map(|user| user.0);
        let actor = parts.extensions.get::<Actor>().cloned().unwrap_or(Actor::Socket { uid });
        let counted_by = CountedBy::default();
        Ok(Self(Call { issuer: issuer.clone(), policy, client, actor: Some(actor), counted_by }))
    }
}

impl FromRequestParts<Issuer> for Administered {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, issuer: &Issuer) -> Result<Self, Problem> {
        let Acting(call) = Acting::from_request_parts(parts, issuer).await?;
        call.login()?;
        Ok(Self(call))
    }
}

impl Administered {
    /// What an administrator did, to be written with it.
    pub(super) fn action(&self, action: &str) -> crate::audit::Event<'_> {
        self.0.event(EventKind::AdminAction).detail("action", action)
    }
}
