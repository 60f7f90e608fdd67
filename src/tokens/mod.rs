//! What an answer cost, in tokens, as upstream tells it in the answer's `usage`.
//!
//! Vertex counts thinking apart from `completion_tokens`, unlike OpenAI, and leaves out what is zero. In a stream the
//! usage may come with the last piece of content, grow from event to event, or have an event of its own: the last one
//! counts. Nothing is ever estimated: what upstream did not tell, or not in a way that is understood, is unknown.

mod field;

use crate::json;
use crate::tap::Listener;
use field::Finder;
use memchr::memmem;
use std::sync::LazyLock;

/// The field as it stands in an answer. Within a JSON string its quotes would be escaped.
static QUOTED_USAGE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(br#""usage""#));
/// What the names of counts have in common.
static COUNT_NAME: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"_tokens"));
/// No count is larger: what JSON numbers hold in every client.
const MAX_COUNT: u64 = 1 << 53;

/// The tokens of one answer. `None` is what upstream left out: zero, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the request, cached ones included: `prompt_tokens`.
    pub prompt: Option<u64>,
    /// Of the request, as many as came from a cache: `prompt_tokens_details.cached_tokens`.
    pub cached: Option<u64>,
    /// Of the answer, without thinking: `completion_tokens`.
    pub answer: Option<u64>,
    /// Of thinking: `completion_tokens_details.reasoning_tokens`.
    pub thinking: Option<u64>,
}

impl Tokens {
    /// Reads a `usage` object; `None` where it is none, or a count in it is no count.
    #[must_use]
    pub fn parse(usage: &[u8]) -> Option<Self> {
        let names = ["prompt_tokens", "prompt_tokens_details", "completion_tokens", "completion_tokens_details"];
        let [prompt, prompt_details, completion, completion_details] =
            json::values(std::str::from_utf8(usage).ok()?, names)?;
        let tokens = Self {
            prompt: count(prompt)?,
            cached: count_within(prompt_details, "cached_tokens")?,
            answer: count(completion)?,
            thinking: count_within(completion_details, "reasoning_tokens")?,
        };
        (tokens != Self::default()).then_some(tokens)
    }

    /// What was generated, thinking included: what is billed as output.
    #[must_use]
    pub fn output(&self) -> u64 {
        self.answer.unwrap_or(0).saturating_add(self.thinking.unwrap_or(0))
    }

    /// All of them; cached ones are part of the prompt.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.prompt.unwrap_or(0).saturating_add(self.output())
    }
}

/// Whether a model may have worked for a chat that ended so: not when an error was answered, unless it was the answer to
/// upstream's silence.
#[must_use]
pub fn may_have_cost(status: Option<u16>, error: Option<&str>) -> bool {
    match status {
        Some(400..) => {
            let code = error.and_then(|error| error.split(':').next());
            matches!(code, Some("upstream_broke" | "upstream_timeout"))
        }
        _ => true,
    }
}

/// A count that may be left out; `None` is something else in its place.
fn count(raw: Option<&str>) -> Option<Option<u64>> {
    match raw {
        None | Some("null") => Some(None),
        Some(number) => number.parse().ok().filter(|count| *count <= MAX_COUNT).map(Some),
    }
}

/// A count in an object that may be left out.
fn count_within(raw: Option<&str>, name: &str) -> Option<Option<u64>> {
    match raw {
        None | Some("null") => Some(None),
        Some(object) => {
            let [value] = json::values(object, [name])?;
            count(value)
        }
    }
}

/// Listens for the usage of one answer.
#[derive(Debug)]
pub struct Meter {
    finder: Finder,
    /// The last usage that had counts, as it came: parsed once, at the end.
    usage: Vec<u8>,
}

