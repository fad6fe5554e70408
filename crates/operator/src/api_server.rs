//! How the operator asks the API server: patiently where it watches, and nothing but questions once it leads no more.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, Response};
use kube::{Client, Config, client::Body};
use tower_service::Service;

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
        Ok(Self { patient: client(WATCH_HEARS_WITHIN)?, prompt: client(ANSWER_WITHIN)? })
    }

    /// For whoever doesn't lead yet: it gives every request up that isn't answered soon.
    pub(crate) fn candidate(&self) -> Client {
        self.prompt.clone()
    }

    /// For the parts of a leader: what changes anything is refused once `leading` is over, however late it comes.
    pub(crate) fn leader(&self, leading: Leading) -> Client {
        let namespace = self.prompt.default_namespace().to_owned();
        Client::new(Leader { clients: self.clone(), leading }, namespace)
    }
}

#[derive(Clone)]
struct Leader {
    clients: ApiServer,
    leading: Leading,
}

impl Service<Request<Body>> for Leader {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, kube::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        // The clients queue by themselves.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if *request.method() != Method::GET && !self.leading.holds() {
            return Box::pin(async { Err(kube::Error::Service(LeadsNoMore.into())) });
        }
        let client = if watches(&request) { &self.clients.patient } else { &self.clients.prompt };
        let client = client.clone();
        Box::pin(async move { client.send(request).await })
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
        let clients = ApiServer { patient: server.client(), prompt: server.client() };
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
