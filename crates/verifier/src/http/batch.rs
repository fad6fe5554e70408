//! Many questions at once.

use std::collections::HashSet;

use countersign_core::{
    check::Ask,
    jose::{MAX_DEPTH, strict_json},
    verdict::Refusal,
};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    memory::Taken,
    problem::Problem,
    request::{VerifyRequest, only_tokens},
    verdict::{Ending, batch_item, refused_body, valid_item},
};
use crate::{
    app::{App, MIN_POSITION_WAIT, Moment, Question},
    net::Peer,
    slot::PolicySlot,
};

/// The most questions in one batch.
const MAX_ITEMS: usize = 1000;

/// After this many answers other requests get their turn, and the moment is read anew.
const TURN: usize = 32;

/// What an ordinary result takes, bytes.
const TYPICAL_RESULT: usize = 768;

/// What an answer may take without asking for room.
const FREE: usize = 128 << 10;

/// What it asks for at a time: a short question may have a long answer.
const STEP: usize = 256 << 10;

/// The questions of a batch.
pub(crate) enum Items<'a> {
    /// Each only names a token.
    Tokens(Vec<&'a str>),
    /// Each still as text: one that is wrong is its own affair.
    Texts(Vec<&'a RawValue>),
}

impl<'a> Items<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// The item itself nests two levels down in the body.
    fn request(&self, at: usize) -> Result<VerifyRequest<'a>, Problem> {
        match self {
            Self::Tokens(tokens) => Ok(VerifyRequest::of(tokens[at])),
            Self::Texts(texts) => VerifyRequest::parse_within(texts[at].get().as_bytes(), MAX_DEPTH - 2),
        }
    }
}

/// Reads a batch. The usual one in one pass; what that doesn't take is for the JSON parser, which decides.
pub(crate) fn parse(body: &[u8]) -> Result<Items<'_>, Problem> {
    let items = match only_tokens(body) {
        Some(tokens) => Items::Tokens(tokens),
        None => Items::Texts(parse_texts(body)?),
    };
    if items.len() > MAX_ITEMS {
        return Err(Problem::invalid("a batch has at most 1000 items"));
    }
    Ok(items)
}

fn parse_texts(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let batch: Batch<'_> = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            Problem::invalid("the body: expected {\"items\": [...]} without duplicate members")
        } else {
            Problem::invalid("the body: not JSON")
        }
    })?;
    for other in batch.others {
        strict_json::parse(other.get().as_bytes(), MAX_DEPTH - 1)
            .map_err(|e| Problem::invalid(format!("the body: {e}")))?;
    }
    Ok(batch.items)
}

/// Answers each, in order. Without a slot the policy isn't ready. `room` is for what the answer takes; questions for whose
/// answers there is none are told so.
pub(crate) async fn answer(
    app: &App,
    slot: Option<&PolicySlot>,
    items: &Items<'_>,
    caller: Peer,
    room: &mut Taken,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + items.len() * TYPICAL_RESULT);
    out.extend_from_slice(b"{\"results\":[");
    let mut granted = FREE;
    let mut full = false;
    let mut waiting = Some(tokio::time::Instant::now() + MIN_POSITION_WAIT);
    let mut moment = slot.map(|slot| app.moment(slot));
    for i in 0..items.len() {
        if i > 0 {
            out.push(b',');
        }
        if i % TURN == TURN - 1 {
            tokio::task::yield_now().await;
            moment = slot.map(|slot| app.moment(slot));
        }
        while out.len() > granted && !full {
            full = !room.grow(STEP);
            granted += STEP;
        }
        if full {
            wrong_item(&mut out, &Problem::overloaded());
            continue;
        }
        if let (Items::Tokens(tokens), Some(slot), Some(now)) = (items, slot, moment) {
            let question = Question { token: tokens[i], ask: Ask::default(), caller, behind: false };
            add_result(&mut out, app, slot, &question, now);
            continue;
        }
        let request = match items.request(i) {
            Ok(request) => request,
            Err(problem) => {
                wrong_item(&mut out, &problem);
                continue;
            }
        };
        let (Some(slot), Some(now)) = (slot, moment) else {
            batch_item(&mut out, Refusal::NotReady.status(), &refused_body(&Refusal::NotReady));
            continue;
        };
        let mut now = now;
        let mut behind = false;
        if let Some(position) = request.min_position {
            behind = !app.feed.holds(position);
            // All items together wait no longer than one would.
            if let Some(deadline) = waiting.filter(|_| behind) {
                behind = !tokio::time::timeout_at(deadline, app.feed.wait_for(position, MIN_POSITION_WAIT))
                    .await
                    .unwrap_or(false);
                if behind {
                    waiting = None;
                }
            }
            now = app.moment(slot);
            moment = Some(now);
        }
        let question = Question { token: &request.token, ask: request.ask(), caller, behind };
        add_result(&mut out, app, slot, &question, now);
    }
    out.extend_from_slice(b"]}");
    out
}

