//! In whose turn a token is made, and what is written down before.

use countersign_api::bundle::RingName;
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_feed::Clock;
use tokio::sync::mpsc;

use crate::{
    feed::Cutoffs,
    lease::Leading,
    mint::{Mint, MintError, Minted, TokenOrder},
    registry::{FeedPresent, PolicyView, Request},
    run::Context,
    scripted::ApiServer,
    sessions::tests::World,
};

struct Issuer {
    context: Context,
    inbox: mpsc::Receiver<Request>,
    cutoffs: Cutoffs,
    policy: PolicyName,
}

impl Issuer {
    fn new() -> Self {
        let (context, inbox) = ApiServer::default().context();
        let view = World::new().view;
        let policy = view.name.clone();
        context.registry.publish(view);
        Self { context, inbox, cutoffs: Cutoffs::new(), policy }
    }

    /// The feed server's clock is so far ahead of this machine's, ms; `None`: it is out of reach.
    fn set_feed(&self, ahead: Option<i64>) {
        let server_time = ahead.map(|ahead| (Clock::wall().plus(ahead), Clock::boot_millis()));
        self.context.registry.set_feed(FeedPresent { fresh: ahead.is_some(), server_time, ..FeedPresent::default() });
    }

    async fn issue(&self) -> Result<Minted, MintError> {
        let order = |view: &PolicyView| {
            Ok(TokenOrder {
                subject: "svc-billing".into(),
                roles: Vec::new(),
                scopes: Vec::new(),
                audiences: view.effective.as_ref().unwrap().audiences.clone(),
                session_id: "s".into(),
                ttl_ms: 60_000,
                not_after: None,
                emergency: None,
            })
        };
        let mint = Mint::new(&self.context, &self.cutoffs);
        mint.issue(&self.policy, RingName::Access, order).await.map(|(_, minted)| minted)
    }

    /// Answers the one request that there must be, as the reconciler does or doesn't.
    async fn answer(inbox: &mut mpsc::Receiver<Request>, context: &Context, writes: bool) -> UnixMillis {
        let Some(Request::Reserve { policy, until, done }) = inbox.recv().await else { panic!("nothing is reserved") };
        if writes {
            context.registry.turn(&policy).raise(Some(until));
            done.send(()).unwrap();
        }
        until
    }
}

#[tokio::test]
async fn nothing_is_written_for_a_token_by_the_feed_server_s_clock_and_every_later_cut_off_is_later() {
    let mut issuer = Issuer::new();
    let before = Clock::wall();
    issuer.set_feed(Some(5_000));
    let minted = issuer.issue().await.unwrap();
    // Of two clocks that count milliseconds one may have begun the next one.
    let by_the_server = before.plus(5_000)..=Clock::wall().plus(5_001);
    assert!(by_the_server.contains(&minted.issued), "{by_the_server:?} {minted:?}");
    assert!(issuer.inbox.try_recv().is_err());
    let turn = issuer.context.registry.turn(&issuer.policy);
    let stepped_back = Clock::wall().minus(3_600_000);
    assert!(turn.cut(|| (stepped_back, None)).await.at >= minted.issued);
}

#[tokio::test]
async fn with_the_feed_away_a_token_waits_until_its_time_is_written_down_and_one_write_serves_several() {
    let mut issuer = Issuer::new();
    issuer.set_feed(None);
    let (context, mut inbox) = (issuer.context.clone(), std::mem::replace(&mut issuer.inbox, mpsc::channel(1).1));
    let (minted, until) = tokio::join!(issuer.issue(), Issuer::answer(&mut inbox, &context, true));
    let minted = minted.unwrap();
    assert!(minted.issued <= until && until.since(minted.issued) <= 1_000, "{minted:?} {until}");
    assert!(issuer.issue().await.unwrap().issued <= until);
    assert!(inbox.try_recv().is_err());
    let (refused, _) = tokio::join!(
        async {
            issuer.context.registry.turn(&issuer.policy).cut(|| (until, None)).await;
            let cut = countersign_core::revocation::Entry {
                policy: issuer.policy.clone(),
                kind: countersign_core::revocation::Kind::Subject,
                issuer: None,
                id: "svc-billing".into(),
                cutoff: until,
                expires: UnixMillis::FOREVER,
                version: 0,
                reason: String::new(),
                source: "test".into(),
            };
            issuer.cutoffs.apply(&cut);
            issuer.issue().await
        },
        Issuer::answer(&mut inbox, &context, false)
    );
    assert!(matches!(refused, Err(MintError::NotReserved)), "{refused:?}");
}

#[tokio::test]
async fn no_token_is_made_with_clocks_apart_or_by_whoever_leads_no_more() {
    let mut issuer = Issuer::new();
    issuer.set_feed(Some(3_600_000));
    assert!(matches!(issuer.issue().await, Err(MintError::ClocksApart { .. })));
    issuer.set_feed(Some(0));
    issuer.issue().await.unwrap();
    issuer.context.leading = Leading::default();
    assert!(matches!(issuer.issue().await, Err(MintError::LeadsNoMore)));
}
