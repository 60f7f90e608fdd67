//! Scenarios: what the emulator says in special cases, as data.
//!
//! One JSON file below `scenarios/` is one scenario: when it applies, and what is answered then. A new one is a file
//! and its line in `FILES`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::errors::Shape;
use super::tools;
use super::vertex::{Chat, Role};

/// The files, in the order in which they are tried.
const FILES: &[(&str, &str)] = &[
    ("blocked.json", include_str!("scenarios/blocked.json")),
    ("cut.json", include_str!("scenarios/cut.json")),
    ("empty.json", include_str!("scenarios/empty.json")),
    ("forbidden.json", include_str!("scenarios/forbidden.json")),
    ("html-404.json", include_str!("scenarios/html-404.json")),
    ("internal.json", include_str!("scenarios/internal.json")),
    ("json-tail.json", include_str!("scenarios/json-tail.json")),
    ("malformed-call.json", include_str!("scenarios/malformed-call.json")),
    ("object-error.json", include_str!("scenarios/object-error.json")),
    ("overloaded.json", include_str!("scenarios/overloaded.json")),
    ("parallel-calls.json", include_str!("scenarios/parallel-calls.json")),
    ("pi-repair.json", include_str!("scenarios/pi-repair.json")),
    ("rate-limited.json", include_str!("scenarios/rate-limited.json")),
    ("slow.json", include_str!("scenarios/slow.json")),
    ("tool-stop.json", include_str!("scenarios/tool-stop.json")),
    ("shell-edit.json", include_str!("scenarios/shell-edit.json")),
    ("shell-read.json", include_str!("scenarios/shell-read.json")),
    ("shell-skill.json", include_str!("scenarios/shell-skill.json")),
    ("introduction.json", include_str!("scenarios/introduction.json")),
    ("greeting.json", include_str!("scenarios/greeting.json")),
    ("rain.json", include_str!("scenarios/rain.json")),
];

/// Begins a marker in a message: `[emulator:rate-limited]`.
const MARKER: &str = "[emulator:";

static SCENARIOS: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
    FILES.iter().map(|(_, text)| serde_json::from_str(text).expect("a test parses every embedded scenario")).collect()
});

/// A special case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short and unique; the same as the marker where there is one.
    pub name: String,
    /// One line for people: what it shows.
    pub about: String,
    when: When,
    answer: Answer,
}

/// When a scenario applies: everything that is given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct When {
    /// Only where the answer would be an echo, rather than in place of everything; then it must give a text.
    instead_of_echo: bool,
    /// The last message holds `[emulator:MARKER]`.
    marker: Option<String>,
    /// The model's name, with its publisher, begins so.
    model_prefix: Option<String>,
    /// The last message holds one of these, as whole words and in any case.
    any_phrase: Vec<String>,
    /// What the user has asked last holds one of these, also when functions have answered since.
    any_prompt_phrase: Vec<String>,
    /// The last message has no more words than this.
    max_words: Option<usize>,
    /// Each of these functions may be called.
    callable: Vec<String>,
    /// The request has, or has not, functions.
    has_tools: Option<bool>,
    /// The request asks, or does not ask, for a stream.
    stream: Option<bool>,
}

/// What is answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// An error in Google's shape.
    Error(ErrorAnswer),
    /// Bytes as they stand.
    Raw(RawAnswer),
    /// A completion, in all that is not given as it would be otherwise.
    Completion(Box<CompletionAnswer>),
}

/// An error in Google's shape.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorAnswer {
    pub(super) code: u16,
    /// `{project}`, `{location}` and `{model}` are filled in.
    pub(super) message: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) details: Vec<Value>,
    #[serde(default)]
    pub(super) shape: Shape,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Before the answer begins.
    #[serde(default)]
    pub(super) wait_ms: u64,
}

/// An answer that is not made but given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAnswer {
    pub(super) code: u16,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Sent one after the other.
    pub(super) frames: Vec<RawFrame>,
    /// Before the answer begins.
    #[serde(default)]
    pub(super) wait_ms: u64,
}

