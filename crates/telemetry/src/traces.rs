//! Traces: spans for an OpenTelemetry collector, where there is one.
//!
//! A process's own spans have the target [`TARGET`], and nothing else is sent: no message of the log, no span of a library. They
//! carry names of policies and fixed words, never what a caller sent. Without a collector no span is made: [`install`] turns the
//! target off where it is written, which then costs one comparison.

use std::{fmt, str::FromStr, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, Tracer},
};
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    fmt::layer,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// The target of spans that are sent.
pub const TARGET: &str = "countersign::trace";

/// How long a collector may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long an ending process waits for its last spans to be sent.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// A collector's address for OTLP over HTTP; traces go to `v1/traces` below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(http::Uri);

/// Why a text is no collector's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Not a URL of a server.
    #[error("it is no http:// or https:// URL of a collector, as http://otel-collector:4318")]
    Url,
    /// It would be logged.
    #[error("it has a user or a password: put what the collector asks for into OTEL_EXPORTER_OTLP_HEADERS")]
    Credentials,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let uri: http::Uri = text.parse().map_err(|_| InvalidEndpoint::Url)?;
        let authority = uri.authority().ok_or(InvalidEndpoint::Url)?;
        if authority.as_str().contains('@') {
            return Err(InvalidEndpoint::Credentials);
        }
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if is_http && uri.query().is_none() { Ok(Self(uri)) } else { Err(InvalidEndpoint::Url) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Endpoint {
    fn of_traces(&self) -> String {
        format!("{}/v1/traces", self.0.to_string().trim_end_matches('/'))
    }
}

/// Why no spans can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The client, with the system's certificates.
    #[error("the client for the collector can't be made")]
    Client(#[source] reqwest::Error),
    /// What the environment says (`OTEL_…`).
    #[error("the exporter of spans can't be made")]
    Exporter(#[from] ExporterBuildError),
}

/// A process's way to a collector.
#[derive(Clone, Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Spans of `service` go to `endpoint`, in batches, sent by `runtime`. How many spans are kept (`OTEL_TRACES_SAMPLER`), how
    /// long a batch may wait (`OTEL_BSP_…`), headers and attributes are as OpenTelemetry's variables say. What a collector
    /// doesn't take in time is dropped.
    pub fn to(endpoint: &Endpoint, service: &'static str, runtime: Handle) -> Result<Self, TracesError> {
        let client = reqwest::Client::builder()
            .timeout(ANSWERS_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(TracesError::Client)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(endpoint.of_traces())
            // Whatever the environment says of other programs' ways.
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(OnRuntime { client, runtime })
            .build()?;
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build()))
    }

    /// What takes spans to it.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let spans: OpenTelemetryLayer<S, Tracer> = tracing_opentelemetry::layer().with_tracer(self.0.tracer("countersign"));
        let spans = spans.with_location(false).with_threads(false).with_tracked_inactivity(false);
        spans.with_level(false).with_target(false).with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE))
    }

    /// Sends what is left, as far as the collector takes it soon.
    pub async fn end(self) {
        // It waits for a thread of its own, which needs the runtime.
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(ENDS_WITHIN)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans could not be sent"),
            Err(error) => tracing::warn!(%error, "the last spans could not be sent"),
        }
    }
}

/// Begins to log to standard error, and to send spans where there is a collector.
pub fn install(filter: EnvFilter, format: Format, traces: Option<&Traces>) {
    let filter = without_spans(filter);
    let lines = layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Json => lines.json().boxed(),
        Format::Text { colours } => lines.with_ansi(colours).boxed(),
    };
    match traces {
        None => tracing_subscriber::registry().with(lines.with_filter(filter)).init(),
        Some(traces) => tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces.layer()).init(),
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text {
        /// Whether levels are coloured.
        colours: bool,
    },
    /// An object each.
    Json,
}

/// Spans that are sent are no context of log lines: those name what they are about themselves.
fn without_spans(filter: EnvFilter) -> EnvFilter {
    match format!("{TARGET}=off").parse() {
        Ok(off) => filter.add_directive(off),
        // A fixed text that is one; without it, lines would merely be longer.
        Err(_) => filter,
    }
}

