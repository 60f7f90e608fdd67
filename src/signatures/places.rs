//! Where in a request a thought signature is needed and missing.
//!
//! Gemini 3 wants it on the first call of every step of the current turn: each assistant message after the last one of
//! the user. Nothing is changed here; the places are byte ranges of the client's body, and what does not have the
//! expected form has none.

use crate::json::{self, Fields};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;

/// A tool call without its signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// The call's id, if it has one.
    pub(super) call: Option<Cow<'a, str>>,
    /// The bytes that the signature's text replaces; often none.
    pub(super) at: Range<usize>,
    /// What has to stand before the signature's JSON string, and behind it.
    pub(super) around: (&'static str, &'static str),
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

/// One JSON value on the way to the signature.
struct Object<'a> {
    raw: &'a RawValue,
}

/// A turn has a few dozen steps; a request with more than this many places is no turn of an agent, and what it lacks is
/// left to upstream: otherwise a small request could grow without bound.
const MAX_PLACES: usize = 256;

/// All places in the messages, by their offsets in `body`; none where there are more than any real turn has.
pub(super) fn find<'a>(body: &'a [u8], messages: &'a str) -> Vec<Place<'a>> {
    // Most requests have no calls: nothing is parsed for them.
    if memchr::memmem::find(messages.as_bytes(), b"tool_calls").is_none()
        && memchr::memchr(b'\\', messages.as_bytes()).is_none()
    {
        return Vec::new();
    }
    let Ok(messages) = serde_json::from_str::<Vec<&RawValue>>(messages) else { return Vec::new() };
    let mut places = Vec::new();
    for message in messages.iter().rev() {
        let Ok(message) = serde_json::from_str::<Message<'_>>(message.get()) else { continue };
        if message.role.is_some_and(|role| is_string(role, "user")) {
            break;
        }
        let calls = message.tool_calls.and_then(|calls| serde_json::from_str::<Vec<&RawValue>>(calls.get()).ok());
        if let Some(first) = calls.and_then(|calls| calls.first().copied()) {
            places.extend(place_in(body, first));
        }
        if places.len() > MAX_PLACES {
            return Vec::new();
        }
    }
    places.reverse();
    places
}

/// The place in one tool call, if its signature is missing.
fn place_in<'a>(body: &'a [u8], call: &'a RawValue) -> Option<Place<'a>> {
    let call = Object { raw: call };
    let id = call.field("id").and_then(|id| json::text(id.get()));
    let place = |at, around| Some(Place { call: id.clone(), at, around });
    if !call.is_object() {
        return None;
    }
    let Some(extra) = call.field("extra_content") else {
        return place(call.behind_brace(body), if call.is_empty() { WHOLE_ALONE } else { WHOLE });
    };
    let extra = Object { raw: extra };
    if !extra.is_object() {
        return place(extra.span(body), ("{\"google\":{\"thought_signature\":", "}}"));
    }
    let Some(google) = extra.field("google") else {
        let around = if extra.is_empty() {
            ("\"google\":{\"thought_signature\":", "}")
        } else {
            ("\"google\":{\"thought_signature\":", "},")
        };
        return place(extra.behind_brace(body), around);
    };
    let google = Object { raw: google };
    if !google.is_object() {
        return place(google.span(body), ("{\"thought_signature\":", "}"));
    }
    match google.field("thought_signature") {
        None => {
            let around =
                if google.is_empty() { ("\"thought_signature\":", "") } else { ("\"thought_signature\":", ",") };
            place(google.behind_brace(body), around)
        }
        Some(signature) if matches!(signature.get(), "null" | "\"\"") => {
            place(Object { raw: signature }.span(body), ("", ""))
        }
        Some(_) => None,
    }
}

const WHOLE: (&str, &str) = ("\"extra_content\":{\"google\":{\"thought_signature\":", "}},");
const WHOLE_ALONE: (&str, &str) = ("\"extra_content\":{\"google\":{\"thought_signature\":", "}}");

impl<'a> Object<'a> {
    fn is_object(&self) -> bool {
        self.raw.get().starts_with('{')
    }

    fn is_empty(&self) -> bool {
        self.raw.get().get(1..).is_some_and(|inside| inside.trim_start().starts_with('}'))
    }

    fn field(&self, name: &str) -> Option<&'a RawValue> {
        serde_json::from_str::<Fields<'a>>(self.raw.get()).ok()?.get(name)
    }

    /// Where the value stands in the body.
    fn span(&self, body: &[u8]) -> Range<usize> {
        let start = self.raw.get().as_ptr() as usize - body.as_ptr() as usize;
        start..start + self.raw.get().len()
    }

    /// The empty range behind the opening brace.
    fn behind_brace(&self, body: &[u8]) -> Range<usize> {
        let start = self.span(body).start + 1;
        start..start
    }
}

