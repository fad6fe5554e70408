//! Codes by SMS, through a webhook that the policy names.
//!
//! The call is a POST of `{"to", "text", "policy", "challenge_id"}` with `X-Countersign-Signature: t=SECONDS,v1=HEX`, where HEX
//! is HMAC-SHA-256, under the policy's key, of the seconds, a dot and the body. A receiver compares it in constant time and
//! refuses old seconds; then nobody else can make it send anything, and nobody can replay a call. The webhook's address obeys
//! the rules of every address that a policy's author names: https, public, no redirects, five seconds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_jwks::{ClientError, FetchRules, Outbound, OutboundError};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    call::Call,
    lanes::{Bounds, Lanes},
    problem::Problem,
};

/// The header that carries the signature.
const SIGNATURE: HeaderName = HeaderName::from_static("x-countersign-signature");
/// The longest number, digits (E.164).
const MAX_DIGITS: usize = 15;
/// The fewest digits of one.
const MIN_DIGITS: usize = 7;

/// A policy's webhook.
#[derive(Clone, Copy)]
pub(crate) struct SmsHook<'a> {
    /// Where it is.
    pub(crate) url: &'a str,
    /// What signs calls of it.
    pub(crate) signing_key: &'a [u8],
}

/// What shall be sent.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Sms<'a> {
    /// The number, as in `+4915112345678` (E.164).
    pub(crate) to: &'a str,
    /// The words.
    pub(crate) text: &'a str,
    /// For which policy.
    pub(crate) policy: &'a PolicyName,
    /// For which challenge, if for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) challenge_id: Option<&'a str>,
}

/// Why nothing was sent. Repeats neither number nor words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SmsError {
    /// No number.
    #[error("not a telephone number in the form +4915112345678")]
    Number,
    /// No text that can be sent.
    #[error("the message can't be written as JSON")]
    Message,
    /// The webhook isn't asked, or doesn't answer.
    #[error("the SMS webhook: {0}")]
    Outbound(#[from] OutboundError),
    /// The webhook says no.
    #[error("the SMS webhook answered {0}")]
    Status(u16),
}

/// Messages of a policy on their way at once. Further ones are dropped and counted.
const AT_ONCE: usize = 32;
/// See [`AT_ONCE`]; and those of a namespace's and of all policies, each of which takes seconds at most.
const BOUNDS: Bounds = Bounds { each: AT_ONCE, namespace: 8 * AT_ONCE, all: 64 * AT_ONCE, at_once: AT_ONCE };

/// What became of messages since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SmsCounts {
    /// A webhook took them.
    pub(crate) sent: u64,
    /// A webhook didn't.
    pub(crate) failed: u64,
    /// Too many were on their way.
    pub(crate) dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// Calls webhooks.
#[derive(Clone, Debug)]
pub struct SmsSender {
    outbound: Outbound,
    lanes: Lanes,
    counters: Arc<Counters>,
}

/// A message to an account's owner, by the policy's webhook.
pub(crate) struct Message<'a> {
    /// The number.
    pub(crate) to: &'a str,
    /// The words.
    pub(crate) text: String,
    /// For which challenge, if for one.
    pub(crate) challenge: Option<&'a str>,
}

/// Whether the policy has a webhook that can be asked.
pub(crate) fn works(call: &Call) -> Result<bool, Problem> {
    let login = call.login()?;
    Ok(login.settings.sms.is_some() && login.references.sms_key.is_some())
}

/// Sends a message in the background: no answer waits for a webhook. What fails is logged, and can be asked for again.
pub(crate) fn send(call: &Call, message: &Message<'_>, now: UnixMillis) -> Result<(), Problem> {
    let login = call.login()?;
    let (Some(settings), Some(key)) = (&login.settings.sms, &login.references.sms_key) else {
        return Err(Problem::validation("this policy sends no SMS (spec.login.sms is absent)"));
    };
    let sender = call.issuer.parts.sms.clone();
    let Some(place) = sender.lanes.enter(&call.policy.name) else {
        sender.counters.dropped.fetch_add(1, Relaxed);
        tracing::warn!(policy = %call.policy.name, "a message was dropped: too many are on their way already");
        return Ok(());
    };
    let (url, signing_key): (String, Zeroizing<Vec<u8>>) = (settings.url.clone(), key.clone());
    let (to, text) = (message.to.to_owned(), Zeroizing::new(message.text.clone()));
    let (policy, challenge) = (call.policy.name.clone(), message.challenge.map(str::to_owned));
    tokio::spawn(async move {
        let hook = SmsHook { url: &url, signing_key: &signing_key };
        let sms = Sms { to: &to, text: &text, policy: &policy, challenge_id: challenge.as_deref() };
        match sender.send(hook, sms, now).await {
            Ok(()) => drop(sender.counters.sent.fetch_add(1, Relaxed)),
            Err(error) => {
                tracing::error!(%policy, %error, "a message was given up");
                sender.counters.failed.fetch_add(1, Relaxed);
            }
        }
        drop(place);
    });
    Ok(())
}

impl SmsSender {
    /// A sender; with `allow_private` webhooks may be on this machine or in its network, and speak plain http.
    pub fn try_new(allow_private: bool) -> Result<Self, ClientError> {
        let outbound = Outbound::new(&FetchRules { allow_private, ca_file: None })?;
        Ok(Self { outbound, lanes: Lanes::new(BOUNDS), counters: Arc::default() })
    }

    /// What became of messages so far.
    pub(crate) fn counts(&self) -> SmsCounts {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let Counters { sent, failed, dropped } = &*self.counters;
        SmsCounts { sent: read(sent), failed: read(failed), dropped: read(dropped) }
    }