/// Sends from a thread that belongs to no runtime.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let mut response = Response::new(answer.bytes().await?);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok::<_, reqwest::Error>(response)
        });
        Ok(sent.await??)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::post};
    use bytes::Bytes;
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
    };
    use prost::Message as _;
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;

    /// A collector, and what it gets: the sender's name and the spans of one request.
    async fn collector() -> (Endpoint, mpsc::UnboundedReceiver<(String, Vec<Span>)>) {
        let (sender, received) = mpsc::unbounded_channel();
        let take = async move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            for resource in request.resource_spans {
                let attributes = resource.resource.unwrap().attributes;
                let name = attributes.iter().find(|attribute| attribute.key == "service.name");
                let Some(Value::StringValue(name)) = name.and_then(|name| name.value.clone()?.value) else { panic!() };
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans).collect();
                sender.send((name, spans)).unwrap();
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let routes = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (endpoint, received)
    }

    #[tokio::test]
    async fn a_process_s_own_spans_arrive_with_their_fields_and_nothing_else_does() {
        let (endpoint, mut received) = collector().await;
        let traces = Traces::to(&endpoint, "countersign-x", Handle::current()).unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            let outer =
                tracing::info_span!(target: TARGET, "reconcile", policy = "shop/shop", error = tracing::field::Empty);
            outer.in_scope(|| {
                tracing::info!(token = "of-the-log", "a line");
                tracing::info_span!("of_a_library", secret = "of-the-library").in_scope(|| {
                    tracing::info_span!(target: TARGET, "write", kind = "secrets").in_scope(|| {});
                });
            });
            outer.record("error", "conflict");
        });
        traces.end().await;
        let (service, spans) = received.recv().await.unwrap();
        assert_eq!(service, "countersign-x");
        let outer = spans.iter().find(|span| span.name == "reconcile").unwrap();
        let inner = spans.iter().find(|span| span.name == "write").unwrap();
        assert_eq!((spans.len(), &inner.parent_span_id), (2, &outer.span_id));
        let field = |span: &Span, key: &str| {
            let found = span.attributes.iter().find(|attribute| attribute.key == key);
            found.and_then(|found| found.value.clone()?.value)
        };
        assert_eq!(field(outer, "policy"), Some(Value::StringValue("shop/shop".into())));
        assert_eq!(field(outer, "error"), Some(Value::StringValue("conflict".into())));
        assert_eq!(field(inner, "kind"), Some(Value::StringValue("secrets".into())));
        let all = format!("{spans:?}");
        assert!(!all.contains("of-the-log") && !all.contains("of-the-library"), "{all}");
    }

    #[test]
    fn spans_are_made_for_a_collector_alone() {
        let logs =
            || layer().with_writer(std::io::sink).with_filter(without_spans(EnvFilter::new("trace,countersign=trace")));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(logs()), || {
            assert!(tracing::info_span!(target: TARGET, "reconcile").is_disabled());
            assert!(!tracing::info_span!("another").is_disabled());
        });
        let spans = tracing_opentelemetry::layer::<tracing_subscriber::Registry>();
        let spans = spans.with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans), || {
            assert!(!tracing::info_span!(target: TARGET, "reconcile").is_disabled());
        });
    }

    #[test]
    fn an_endpoint_is_a_collector_s_address_without_credentials() {
        for (text, of_traces) in [
            ("http://otel-collector:4318", "http://otel-collector:4318/v1/traces"),
            ("https://otel.example/", "https://otel.example/v1/traces"),
            ("https://otel.example/team/", "https://otel.example/team/v1/traces"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().of_traces(), of_traces);
        }
        for text in ["", "otel-collector:4318", "/v1/traces", "grpc://otel:4317", "http://", "http://otel?x=y"] {
            assert_eq!(text.parse::<Endpoint>(), Err(InvalidEndpoint::Url), "{text}");
        }
        assert_eq!("https://me:secret@otel.example".parse::<Endpoint>(), Err(InvalidEndpoint::Credentials));
    }
}