fn is_string(raw: &RawValue, wanted: &str) -> bool {
    json::text(raw.get()).is_some_and(|text| text == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The messages with the signature put into every place.
    fn filled(messages: &str) -> String {
        let mut out = messages.to_owned();
        for place in find(messages.as_bytes(), messages).into_iter().rev() {
            out.replace_range(place.at, &format!("{}\"S\"{}", place.around.0, place.around.1));
        }
        out
    }

    fn with_call(call: &str) -> String {
        format!(
            r#"[{{"role":"user","content":"x"}},{{"role":"assistant","tool_calls":[{call},{{"id":"second"}}]}},{{"role":"tool"}}]"#
        )
    }

    #[test]
    fn a_missing_signature_is_put_where_it_belongs() {
        for (call, expected) in [
            (r#"{"id":"a"}"#, r#"{"extra_content":{"google":{"thought_signature":"S"}},"id":"a"}"#),
            (r#"{ }"#, r#"{"extra_content":{"google":{"thought_signature":"S"}} }"#),
            (
                r#"{"id":"a","extra_content":null}"#,
                r#"{"id":"a","extra_content":{"google":{"thought_signature":"S"}}}"#,
            ),
            (r#"{"extra_content": {}}"#, r#"{"extra_content": {"google":{"thought_signature":"S"}}}"#),
            (r#"{"extra_content":{"x":1}}"#, r#"{"extra_content":{"google":{"thought_signature":"S"},"x":1}}"#),
            (r#"{"extra_content":{"google":null}}"#, r#"{"extra_content":{"google":{"thought_signature":"S"}}}"#),
            (r#"{"extra_content":{"google":{ }}}"#, r#"{"extra_content":{"google":{"thought_signature":"S" }}}"#),
            (
                r#"{"extra_content":{"google":{"t":1}}}"#,
                r#"{"extra_content":{"google":{"thought_signature":"S","t":1}}}"#,
            ),
            (
                r#"{"extra_content":{"google":{"thought_signature":""}}}"#,
                r#"{"extra_content":{"google":{"thought_signature":"S"}}}"#,
            ),
        ] {
            let out = filled(&with_call(call));
            assert_eq!(out, with_call(expected));
            serde_json::from_str::<serde_json::Value>(&out).unwrap();
        }
    }

    #[test]
    fn what_lacks_nothing_is_left_alone() {
        for messages in [
            with_call(r#"{"extra_content":{"google":{"thought_signature":"X"}}}"#),
            with_call("5"),
            r#"[{"role":"user"},{"role":"assistant","tool_calls":[{"id":"old"}]},{"role":"tool"},{"role":"user"}]"#
                .into(),
            r#"[{"role":"assistant","content":"tool_calls"}]"#.into(),
            r#"[{"role":"assistant","tool_calls":[]}]"#.into(),
            r#"[{"role":"assistant","tool_calls":null}]"#.into(),
            r#"[1,"tool_calls",null]"#.into(),
            r#"{"tool_calls":1}"#.into(),
        ] {
            assert_eq!(filled(&messages), messages);
        }
    }

    #[test]
    fn every_step_of_the_turn_counts_and_ids_are_read() {
        let messages = r#"[{"role":"us\u0065r"},{"role":"assistant","tool_calls":[{"id":"a\u0062"}]},{"role":"tool"},{"tool_calls":[{"id":7}],"role":"assistant"}]"#;
        let places = find(messages.as_bytes(), messages);
        let calls: Vec<_> = places.iter().map(|place| place.call.as_deref()).collect();
        assert_eq!(calls, [Some("ab"), None]);
    }

    #[test]
    fn what_is_no_turn_is_left_alone() {
        let step = r#"{"role":"assistant","tool_calls":[{}]},"#;
        for (steps, found) in [(MAX_PLACES, MAX_PLACES), (MAX_PLACES + 1, 0)] {
            let messages = format!("[{}{{\"role\":\"tool\"}}]", step.repeat(steps));
            assert_eq!(find(messages.as_bytes(), &messages).len(), found);
        }
    }

    proptest! {
        #[test]
        fn whatever_the_call_looks_like_the_result_is_json(
            id in any::<String>(), before in any::<bool>(), extra in prop_oneof![
                Just("null"), Just("{}"), Just("[]"), Just("{\"google\":{}}"), Just("{\"google\":5,\"x\":{}}"),
                Just("{\"google\":{\"thought_signature\":null}}"), Just("{ \"google\" : {\"a\":\"}\"} }"), Just("\"{\""),
            ],
        ) {
            let id = serde_json::to_string(&id).unwrap();
            let call = if before { format!("{{\"id\":{id},\"extra_content\":{extra}}}") } else { format!("{{\"extra_content\":{extra},\"id\":{id}}}") };
            let out = filled(&with_call(&call));
            let value: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(&value[1]["tool_calls"][0]["extra_content"]["google"]["thought_signature"], "S");
            // Put in once, it is not missing any more.
            prop_assert_eq!(filled(&out), out);
        }
    }
}
