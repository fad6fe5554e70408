//! How the operator asks the API server: patiently where it watches, and nothing but questions once it leads no more.

mod writes;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use countersign_telemetry::traces::TARGET;
use http::{Method, Request, Response};
use kube::{Client, Config, client::Body};
use tower_service::Service;
use tracing::{Instrument as _, Span, field::Empty};

pub(crate) use self::writes::{Outcome, Writes};
use crate::lease::Leading;

/// A watch that hears nothing for so long is broken: the API server sends bookmarks each minute.
const WATCH_HEARS_WITHIN: Duration = Duration::from_mins(5);
/// Anything else that hears nothing for so long has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What the Lease was lost for meanwhile is not written.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("another operator may lead by now: nothing is written any more")]
pub(crate) struct LeadsNoMore;

/// Clients of one API server.
#[derive(Clone)]
pub(crate) struct ApiServer {
    patient: Client,
    prompt: Client,
    writes: Arc<Writes>,
}

impl ApiServer {
    /// Clients under these settings.
    pub(crate) fn new(config: &Config) -> Result<Self, kube::Error> {
        let client = |read_timeout| {
            let mut config = config.clone();
            config.read_timeout = Some(read_timeout);
            config.connect_timeout = Some(CONNECT_WITHIN);
            Client::try_from(config)
        };
        let (patient, prompt) = (client(WATCH_HEARS_WITHIN)?, client(ANSWER_WITHIN)?);
        Ok(Self { patient, prompt, writes: Arc::default() })
    }

    /// What was written through these clients.
    pub(crate) fn writes(&self) -> Arc<Writes> {
        self.writes.clone()
    }

    /// For whoever doesn't lead yet: it gives every request up that isn't answered soon.
    pub(crate) fn candidate(&self) -> Client {
        self.client(None)
    }

    /// For the parts of a leader: what changes anything is refused once `leading` is over, however late it comes.
    pub(crate) fn leader(&self, leading: Leading) -> Client {
        self.client(Some(leading))
    }

    fn client(&self, leading: Option<Leading>) -> Client {
        let namespace = self.prompt.default_namespace().to_owned();
        Client::new(Counted { clients: self.clone(), leading }, namespace)
    }
}

/// Counts what is written.
#[derive(Clone)]
struct Counted {
    clients: ApiServer,
    /// Of a leader.
    leading: Option<Leading>,
}

impl Service<Request<Body>> for Counted {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, kube::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        // The clients queue by themselves.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (clients, written) = (&self.clients, writes::written(request.method(), request.uri().path()));
        let writes = clients.writes.clone();
        let leads_no_more = self.leading.as_ref().is_some_and(|leading| !leading.holds());
        if *request.method() != Method::GET && leads_no_more {
            if let Some(kind) = written {
                writes.count((kind, Outcome::NotLeading));
            }
            return Box::pin(async { Err(kube::Error::Service(LeadsNoMore.into())) });
        }
        let client = if self.leading.is_some() && watches(&request) { &clients.patient } else { &clients.prompt };
        let client = client.clone();
        let Some(kind) = written else { return Box::pin(async move { client.send(request).await }) };
        let span = tracing::info_span!(target: TARGET, "write", kind, outcome = Empty);
        let send = async move {
            let answer = client.send(request).await;
            let outcome = Outcome::of(&answer);
            Span::current().record("outcome", outcome.word());
            writes.count((kind, outcome));
            answer
        };
        Box::pin(send.instrument(span))
    }
}

fn watches<B>(request: &Request<B>) -> bool {
    let parameters = request.uri().query().unwrap_or_default().split('&');
    parameters.into_iter().any(|parameter| matches!(parameter, "watch=true" | "watch=1"))
}

#[cfg(test)]
mod tests {
    use countersign_feed::Clock;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Api, api::PostParams};

    use super::*;
    use crate::scripted;

    #[tokio::test]
    async fn whoever_leads_no_more_writes_nothing_and_may_still_read() {
        let server = scripted::ApiServer::default();
        let clients = ApiServer { patient: server.client(), prompt: server.client(), writes: Arc::default() };
        let leading = Leading::default();
        let maps: Api<ConfigMap> = Api::namespaced(clients.leader(leading.clone()), "system");
        let map = |name: &str| {
            let mut map = ConfigMap::default();
            map.metadata.name = Some(name.to_owned());
            map
        };
        leading.extend(Clock::boot_millis(), Duration::from_mins(1));
        maps.create(&PostParams::default(), &map("a")).await.unwrap();
        let late: Api<ConfigMap> = Api::namespaced(clients.leader(Leading::default()), "system");
        let refused = late.create(&PostParams::default(), &map("b")).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Service(why) if why.is::<LeadsNoMore>()), "{refused}");
        assert!(late.get_opt("a").await.unwrap().is_some());
        assert!(late.get_opt("b").await.unwrap().is_none());
        let again = maps.create(&PostParams::default(), &map("a")).await;
        assert!(matches!(again, Err(kube::Error::Api(status)) if status.code == 409));
        let writes = clients.writes();
        for (outcome, times) in
            [(Outcome::Done, 1), (Outcome::Overtaken, 1), (Outcome::NotLeading, 1), (Outcome::Failed, 0)]
        {
            assert_eq!(writes.of(("configmaps", outcome)), times, "{outcome:?}");
        }
    }

    #[test]
    fn only_watches_are_waited_for_long() {
        for (query, expected) in [
            ("?watch=true&timeoutSeconds=290", true),
            ("?labelSelector=a&watch=1", true),
            ("?limit=500", false),
            ("?labelSelector=watch%3Dtrue", false),
            ("", false),
        ] {
            let request = Request::get(format!("http://x/api/v1/secrets{query}")).body(()).unwrap();
            assert_eq!(watches(&request), expected, "{query}");
        }
    }
}
