//! Where in a request a thought signature is needed and missing.
//!
//! Gemini 3 wants it on the first call of every step of the current turn: each assistant message after the last one of
//! the user. Nothing is changed here; the places are byte ranges of the client's body, and what does not have the
//! expected form has none.

use crate::json;
use memchr::memmem;
use std::borrow::Cow;
use std::collections::VecDeque;
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

/// One JSON value on the way to the signature, as it stands in the body.
#[derive(Clone, Copy)]
struct Object<'a> {
    raw: &'a str,
}

/// A turn has a few dozen steps; a request with more than this many places is no turn of an agent, and what it lacks is
/// left to upstream: otherwise a small request could grow without bound.
const MAX_PLACES: usize = 256;
/// More messages than this are not looked at, from the last one back: where they stand takes memory that nobody counts.
const MAX_MESSAGES: usize = 16 * 1024;

/// All places in the messages, by their offsets in `body`; none where there are more than any real turn has.
pub(super) fn find<'a>(body: &'a [u8], messages: &'a [u8]) -> Vec<Place<'a>> {
    // Most requests have no calls: nothing is parsed for them. The name can be written in another way only by this escape.
    if memmem::find(messages, b"tool_calls").is_none() && memmem::find(messages, b"\\u").is_none() {
        return Vec::new();
    }
    let mut last = VecDeque::new();
    let mut is_cut_off = false;
    let are_well_formed = json::elements(messages, |message| {
        if last.len() == MAX_MESSAGES {
            last.pop_front();
            is_cut_off = true;
        }
        last.push_back(message);
    });
    if are_well_formed.is_none() {
        return Vec::new();
    }
    let mut places = Vec::new();
    for message in last.into_iter().rev() {
        let message = messages.get(message).and_then(|raw| std::str::from_utf8(raw).ok());
        let Some([role, calls]) = message.and_then(|raw| json::values(raw, ["role", "tool_calls"])) else { continue };
        if role.and_then(json::text).as_deref() == Some("user") {
            is_cut_off = false;
            break;
        }
        places.extend(calls.and_then(first_element).and_then(|call| place_in(body, call)));
        if places.len() > MAX_PLACES {
            return Vec::new();
        }
    }
    if is_cut_off {
        return Vec::new();
    }
    places.reverse();
    places
}

fn first_element(array: &str) -> Option<Object<'_>> {
    let mut first = None;
    json::elements(array.as_bytes(), |element| {
        first.get_or_insert(element);
    })?;
    Some(Object { raw: array.get(first?)? })
}

/// The place in one tool call, if its signature is missing.
fn place_in<'a>(body: &'a [u8], call: Object<'a>) -> Option<Place<'a>> {
    let id = call.field("id").and_then(|id| json::text(id.raw));
    let place = |at, around| Some(Place { call: id.clone(), at, around });
    if !call.is_object() {
        return None;
    }
    let Some(extra) = call.field("extra_content") else {
        return place(call.behind_brace(body), if call.is_empty() { WHOLE_ALONE } else { WHOLE });
    };
    if !extra.is_object() {
        // What else the client put there is not ours to take away.
        let around = ("{\"google\":{\"thought_signature\":", "}}");
        return if extra.is_null() { place(extra.span(body), around) } else { None };
    }
    let Some(google) = extra.field("google") else {
        let around = if extra.is_empty() {
            ("\"google\":{\"thought_signature\":", "}")
        } else {
            ("\"google\":{\"thought_signature\":", "},")
        };
        return place(extra.behind_brace(body), around);
    };
    if !google.is_object() {
        return if google.is_null() { place(google.span(body), ("{\"thought_signature\":", "}")) } else { None };
    }
    match google.field("thought_signature") {
        None => {
            let around =
                if google.is_empty() { ("\"thought_signature\":", "") } else { ("\"thought_signature\":", ",") };
            place(google.behind_brace(body), around)
        }
        Some(signature) if matches!(signature.raw, "null" | "\"\"") => place(signature.span(body), ("", "")),
        Some(_) => None,
    }
}

const WHOLE: (&str, &str) = ("\"extra_content\":{\"google\":{\"thought_signature\":", "}},");
const WHOLE_ALONE: (&str, &str) = ("\"extra_content\":{\"google\":{\"thought_signature\":", "}}");

impl<'a> Object<'a> {
    fn is_object(self) -> bool {
        self.raw.starts_with('{')
    }

    fn is_null(self) -> bool {
        self.raw == "null"
    }

    fn is_empty(self) -> bool {
        self.raw.get(1..).is_some_and(|inside| inside.trim_start().starts_with('}'))
    }

    fn field(self, name: &str) -> Option<Self> {
        let [value] = json::values(self.raw, [name])?;
        value.map(|raw| Self { raw })
    }

    /// Where the value stands in the body.
    fn span(self, body: &[u8]) -> Range<usize> {
        let start = self.raw.as_ptr() as usize - body.as_ptr() as usize;
        start..start + self.raw.len()
    }

    /// The empty range behind the opening brace.
    fn behind_brace(self, body: &[u8]) -> Range<usize> {
        let start = self.span(body).start + 1;
        start..start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The messages with the signature put into every place.
    fn filled(messages: &str) -> String {
        let mut out = messages.to_owned();
        for place in find(messages.as_bytes(), messages.as_bytes()).into_iter().rev() {
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
            with_call(r#"{"extra_content":["mine"]}"#),
            with_call(r#"{"extra_content":{"google":"mine"}}"#),
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
        let places = find(messages.as_bytes(), messages.as_bytes());
        let calls: Vec<_> = places.iter().map(|place| place.call.as_deref()).collect();
        assert_eq!(calls, [Some("ab"), None]);
    }

    #[test]
    fn what_is_no_turn_is_left_alone() {
        let step = r#"{"role":"assistant","tool_calls":[{}]},"#;
        for (steps, found) in [(MAX_PLACES, MAX_PLACES), (MAX_PLACES + 1, 0)] {
            let messages = format!("[{}{{\"role\":\"tool\"}}]", step.repeat(steps));
            assert_eq!(find(messages.as_bytes(), messages.as_bytes()).len(), found);
        }
        // As many messages as are looked at, and one more, with and without a user before them.
        let step = r#"{"role":"user"},{"role":"assistant","tool_calls":[{}]}"#;
        for (tools, found) in [(0, 1), (MAX_MESSAGES - 2, 1), (MAX_MESSAGES - 1, 0), (2 * MAX_MESSAGES, 0)] {
            let messages = format!("[0,{step}{}]", ",{\"role\":\"tool\"}".repeat(tools));
            assert_eq!(find(messages.as_bytes(), messages.as_bytes()).len(), found, "{tools}");
        }
    }

    #[test]
    fn of_what_stands_twice_the_last_one_counts() {
        let messages = r#"[{"role":"user","role":"assistant","tool_calls":[],"tool\u005fcalls":[{"id":1,"id":"a"}]}]"#;
        let places = find(messages.as_bytes(), messages.as_bytes());
        assert_eq!(places.iter().map(|place| place.call.as_deref()).collect::<Vec<_>>(), [Some("a")]);
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
            if ["[]", "{\"google\":5,\"x\":{}}", "\"{\""].contains(&extra) {
                prop_assert_eq!(&out, &with_call(&call));
            } else {
                prop_assert_eq!(&value[1]["tool_calls"][0]["extra_content"]["google"]["thought_signature"], "S");
            }
            // Put in once, it is not missing any more.
            prop_assert_eq!(filled(&out), out);
        }
    }
}
