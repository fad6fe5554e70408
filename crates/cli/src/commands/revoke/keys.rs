//! `revoke key` and `keys revoke` on a cluster: entries of `spec.keys.revoked`, written with the caller's own rights.

use countersign_core::names::PolicyName;
use serde_json::{Value, json};

use super::{Order, known_or_meant, what};
use crate::{
    Session,
    cluster::{
        Cluster,
        following::Followed,
        rings::{self, Enforced, Ring},
    },
    commands::text,
    failure::{Exit, Failure},
    output::{Block, Report, printable},
    target::Target,
};

/// Ends these keys: they are the operator's. Everything else ends where it was issued.
pub(super) async fn on_cluster(
    session: &Session,
    target: &Target,
    cluster: &Cluster,
    order: &Order,
    kids: &[String],
) -> Result<Exit, Failure> {
    if order.issuer.is_some() {
        return Err(Failure::usage("--issuer: a cluster revokes the policy's own keys")
            .fix("another issuer's key goes from its JWKS, or with its entry in spec.trustedIssuers"));
    }
    let policy = target.policy(session).await?;
    target.announce(session, &policy);
    known_or_meant(session, &target.keys(&policy).await?, kids, "is it mistyped?")?;
    let object = cluster.revoke_keys(&policy, kids, order.reason.as_deref(), session.common.dry_run).await?;
    if session.common.dry_run {
        return session.printer.dry_run(&format!("revoke {}; {cluster} accepts it", what(order.kind, kids, false)));
    }
    let generation = object.metadata.generation.unwrap_or(0);
    let followed = match order.wait {
        None => Followed { object, found: None },
        Some(wait) => {
            let deadline = tokio::time::Instant::now() + wait;
            let mut said = Enforced::default();
            let look = |object: &_| {
                let now = rings::enforced(object, generation);
                if !now.holds && (now.confirmed, now.total) != (said.confirmed, said.total) {
                    session.printer.remark(&format!("waiting: {}", not_yet(&now)));
                    said = now.clone();
                }
                now.holds.then_some(())
            };
            let followed = cluster.follow(&policy, object, deadline, look).await;
            followed.map_err(|failure| Failure { message: format!("revoked; but {}", failure.message), ..failure })?
        }
    };
    report(session, order, kids, &policy, generation, &followed)
}

fn report(
    session: &Session,
    order: &Order,
    kids: &[String],
    policy: &PolicyName,
    generation: i64,
    followed: &Followed<()>,
) -> Result<Exit, Failure> {
    let enforced = rings::enforced(&followed.object, generation);
    let (exit, state) = match (order.wait, followed.found) {
        (None, _) => (Exit::Done, "in the policy; not waited for verifiers".to_owned()),
        (Some(_), Some(())) => (Exit::Done, format!("enforced on {} of {} verifiers", enforced.confirmed, enforced.total)),
        (Some(_), None) => (Exit::Unable, not_yet(&enforced)),
    };
    let document = json!({
        "policy": policy,
        "kind": "key",
        "revoked": kids,
        "generation": generation,
        "verifiers": enforced.document(),
        "enforced": enforced.holds,
    });
    let mut human = vec![Block::Text(format!("revoked {}; {state}", what(order.kind, kids, false)))];
    human.extend(successors(&rings::document(policy, &followed.object), kids).map(Block::Text));
    session.printer.report(&Report { document, human, names: kids.to_vec() })?;
    Ok(exit)
}

fn not_yet(enforced: &Enforced) -> String {
    let mut state = format!("enforced on {} of {} verifiers", enforced.confirmed, enforced.total);
    if !enforced.lagging.is_empty() {
        state.extend(["; not yet on ", &printable(&enforced.lagging.join(", "))]);
    }
    if !enforced.why.is_empty() {
        state.extend([" (", &printable(&enforced.why), ")"]);
    }
    state
}

/// Which key signs in place of one that was revoked while it did.
fn successors<'a>(after: &'a Value, kids: &'a [String]) -> impl Iterator<Item = String> + 'a {
    Ring::ALL.into_iter().filter_map(move |ring| {
        let keys = after["rings"][ring.member()].as_array()?;
        if !keys.iter().any(|key| kids.iter().any(|kid| kid == text(key, "kid"))) {
            return None;
        }
        Some(match keys.iter().find(|key| text(key, "state") == "Active") {
            Some(key) => format!("{}: {} signs", ring.word(), printable(text(key, "kid"))),
            None => format!("{}: no key signs yet; {}", ring.word(), printable(text(after, "detail"))),
        })
    })
}