    /// Asks a policy's webhook to send a message. Tried once: a code that comes late is of no use, and can be asked for again.
    pub(crate) async fn send(&self, hook: SmsHook<'_>, sms: Sms<'_>, now: UnixMillis) -> Result<(), SmsError> {
        if !is_number(sms.to) {
            return Err(SmsError::Number);
        }
        let body = serde_json::to_vec(&sms).map_err(|_| SmsError::Message)?;
        let signature = signature(hook.signing_key, now.as_secs(), &body);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(SIGNATURE, HeaderValue::try_from(signature).map_err(|_| SmsError::Message)?);
        match self.outbound.post(hook.url, headers, body).await? {
            200..300 => Ok(()),
            status => Err(SmsError::Status(status)),
        }
    }
}

fn signature(key: &[u8], at_secs: i64, body: &[u8]) -> String {
    use aws_lc_rs::hmac;

    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(format!("{at_secs}.").as_bytes());
    context.update(body);
    format!("t={at_secs},v1={}", hex::encode(context.sign()))
}

/// A number as E.164 has it.
pub(crate) fn is_number(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (MIN_DIGITS..=MAX_DIGITS).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{Router, body::Bytes, http::StatusCode, routing::post};
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_500);
    const KEY: &[u8] = b"a key of thirty-two bytes or so.";

    fn sender(allow_private: bool) -> SmsSender {
        SmsSender::try_new(allow_private).unwrap()
    }

    fn hook(url: &str) -> SmsHook<'_> {
        SmsHook { url, signing_key: KEY }
    }

    fn sms<'a>(to: &'a str, policy: &'a PolicyName) -> Sms<'a> {
        Sms { to, text: "Your code is 493817", policy, challenge_id: Some("c1") }
    }

    type Heard = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

    async fn receiver(status: StatusCode) -> (String, Heard) {
        let calls = Heard::default();
        let told = calls.clone();
        let answer = move |headers: HeaderMap, body: Bytes| {
            told.lock().unwrap().push((headers, body));
            async move { (status, [("location", "/elsewhere")]) }
        };
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/sms", listener.local_addr().unwrap());
        let routes = Router::new().fallback(post(answer));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (url, calls)
    }

    #[tokio::test]
    async fn a_webhook_gets_the_message_and_can_tell_that_it_is_ours() {
        let policy: PolicyName = "shop/shop".parse().unwrap();
        let (url, heard) = receiver(StatusCode::ACCEPTED).await;
        sender(true).send(hook(&url), sms("+4915112345678", &policy), NOW).await.unwrap();
        let heard = heard.lock().unwrap();
        let [(headers, body)] = heard.as_slice() else { panic!("{} calls", heard.len()) };
        let expected = r#"{"to":"+4915112345678","text":"Your code is 493817","policy":"shop/shop","challenge_id":"c1"}"#;
        assert_eq!(body, expected);
        assert_eq!(headers["content-type"], "application/json");
        let told = headers["x-countersign-signature"].to_str().unwrap();
        let (at, tag) = told.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).unwrap();
        assert_eq!(at, "1800000000");
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, KEY);
        let signed = [at.as_bytes(), b".", body].concat();
        aws_lc_rs::hmac::verify(&key, &signed, &hex::decode(tag).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_refusal_or_a_redirect_is_told_and_not_followed() {
        let policy: PolicyName = "shop/shop".parse().unwrap();
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FOUND, StatusCode::TEMPORARY_REDIRECT] {
            let (url, heard) = receiver(status).await;
            let error = sender(true).send(hook(&url), sms("+4915112345678", &policy), NOW).await.unwrap_err();
            assert_eq!(error, SmsError::Status(status.as_u16()));
            assert_eq!(heard.lock().unwrap().len(), 1, "{status}");
        }
    }

    #[tokio::test]
    async fn nothing_but_https_to_public_addresses_is_asked() {
        let policy: PolicyName = "shop/shop".parse().unwrap();
        let (local, heard) = receiver(StatusCode::OK).await;
        for (url, expected) in [
            (local.as_str(), OutboundError::NotHttps),
            ("https://127.0.0.1/sms", OutboundError::PrivateAddress),
            ("https://169.254.169.254/sms", OutboundError::MetadataAddress),
            ("nonsense", OutboundError::NotHttps),
        ] {
            let error = sender(false).send(hook(url), sms("+4915112345678", &policy), NOW).await.unwrap_err();
            assert_eq!(error, SmsError::Outbound(expected), "{url}");
        }
        assert!(heard.lock().unwrap().is_empty());
        let error = sender(true).send(hook(&local), sms("12345678", &policy), NOW).await.unwrap_err();
        assert_eq!(error, SmsError::Number);
        assert!(heard.lock().unwrap().is_empty());
    }

    #[test]
    fn a_number_has_a_plus_and_seven_to_fifteen_digits() {
        for (text, good) in [
            ("+4915112345678", true),
            ("+1234567", true),
            ("+123456789012345", true),
            ("+1234567890123456", false),
            ("+123456", false),
            ("+0123456789", false),
            ("004915112345678", false),
            ("+49 151 12345678", false),
            ("+49151123\u{664}5678", false),
            ("", false),
        ] {
            assert_eq!(is_number(text), good, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_signature_is_of_one_key_one_moment_and_one_body(body: Vec<u8>, at in 0..i64::MAX, other in 1..1000_i64) {
            let signed = signature(KEY, at, &body);
            prop_assert_eq!(&signed, &signature(KEY, at, &body));
            prop_assert_ne!(&signed, &signature(b"another key", at, &body));
            prop_assert_ne!(&signed, &signature(KEY, at.wrapping_add(other), &body));
            prop_assert!(HeaderValue::try_from(signed).is_ok());
        }
    }
}