fn add_result(out: &mut Vec<u8>, app: &App, slot: &PolicySlot, question: &Question<'_>, now: Moment) {
    app.judge(slot, question, now, |outcome| match outcome {
        Ok(granted) => valid_item(out, &granted.proven.prefix, &Ending::of(&granted.allowed, granted.position)),
        Err(refusal) => batch_item(out, refusal.status(), &refused_body(&refusal)),
    });
}

fn wrong_item(out: &mut Vec<u8>, problem: &Problem) {
    let body = serde_json::json!({ "error": problem.error, "detail": problem.detail });
    batch_item(out, problem.status.as_u16(), body.to_string().as_bytes());
}

struct Batch<'a> {
    items: Vec<&'a RawValue>,
    others: Vec<&'a RawValue>,
}

impl<'de> serde::Deserialize<'de> for Batch<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Batch<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with items")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Batch<'de>, A::Error> {
                let mut items = None;
                let mut others = Vec::new();
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "items" {
                        if items.is_some() {
                            return Err(A::Error::custom("duplicate items"));
                        }
                        items = Some(map.next_value()?);
                    } else if names.insert(name) {
                        others.push(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom("duplicate member"));
                    }
                }
                Ok(Batch { items: items.ok_or_else(|| A::Error::missing_field("items"))?, others })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_reading_a_batch_agree() {
        for (body, tokens) in [
            (r#"{"items":[{"token":"a.b.c"}]}"#, Some(1)),
            (" { \"items\" : [ { \"token\" : \"a\" } ,\n{\"token\":\"b\"} ] } ", Some(2)),
            (r#"{"items":[{"token":"a"},]}"#, None),
            (r#"{"items":[{"token":"a"}],"x":1}"#, None),
            (r#"{"items":[{"token":"a\u0062"}]}"#, None),
            (r#"{"items":[{"token":"a","token":"b"}]}"#, None),
            (r#"{"items":[{"token":"a"}]}}"#, None),
            (r#"{"items":[{"token":""}]}"#, None),
        ] {
            let quick = only_tokens(body.as_bytes());
            assert_eq!(quick.as_ref().map(Vec::len), tokens, "{body}");
            let Some(quick) = quick else { continue };
            let slow = parse_texts(body.as_bytes()).unwrap();
            for (quick, slow) in quick.iter().zip(slow) {
                let slow = VerifyRequest::parse_within(slow.get().as_bytes(), MAX_DEPTH - 2).unwrap();
                assert_eq!(VerifyRequest::of(quick), slow, "{body}");
            }
        }
    }

    #[test]
    fn a_batch_is_an_object_with_a_list_of_items() {
        assert_eq!(parse(br#"{"items":[{"token":"a"},5],"x":{}}"#).unwrap().len(), 2);
        assert_eq!(parse(br#"{"items":[]}"#).unwrap().len(), 0);
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"items":{}}"#,
            r#"{"items":null}"#,
            r#"{"items":[],"items":[]}"#,
            r#"{"items":[]} x"#,
            r#"{"items":[],"x":1,"x":2}"#,
            r#"{"items":[],"x":{"a":1,"a":2}}"#,
            r#"{"items":[{]}"#,
        ] {
            assert_eq!(parse(bad.as_bytes()).err().map(|p| p.status.as_u16()), Some(400), "{bad}");
        }
        let many = format!(r#"{{"items":[{}]}}"#, vec!["1"; 1001].join(","));
        assert_eq!(parse(many.as_bytes()).err().map(|p| p.status.as_u16()), Some(400));
        let many = format!(r#"{{"items":[{}]}}"#, vec![r#"{"token":"a"}"#; 1001].join(","));
        assert_eq!(parse(many.as_bytes()).err().map(|p| p.status.as_u16()), Some(400));
    }
}