/// A piece of a given answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawFrame {
    /// Bytes.
    Send(String),
    /// A pause.
    WaitMs(u64),
    /// The connection ends here.
    Cut,
}

/// What is different about a completion.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CompletionAnswer {
    /// Functions to call before anything is said: what to call at once, step by step.
    pub(super) steps: Vec<Vec<PlannedCall>>,
    /// `{model}` is filled in, and `{last_result}` with what a function has answered last.
    pub(super) text: Option<String>,
    pub(super) refusal: Option<String>,
    pub(super) finish_reason: Option<String>,
    /// No message at all.
    pub(super) without_message: bool,
    pub(super) reasoning_tokens: Option<u64>,
    pub(super) cached_tokens: u64,
    pub(super) traffic_type: Option<String>,
    /// So many calls of the function that fits, where one is called.
    pub(super) calls: Option<usize>,
    /// Before the answer begins.
    pub(super) wait_ms: u64,
    pub(super) stream: StreamQuirks,
}

/// A call that a scenario knows beforehand.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlannedCall {
    pub(super) function: String,
    #[serde(default)]
    pub(super) arguments: Map<String, Value>,
}

/// What is different about a stream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StreamQuirks {
    pub(super) pace_ms: Option<u64>,
    pub(super) usage: UsagePlace,
    pub(super) call_index: CallIndex,
    /// Arguments come in fragments, as where the request says `stream_function_call_arguments`.
    pub(super) fragments: bool,
    pub(super) line_ending: LineEnding,
    /// Ends after so many chunks: with `tail` where there is one, else by cutting the connection.
    pub(super) cut_after: Option<usize>,
    /// Sent as it stands in place of `data: [DONE]`.
    pub(super) tail: Option<String>,
}

/// Where a stream's usage is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum UsagePlace {
    /// With the last content.
    #[default]
    LastChunk,
    /// With an empty chunk that ends the choice.
    LastChunkApart,
    EveryChunk,
    /// In a chunk without choices, as OpenAI does.
    ExtraChunk,
    Nowhere,
}

/// The `index` of function calls in a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallIndex {
    #[default]
    Present,
    Absent,
    Zero,
}

/// How lines of a stream end.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum LineEnding {
    #[default]
    Lf,
    Crlf,
}

/// All scenarios.
pub fn all() -> &'static [Scenario] {
    &SCENARIOS
}

impl Scenario {
    /// What to put into the last message to get it; nothing where it applies by itself.
    pub fn marker(&self) -> Option<String> {
        self.when.marker.as_ref().map(|marker| format!("{MARKER}{marker}]"))
    }

    pub(super) fn answer(&self) -> &Answer {
        &self.answer
    }
}

/// The scenario that a request is a case of.
pub(super) fn special_case(chat: &Chat) -> Option<&'static Scenario> {
    all().iter().find(|scenario| !scenario.when.instead_of_echo && scenario.when.holds(chat))
}

/// The scenario that takes the place of an echo.
pub(super) fn instead_of_echo(chat: &Chat) -> Option<&'static Scenario> {
    all().iter().find(|scenario| scenario.when.instead_of_echo && scenario.when.holds(chat))
}

impl When {
    fn holds(&self, chat: &Chat) -> bool {
        let spoken = chat.messages.iter().rfind(|message| message.role != Role::System);
        let text = spoken.map_or("", |message| message.text.as_str());
        let marked = |marker: &String| text.contains(&format!("{MARKER}{marker}]"));
        let prefixed = |prefix: &String| chat.model.name().starts_with(prefix.as_str());
        let said = |phrases: &[String], text: &str| {
            let words = plain_words(text);
            phrases.iter().any(|phrase| words.contains(&plain_words(phrase)))
        };
        self.marker.as_ref().is_none_or(marked)
            && self.model_prefix.as_ref().is_none_or(prefixed)
            && self.has_tools.is_none_or(|has| has != chat.tools.is_empty())
            && self.stream.is_none_or(|stream| stream == chat.stream)
            && self.max_words.is_none_or(|most| text.split_whitespace().take(most + 1).count() <= most)
            && self.callable.iter().all(|name| tools::may_call(chat, name))
            && (self.any_phrase.is_empty() || said(&self.any_phrase, text))
            && (self.any_prompt_phrase.is_empty() || said(&self.any_prompt_phrase, prompt(chat)))
    }
}

