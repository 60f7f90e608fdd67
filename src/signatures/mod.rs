//! Thought signatures: what lets clients that drop them use the tools of Gemini 3.
//!
//! Gemini 3 refuses a tool result whose call comes back without the signature that it went out with, and many clients
//! drop it. The keeper notes the signatures of passing answers, and puts a missing one back into a request, by bytes. It
//! is the one exception to the rule that a request changes in its model only; a request that lacks nothing is not
//! touched, and an answer never is.

mod memory;
mod places;

use crate::body::Edit;
use crate::tap::{Listener, WholeText};
use bytes::Bytes;
use memchr::memmem;
use memory::Memory;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// What is done about missing signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The kept one is put in, or else the skip value.
    #[default]
    Keep,
    /// The skip value is put in; nothing is kept.
    SkipValue,
    /// Nothing.
    Off,
}

/// How many signatures were put into a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Kept ones.
    pub kept: u32,
    /// Skip values.
    pub skipped: u32,
}

impl Restored {
    /// Whether none were.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// The keeper.
#[derive(Clone, Debug)]
pub struct Signatures {
    policy: Policy,
    /// A JSON string.
    skip_value: String,
    memory: Arc<Memory>,
}

impl Signatures {
    /// A keeper that knows nothing yet. `skip_value` is what Vertex takes in place of a signature.
    #[must_use]
    pub fn new(policy: Policy, skip_value: &str) -> Self {
        Self { policy, skip_value: json_string(skip_value), memory: Arc::default() }
    }

    /// The edits that put missing signatures into the messages of a body, in the order of their places.
    #[must_use]
    pub fn restore(&self, body: &[u8], messages: &[u8], key: &str) -> (Vec<Edit>, Restored) {
        let mut restored = Restored::default();
        if self.policy == Policy::Off {
            return (Vec::new(), restored);
        }
        let now = Instant::now();
        let edits = places::find(body, messages).into_iter().map(|place| {
            let kept = place.call.and_then(|call| self.memory.get(key, &call, now));
            let signature = match &kept {
                Some(signature) => {
                    restored.kept += 1;
                    Cow::Owned(json_string(signature))
                }
                None => {
                    restored.skipped += 1;
                    Cow::Borrowed(&*self.skip_value)
                }
            };
            let (before, behind) = place.around;
            Edit { at: place.at, with: Bytes::from([before, &signature, behind].concat()) }
        });
        (edits.collect(), restored)
    }

    /// Something that notes the signatures of an answer for a key, unless none are kept.
    #[must_use]
    pub fn listener(&self, key: &Arc<str>) -> Option<Notes> {
        (self.policy == Policy::Keep).then(|| Notes {
            memory: self.memory.clone(),
            key: key.clone(),
            text: WholeText::default(),
            calls: Vec::new(),
        })
    }
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("strings always serialise")
}

/// Notes the signatures of one answer.
#[derive(Debug)]
pub struct Notes {
    memory: Arc<Memory>,
    key: Arc<str>,
    text: WholeText,
    /// The calls under way by choice and index, for fragments that do not name theirs.
    calls: Vec<((u64, u64), String)>,
}

/// Calls of one answer that are followed; no model makes as many.
const MAX_CALLS: usize = 256;
/// What stands in every answer that matters.
static TOOL_CALLS: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"tool_calls"));

impl Listener for Notes {
    fn concerns(&self, events: &[u8]) -> bool {
        TOOL_CALLS.find(events).is_some()
    }

    fn hear(&mut self, part: &[u8]) {
        self.text.push(part);
    }

    fn end_of_text(&mut self) {
        if let Some(text) = self.text.take() {
            self.note_answer(&text);
        }
    }
}

impl Notes {
    /// Notes the signatures of an answer, or of a piece of one.
    fn note_answer(&mut self, json: &[u8]) {
        if TOOL_CALLS.find(json).is_none() {
            return;
        }
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(json) else { return };
        for choice in answer.choices {
            let messages = [choice.delta, choice.message].into_iter().flatten();
            let calls = messages.filter_map(|message| message.tool_calls).flatten();
            for (position, call) in calls.enumerate() {
                self.note(
                    (number(choice.index), call.index.map_or(position as u64, |index| number(Some(index)))),
                    call,
                );
            }
        }
    }