impl Meter {
    /// A meter that has heard nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { finder: Finder::new(b"usage"), usage: Vec::new() }
    }

    /// What the answer has told so far.
    #[must_use]
    pub fn tokens(&self) -> Option<Tokens> {
        if self.usage.is_empty() { None } else { Tokens::parse(&self.usage) }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Listener for Meter {
    fn concerns(&self, events: &[u8]) -> bool {
        QUOTED_USAGE.find(events).is_some()
    }

    fn hear(&mut self, part: &[u8]) {
        self.finder.push(part);
    }

    fn end_of_text(&mut self) {
        // `null`, or an object that tells other things, says nothing about an earlier one.
        if let Some(usage) = self.finder.finish().filter(|usage| COUNT_NAME.find(usage).is_some()) {
            std::mem::swap(&mut self.usage, usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::{Form, Tap};
    use proptest::prelude::*;
    use serde_json::Value;

    const USAGE: &str = r#"{"completion_tokens":45,"completion_tokens_details":{"reasoning_tokens":504},"extra_properties":{"google":{"traffic_type":"ON_DEMAND"}},"prompt_tokens":27,"prompt_tokens_details":{"cached_tokens":3},"total_tokens":576}"#;
    const TOKENS: Tokens = Tokens { prompt: Some(27), cached: Some(3), answer: Some(45), thinking: Some(504) };

    fn metered(form: Form, pieces: &[&[u8]]) -> Option<Tokens> {
        let mut tap = Tap::new(Meter::new(), form);
        pieces.iter().for_each(|piece| tap.push(piece));
        tap.end().tokens()
    }

    fn streamed(stream: &str) -> Option<Tokens> {
        metered(Form::Stream, &[stream.as_bytes()])
    }

    #[test]
    fn usage_is_read_as_vertex_writes_it() {
        assert_eq!(Tokens::parse(USAGE.as_bytes()), Some(TOKENS));
        assert_eq!((TOKENS.output(), TOKENS.total()), (549, 576));
        // Thinking took the whole budget: no completion_tokens.
        let empty = Tokens::parse(br#"{"completion_tokens_details":{"reasoning_tokens":295},"extra_properties":{},"prompt_tokens":7912,"total_tokens":8207}"#).unwrap();
        assert_eq!(empty, Tokens { prompt: Some(7912), cached: None, answer: None, thinking: Some(295) });
        assert_eq!(empty.total(), 8207);
        let nulls = br#"{"prompt_tokens":1,"prompt_tokens_details":null,"completion_tokens":null}"#;
        assert_eq!(Tokens::parse(nulls), Some(Tokens { prompt: Some(1), ..Tokens::default() }));
    }

    #[test]
    fn what_is_no_count_is_unknown() {
        for usage in [
            r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1.0,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1e3,"completion_tokens":1}"#,
            r#"{"prompt_tokens":"1","completion_tokens":1}"#,
            r#"{"prompt_tokens":18446744073709551616}"#,
            r#"{"prompt_tokens":9007199254740993}"#,
            r#"{"prompt_tokens":{"prompt_tokens":1}}"#,
            r#"{"prompt_tokens":1,"prompt_tokens_details":5}"#,
            r#"{"prompt_tokens":1,"completion_tokens_details":[5]}"#,
            r#"{"prompt_tokens":1,"completion_tokens_details":{"reasoning_tokens":true}}"#,
            r#"{"prompt_tokens":01}"#,
            r#"{"prompt_tokens":1"#,
            r#"[1,2,3]"#,
            r#"{"total_tokens":5}"#,
            "{}",
            "null",
            "5",
            "",
        ] {
            assert_eq!(Tokens::parse(usage.as_bytes()), None, "{usage}");
        }
    }

    #[test]
    fn the_last_of_two_counts() {
        let usage = br#"{"prompt_tokens":-1,"prompt_tokens":1,"prompt_tokens_details":[],"prompt_tokens_details":{"cached_tokens":"x","cached_tokens":2},"cached_tokens":9}"#;
        assert_eq!(Tokens::parse(usage), Some(Tokens { prompt: Some(1), cached: Some(2), ..Tokens::default() }));
        assert_eq!(Tokens::parse(br#"{"prompt_tokens":1,"prompt_tokens":-1}"#), None);
    }

    #[test]
    fn the_last_usage_of_a_stream_counts() {
        let event = |usage: &str| format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
        let (first, last) = (event(r#"{"prompt_tokens":27}"#), event(USAGE));
        assert_eq!(streamed(&format!("{first}{last}data: [DONE]\n\n")), Some(TOKENS));
        // Nothing in these about tokens.
        let silent = [event("null"), event("{}"), event(r#"{"extra_properties":{"google":{}}}"#)].concat();
        assert_eq!(streamed(&format!("{last}{silent}")), Some(TOKENS));
        assert_eq!(streamed(&format!("{last}data: {{\"usage\":\n\ndata: x\"usage\"\n\n: \"usage\"\n\n")), Some(TOKENS));
        // A last word that is not understood leaves the sum unknown.
        assert_eq!(streamed(&format!("{last}{}", event(r#"{"prompt_tokens":-5}"#))), None);
        assert_eq!(
            streamed(&format!("data:{{\"usage\":\r\ndata:{USAGE}}}\r\n\r\n")),
            Some(TOKENS),
            "two lines of data"
        );
        assert_eq!(streamed(&format!("data: {{\"usage\":{USAGE}}}")), Some(TOKENS), "no blank line");
        assert_eq!(streamed(&format!("{{\"usage\":{USAGE}}}")), None, "no event");
    }

    #[test]
    fn a_message_cannot_fool_it() {
        for content in [
            r#"\"usage\":{\"prompt_tokens\":1}"#,
            r#"\\\"},\"usage\":{\"prompt_tokens\":1}"#,
            r#"usage"},"usage2":{"usage":{"prompt_tokens":1}},"x":{"a":""#,
        ] {
            let text = format!(r#"{{"choices":[{{"message":{{"content":"{content}"}}}}]}}"#);
            assert_eq!(metered(Form::Json(None), &[text.as_bytes()]), None, "{text}");
            assert_eq!(streamed(&format!("data: {text}\n\n")), None, "{text}");
        }
    }

    #[test]
    fn large_answers_are_read_and_not_held() {
        let image = "A".repeat(10_000_000);
        let body = format!(r#"{{"choices":[{{"message":{{"content":"{image}"}}}}],"usage":{USAGE},"z":"{image}"}}"#);
        for size in [16 * 1024, 1000] {
            let mut tap = Tap::new(Meter::new(), Form::Json(Some(body.len() as u64)));
            body.as_bytes().chunks(size).for_each(|piece| tap.push(piece));
            assert_eq!(tap.end().tokens(), Some(TOKENS));
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
            assert_eq!(metered(Form::Stream, &[&[&b"data: "[..]], &pieces[..]].concat()), Some(TOKENS));
        }
    }

    /// Usage objects and things in their place.
    fn usage() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(USAGE.to_owned()),
            (0u64..9, 0u64..9).prop_map(|(one, two)| format!(r#"{{"completion_tokens":{one},"prompt_tokens":{two}}}"#)),
            Just("null".to_owned()),
            Just("[]".to_owned()),
            Just(r#"{"prompt_tokens":-1}"#.to_owned()),
            Just(r#"{"usage":{"prompt_tokens":3}}"#.to_owned()),
        ]
    }

    /// The data of an event.
    fn data() -> impl Strategy<Value = String> {
        prop_oneof![
            usage().prop_map(|usage| format!(r#"{{"choices":[],"usage":{usage}}}"#)),
            usage().prop_map(|usage| format!(r#"{{"choices":[{{"usage":{usage}}}]}}"#)),
            usage().prop_map(|usage| serde_json::json!({ "choices": format!("\"usage\":{usage}") }).to_string()),
            usage().prop_map(|usage| format!(r#"{{"usage":{usage}"#)),
            Just("[DONE]".to_owned()),
        ]
    }

    /// What a client would make of the events, one parsed after another.
    fn expected(events: &[(String, &str)]) -> Option<Tokens> {
        let mut usages = events.iter().filter_map(|(data, _)| {
            let value: Value = serde_json::from_str(data).ok()?;
            Some(value.get("usage")?.to_string()).filter(|usage| usage.contains("_tokens"))
        });
        usages.next_back().and_then(|usage| Tokens::parse(usage.as_bytes()))
    }

    /// What is understood of a value, read from a tree of it.
    fn understood(usage: &Value) -> Option<Tokens> {
        let usage = usage.as_object()?;
        let count = |value: Option<&Value>| match value {
            None | Some(Value::Null) => Some(None),
            Some(value) => value.as_u64().filter(|count| *count <= MAX_COUNT).map(Some),
        };
        let within = |details: Option<&Value>, name: &str| match details {
            None | Some(Value::Null) => Some(None),
            Some(details) => count(details.as_object()?.get(name)),
        };
        let tokens = Tokens {
            prompt: count(usage.get("prompt_tokens"))?,
            cached: within(usage.get("prompt_tokens_details"), "cached_tokens")?,
            answer: count(usage.get("completion_tokens"))?,
            thinking: within(usage.get("completion_tokens_details"), "reasoning_tokens")?,
        };
        (tokens != Tokens::default()).then_some(tokens)
    }

    /// Any JSON, rich in what a usage has.
    fn like_usage() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            8 => (0..1000_u64).prop_map(Value::from),
            1 => any::<u64>().prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<f64>().prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => any::<String>().prop_map(Value::from),
            2 => Just(Value::Null),
        ];
        let name = "(prompt|completion)_tokens(_details)?|(cached|reasoning)_tokens|[a-z]";
        leaf.prop_recursive(3, 16, 5, move |inner| {
            prop_oneof![
                1 => proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                6 => proptest::collection::hash_map(name, inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_usage_is_understood_as_a_tree_of_it_would_be(usage in like_usage()) {
            prop_assert_eq!(Tokens::parse(usage.to_string().as_bytes()), understood(&usage), "{}", usage);
        }

        #[test]
        fn pieces_of_any_size_are_metered_as_a_client_would(
            events in proptest::collection::vec((data(), proptest::sample::select(vec!["\n\n", "\r\n\r\n", "\r\r", "\n: x\r\n\n"])), 0..6),
            cuts in proptest::collection::vec(1usize..300, 1..10),
        ) {
            let stream: String = events.iter().map(|(data, end)| format!("data: {data}{end}")).collect();
            let (mut rest, mut cut, mut pieces) = (stream.as_bytes(), cuts.iter().cycle(), Vec::new());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(metered(Form::Stream, &pieces), expected(&events));
        }

        #[test]
        fn no_bytes_make_a_meter_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tokens::parse(&bytes);
            metered(Form::Stream, &[b"data: {\"usage\":", &bytes, b"}\n\n"]);
            metered(Form::Json(None), &[b"{\"usage\":", &bytes, b"}"]);
        }
    }
}