/// What the user has said last.
pub(super) fn prompt(chat: &Chat) -> &str {
    chat.messages.iter().rfind(|message| message.role == Role::User).map_or("", |message| message.text.as_str())
}

/// Lower-case words with one blank around each, for finding phrases.
fn plain_words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
    words.fold(" ".to_owned(), |joined, word| joined + word + " ")
}

/// A message without its markers.
pub(super) fn without_markers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARKER) {
        let Some(end) = rest[at..].find(']') else {
            break;
        };
        plain.push_str(rest[..at].trim_end_matches(' '));
        rest = &rest[at + end + 1..];
    }
    plain.push_str(rest);
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::super::vertex::tests::chat;
    use super::*;

    #[test]
    fn every_file_is_embedded_and_parses() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/emulator/scenarios");
        let present: BTreeSet<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let embedded: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(present, embedded);
        let mut names = BTreeSet::new();
        for (file, text) in FILES {
            let scenario: Scenario = serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(*file, format!("{}.json", scenario.name));
            assert!(scenario.when.marker.as_ref().is_none_or(|marker| *marker == scenario.name));
            assert!(!scenario.about.is_empty());
            if let Answer::Completion(different) = &scenario.answer {
                let must_say = scenario.when.instead_of_echo || !different.steps.is_empty();
                assert!(!must_say || different.text.is_some(), "{file} says nothing");
                assert!(
                    !scenario.when.instead_of_echo || different.steps.is_empty(),
                    "{file} calls in place of an echo"
                );
                assert!(different.steps.iter().all(|step| !step.is_empty()), "{file} has an empty step");
                for call in different.steps.iter().flatten() {
                    assert!(scenario.when.callable.contains(&call.function), "{file} calls what may be missing");
                }
            } else {
                assert!(!scenario.when.instead_of_echo, "{file} says nothing");
            }
            assert!(names.insert(scenario.name));
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let parses = |answer: &str| {
            let text = format!(r#"{{"name": "x", "about": "x", "when": {{}}, "answer": {{"completion": {answer}}}}}"#);
            serde_json::from_str::<Scenario>(&text).is_ok()
        };
        assert!(parses(r#"{"steps": [[{"function": "f"}]], "text": "x"}"#));
        assert!(!parses(r#"{"txt": "x"}"#));
        assert!(!parses(r#"{"steps": [[{"function": "f", "args": {}}]], "text": "x"}"#));
    }

    #[test]
    fn a_prompt_is_known_again_after_functions_have_answered() {
        let holds = |when: Value, more: Value| {
            let mut request = json!({"model": "google/gemini-2.5-flash", "messages": [
                {"role": "user", "content": "Please, read the notes!"},
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "sh", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "a fish"},
            ], "tools": [{"type": "function", "function": {"name": "sh"}}]});
            for (name, value) in more.as_object().unwrap() {
                request[name] = value.clone();
            }
            serde_json::from_value::<When>(when).unwrap().holds(&chat(request).unwrap())
        };
        assert!(holds(json!({"any_prompt_phrase": ["read the notes"], "callable": ["sh"]}), json!({})));
        assert!(!holds(json!({"any_prompt_phrase": ["a fish"]}), json!({})));
        assert!(!holds(json!({"any_phrase": ["read the notes"]}), json!({})));
        assert!(!holds(json!({"callable": ["sh", "edit"]}), json!({})));
        assert!(!holds(json!({"callable": ["sh"]}), json!({"tool_choice": "none"})));
    }

    #[test]
    fn markers_are_taken_out() {
        assert_eq!(without_markers("[emulator:slow] Say hi."), "Say hi.");
        assert_eq!(without_markers("Say [emulator:slow] hi"), "Say hi");
        assert_eq!(without_markers("[emulator:open"), "[emulator:open");
    }
}