    fn note(&mut self, place: (u64, u64), call: Call<'_>) {
        if let Some(id) = call.id {
            self.calls.retain(|(known, _)| *known != place);
            if self.calls.len() < MAX_CALLS {
                self.calls.push((place, id.into_owned()));
            }
        }
        let signature = call.extra_content.and_then(|extra| extra.google?.thought_signature);
        let id = self.calls.iter().find(|(known, _)| *known == place).map(|(_, id)| id);
        if let (Some(id), Some(signature)) = (id, signature.filter(|text| !text.is_empty())) {
            self.memory.put(&self.key, id, &signature, Instant::now());
        }
    }
}

/// An index; what is none counts as the first.
fn number(raw: Option<&RawValue>) -> u64 {
    raw.and_then(|raw| raw.get().parse().ok()).unwrap_or(0)
}

/// As much of an answer, or of a piece of one, as matters here.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    index: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow, default)]
    index: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    extra_content: Option<Extra<'a>>,
}

#[derive(Deserialize)]
struct Extra<'a> {
    #[serde(borrow, default)]
    google: Option<Google<'a>>,
}

#[derive(Deserialize)]
struct Google<'a> {
    #[serde(borrow, default)]
    thought_signature: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: &str = r#"[{"role":"user"},{"role":"assistant","tool_calls":[{"id":"c1"}]}]"#;

    fn restored(signatures: &Signatures, key: &str) -> (String, Restored) {
        let (edits, restored) = signatures.restore(REQUEST.as_bytes(), REQUEST.as_bytes(), key);
        let text = edits.first().map(|edit| String::from_utf8_lossy(&edit.with).into_owned()).unwrap_or_default();
        (text, restored)
    }

    #[test]
    fn kept_signatures_come_back_to_their_key_alone() {
        let signatures = Signatures::new(Policy::Keep, "skip");
        let key: Arc<str> = "one".into();
        let mut notes = signatures.listener(&key).unwrap();
        notes.note_answer(br#"{"choices":[{"delta":{"tool_calls":[{"extra_content":{"google":{"thought_signature":"A+/="}},"id":"c1"}]}}]}"#);
        let (text, count) = restored(&signatures, "one");
        assert!(text.contains(r#""thought_signature":"A+/=""#), "{text}");
        assert_eq!(count, Restored { kept: 1, skipped: 0 });
        let (text, count) = restored(&signatures, "two");
        assert!(text.contains(r#""thought_signature":"skip""#), "{text}");
        assert_eq!(count, Restored { kept: 0, skipped: 1 });
    }

    #[test]
    fn policies() {
        assert!(restored(&Signatures::new(Policy::Off, "skip"), "k").1.is_none());
        let skipping = Signatures::new(Policy::SkipValue, "skip");
        assert!(skipping.listener(&"k".into()).is_none());
        assert_eq!(restored(&skipping, "k").1.skipped, 1);
    }

    #[test]
    fn fragments_and_whole_answers_are_understood() {
        let signatures = Signatures::new(Policy::Keep, "skip");
        let key: Arc<str> = "k".into();
        let mut notes = signatures.listener(&key).unwrap();
        for json in [
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"c1","index":0}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"extra_content":{"google":{"thought_signature":"S1"}}}]}}]}"#,
            r#"{"choices":[{"message":{"tool_calls":[{"id":"c2","extra_content":{"google":{"thought_signature":"S2"}}},{"id":"c3"}]}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"tool_calls":[{"id":"y1","index":0},{"id":"y2","index":1}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"id":"x1","index":0}]}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"extra_content":{"google":{"thought_signature":"SY"}}}]}}]}"#,
            r#"{"choices":5,"tool_calls":1}"#,
            "tool_calls",
        ] {
            notes.note_answer(json.as_bytes());
        }
        let now = Instant::now();
        assert_eq!(signatures.memory.get("k", "c1", now).as_deref(), Some("S1"));
        assert_eq!(signatures.memory.get("k", "c2", now).as_deref(), Some("S2"));
        assert_eq!(signatures.memory.get("k", "c3", now), None);
        assert_eq!(signatures.memory.get("k", "y1", now).as_deref(), Some("SY"));
        assert_eq!(signatures.memory.get("k", "y2", now), None);
        assert_eq!(signatures.memory.get("k", "x1", now), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_listener_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let signatures = Signatures::new(Policy::Keep, "skip");
            let mut notes = signatures.listener(&"k".into()).unwrap();
            notes.note_answer(&bytes);
            notes.note_answer(&[b"{\"choices\":[{\"delta\":{\"tool_calls\":[", &bytes[..], b"]}}]}"].concat());
        }
    }
}
