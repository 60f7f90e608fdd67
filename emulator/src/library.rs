//! Which scenarios there are: those that are embedded, those of a folder, and which of them a request is a case of.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;

use super::data;
use super::scenarios::{self, Scenario};
use super::vertex::Chat;

/// What a file is of that is not embedded.
const FAMILY_OF_FOLDER: &str = "your own";
/// A scenario is written by hand: its file has so many MiB at most.
const MOST_MIB: u64 = 1;

/// An embedded file.
struct File {
    family: &'static str,
    name: &'static str,
    text: &'static str,
}

/// Lists the embedded files by their folders.
macro_rules! embedded {
    ($($family:literal: $($name:literal)*;)*) => {
        &[$($(File {
            family: $family,
            name: $name,
            text: include_str!(concat!("scenarios/", $family, "/", $name, ".json")),
        },)*)*]
    };
}

/// In the order in which they are listed and tried.
const FILES: &[File] = embedded! {
    "signatures":
        "developer-wording" "dummy-base64" "dummy-neither" "dummy-raw" "signature-absent"
        "signature-corrupted" "signature-huge" "signature-long" "signature-missing" "signature-short";
    "errors":
        "array-in-pieces" "array-of-two" "billing-disabled" "cancelled" "deadline" "empty-error" "error-cut"
        "failed-precondition" "forbidden" "html-400" "html-404" "html-502" "html-503" "internal"
        "invalid-argument" "object-error" "object-overloaded" "part-count" "service-disabled" "token-limit"
        "unknown";
    "retry":
        "overloaded" "overloaded-once" "overloaded-retry-after" "rate-limited" "rate-limited-burst"
        "rate-limited-no-retry" "rate-limited-retry-after" "rate-limited-retry-info" "sometimes" "third-call";
    "model":
        "malformed-model" "wrong-location";
    "empty":
        "empty" "length" "no-choices" "no-events" "no-message" "no-tokens";
    "stream-ends":
        "cut" "cut-at-once" "cut-in-character" "cut-in-event" "done-then-cut" "done-then-open" "error-array-event"
        "error-event" "json-cut"
        "json-cut-chunked" "json-reset" "json-tail" "no-done" "reset" "stall" "stall-and-cut";
    "chunks":
        "created-grows" "finish-apart" "usage-every-chunk" "usage-extra-chunk" "usage-last-chunk-apart"
        "usage-nowhere";
    "tool-calls":
        "fragments" "index-zero" "no-index" "parallel-apart" "parallel-calls" "parallel-fragments" "same-name"
        "tool-stop";
    "filters":
        "blocked" "blocked-midway" "content-filter" "malformed-call" "malformed-call-refusal";
    "identity":
        "clock-wrong" "project-unknown" "quota-project" "scope-insufficient" "token-expired" "token-missing"
        "token-refused";
    "json":
        "duplicate-names" "escapes" "indented" "not-utf8" "odd-numbers" "odd-stream" "reordered";
    "thoughts":
        "thought-developer" "thought-flag" "thought-signature-last" "thought-signature-message" "thought-tags";
    "framing":
        "big-event" "byte-by-byte" "byte-order-mark" "comments" "comments-crlf" "compressed" "cr-only" "crlf"
        "fields" "mixed-endings" "no-blank" "odd-pieces" "pairs" "together";
    "parameters":
        "both-thinking" "developer-role" "schema-reference" "strict-parameters" "thinking-level"
        "unknown-field" "wrong-role";
    "metadata":
        "grant-refused" "metadata-404" "metadata-429" "metadata-500" "metadata-dying" "metadata-garbled"
        "metadata-html" "metadata-same" "metadata-short" "metadata-slow";
    "size":
        "big-answer" "front-end-too-large" "many-events" "request-too-large";
    "silence":
        "late-headers" "late-json" "pauses" "silent-in-event" "silent-middle" "silent-start" "slow" "trickle";
    "connection":
        "bad-chunk" "close-delimited" "closed" "closes-after" "early-hints" "go-away" "half-head" "never"
        "no-http" "no-last-chunk" "redirect" "refused-stream" "reset-at-once" "stream-cap" "trailers"
        "two-lengths";
    "media":
        "image" "image-stream";
    "talk":
        "pi-repair" "shell-edit" "shell-read" "shell-skill" "introduction" "greeting" "rain";
};

/// All scenarios of a running emulator.
#[derive(Debug)]
pub struct Library {
    scenarios: Vec<Listed>,
    /// Applies where no other does.
    always: Option<Arc<Scenario>>,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Listed {
    scenario: Arc<Scenario>,
    /// Calls for which all held that does not depend on their number.
    calls: AtomicU64,
}

/// What was asked for beforehand: each so many times.
#[derive(Debug, Default)]
struct Queue {
    chats: VecDeque<(Arc<Scenario>, u64)>,
    tokens: VecDeque<(Arc<Scenario>, u64)>,
}

/// A file that is no scenario.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {field}: {problem}")]
pub struct Unusable {
    /// The file's name.
    pub file: String,
    /// The field, or the place in the file.
    pub field: String,
    /// What is wrong there.
    pub problem: String,
}

impl Library {
    /// The embedded scenarios.
    #[must_use]
    pub fn embedded() -> Self {
        let parse = |file: &File| {
            let mut scenario = parse(file.name, file.text.as_bytes()).expect("a test parses every embedded scenario");
            file.family.clone_into(&mut scenario.family);
            Listed { scenario: Arc::new(scenario), calls: AtomicU64::new(0) }
        };
        Self { scenarios: FILES.iter().map(parse).collect(), always: None, queue: Mutex::default() }
    }

    /// Adds the `*.json` files of a folder. One with the name of another takes its place.
    ///
    /// # Errors
    /// The first file that is no scenario, and the field.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), Unusable> {
        for (file, bytes) in data::json_files(folder, MOST_MIB)? {
            let mut scenario = parse(&file, &bytes)?;
            if let Some(at) = self.scenarios.iter().position(|listed| listed.scenario.name == scenario.name) {
                self.scenarios.remove(at);
            }
            FAMILY_OF_FOLDER.clone_into(&mut scenario.family);
            self.scenarios.insert(0, Listed { scenario: Arc::new(scenario), calls: AtomicU64::new(0) });
        }
        Ok(())
    }

    /// Has a scenario apply wherever no other does; false where there is none of that name.
    pub fn set_always(&mut self, name: &str) -> bool {
        self.always = self.find(name).filter(|scenario| !scenario.is_of_tokens());
        self.always.is_some()
    }

    /// All scenarios, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Scenario> {
        self.scenarios.iter().map(|listed| &*listed.scenario)
    }

    /// What a text asks for by a marker that is none, a misspelt one say.
    pub(super) fn unknown_marker<'a>(&self, text: &'a str) -> Option<&'a str> {
        scenarios::markers(text).find(|name| self.find(name).is_none())
    }

    fn find(&self, name: &str) -> Option<Arc<Scenario>> {
        self.scenarios.iter().find(|listed| listed.scenario.name == name).map(|listed| listed.scenario.clone())
    }

    /// Has the next `count` calls answered by a scenario; false where there is none of that name.
    pub(super) fn enqueue(&self, name: &str, count: u64) -> bool {
        let Some(scenario) = self.find(name) else { return false };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let line = if scenario.is_of_tokens() { &mut queue.tokens } else { &mut queue.chats };
        if count > 0 {
            line.push_back((scenario, count));
        }
        true
    }

    /// What is still asked for: names with their counts.
    pub(super) fn queued(&self) -> Vec<(String, u64)> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.chats.iter().chain(&queue.tokens).map(|(scenario, left)| (scenario.name.clone(), *left)).collect()
    }

    /// Forgets what was asked for beforehand.
    pub(super) fn clear_queue(&self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Queue::default();
    }

    /// The scenario that the next request for a token is a case of.
    pub(super) fn for_token(&self) -> Option<Arc<Scenario>> {
        take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner).tokens)
    }

    /// The scenario that a request is a case of.
    pub(super) fn for_chat(&self, chat: &Chat, headers: &HeaderMap) -> Option<Arc<Scenario>> {
        let queued = take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner).chats);
        // One that is asked for by name goes before one that applies by itself.
        queued
            .or_else(|| self.first(chat, headers, |scenario| scenario.when.marker.is_some()))
            .or_else(|| {
                self.first(chat, headers, |scenario| scenario.when.marker.is_none() && !scenario.when.instead_of_echo)
            })
            .or_else(|| self.always.clone())
    }

    /// The scenario that takes the place of an echo.
    pub(super) fn instead_of_echo(&self, chat: &Chat, headers: &HeaderMap) -> Option<Arc<Scenario>> {
        self.first(chat, headers, |scenario| scenario.when.instead_of_echo)
    }

    fn first(&self, chat: &Chat, headers: &HeaderMap, fits: impl Fn(&Scenario) -> bool) -> Option<Arc<Scenario>> {
        let holds = |listed: &&Listed| {
            let scenario = &listed.scenario;
            !scenario.is_of_tokens()
                && fits(scenario)
                && scenario.when.holds(chat, headers)
                && scenario.when.meant(listed.calls.fetch_add(1, Ordering::Relaxed) + 1)
        };
        self.scenarios.iter().find(holds).map(|listed| listed.scenario.clone())
    }
}

fn take(queue: &mut VecDeque<(Arc<Scenario>, u64)>) -> Option<Arc<Scenario>> {
    let (scenario, left) = queue.front_mut()?;
    let scenario = scenario.clone();
    *left -= 1;
    if *left == 0 {
        queue.pop_front();
    }
    Some(scenario)
}

fn parse(file: &str, bytes: &[u8]) -> Result<Scenario, Unusable> {
    let scenario: Scenario = data::read(file, bytes, scenarios::judge_choices)?;
    match scenario.problem() {
        None => Ok(scenario),
        Some((field, problem)) => Err(Unusable { file: file.to_owned(), field, problem }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;

    use super::*;

    #[test]
    fn every_file_is_embedded_and_parses() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/scenarios");
        let mut present: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for family in fs::read_dir(folder).unwrap() {
            let family = family.unwrap();
            let files = fs::read_dir(family.path()).unwrap();
            let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            present.insert(family.file_name().into_string().unwrap(), files.collect());
        }
        let mut embedded: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in FILES {
            embedded.entry(file.family.to_owned()).or_default().insert(format!("{}.json", file.name));
        }
        assert_eq!(present, embedded);
        let mut names = BTreeSet::new();
        for file in FILES {
            let scenario = parse(file.name, file.text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(file.name, scenario.name);
            assert!(names.insert(scenario.name));
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("huge.json")).unwrap();
        file.set_len((1 << 20) + 1).unwrap();
        let said = Library::embedded().add_folder(folder.path()).unwrap_err().to_string();
        assert!(said.ends_with("huge.json: the file: must have no more than 1 MiB"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text: &str| parse("x.json", text.as_bytes()).unwrap_err().to_string();
        let with = |when: &str, answer: &str| format!(r#"{{"name":"x","about":"x","when":{when},"answer":{answer}}}"#);
        for (text, said) in [
            ("{".to_owned(), "x.json: line 1, column 1: EOF"),
            ("{}".to_owned(), "x.json: name: is missing"),
            (
                with("{}", r#"{"completion":{"stream":{"cut_after":"x"}}}"#),
                "x.json: answer.completion.stream.cut_after: ",
            ),
            (
                with("{}", r#"{"raw":{"code":200,"frames":[{"send":"a"},{"sned":"b"}]}}"#),
                "x.json: answer.raw.frames[1]",
            ),
            ("[]".to_owned(), "x.json: the file: must be an object, and is an array"),
            (r#"{"name":"x","about":"x"}"#.to_owned(), "x.json: when: is missing"),
            (
                r#"{"name":"x","about":"x\u001b[1m","when":{}}"#.to_owned(),
                "x.json: about: must be one line without control",
            ),
            (r#"{"name":"x","name":"y","about":"x","when":{}}"#.to_owned(), "x.json: name: stands twice"),
            (with(r#"{"maker":"x"}"#, r#"{"completion":{}}"#), "x.json: when.maker: unknown field"),
            (
                with("{}", "{}"),
                "x.json: answer: must have exactly one of 'error', 'raw', 'wire', 'completion', 'token', and has none",
            ),
            (
                with("{}", r#"{"completion":{},"token":{}}"#),
                "x.json: answer: must have exactly one of 'error', 'raw', 'wire', 'completion', 'token', and has 'completion', 'token'",
            ),
            (
                with("{}", "5"),
                "x.json: answer: must have exactly one of 'error', 'raw', 'wire', 'completion', 'token', and is a number",
            ),
            (
                format!(r#"{{"name":"{}","about":"x","when":{{}}}}"#, "x".repeat(65_536)),
                "x.json: name: must be 1 to 64 letters",
            ),
            (
                with("{}", &format!(r#"{{"completion":{{"text":"{}","text_times":1000000}}}}"#, "x".repeat(68))),
                "x.json: answer.completion.text_times: must be such that the text has no more than 64 MiB",
            ),
            (with("{}", r#"{"raw":{"frames":[]}}"#), "x.json: answer.raw.code: is missing"),
            (with("{}", r#"{"raw":{"code":200}}"#), "x.json: answer.raw.frames: is missing"),
            (
                with("{}", r#"{"raw":{"code":200,"frames":["stop"]}}"#),
                "x.json: answer.raw.frames[0]: must have exactly one of 'send',",
            ),
            (
                with("{}", r#"{"wire":{"frames":["cut",{"trickle":{"send":"a","bytes":1,"wiat_ms":1}}]}}"#),
                "x.json: answer.wire.frames[1].trickle.wiat_ms: unknown field",
            ),
            (
                with("{}", r#"{"error":{"code":200,"message":"","status":""}}"#),
                "x.json: answer.error.code: must be a status from 400 to 599, and is 200",
            ),
            (with("{}", r#"{"error":{"code":204,"message":"","status":""}}"#), "x.json: answer.error.code: must"),
            (
                with("{}", r#"{"error":{"code":400,"message":"","status":"","headers":{"Content-Length":"3"}}}"#),
                "x.json: answer.error.headers.Content-Length: is made by the emulator",
            ),
            (with("{}", r#"{"raw":{"code":204,"frames":[{"send":"a"}]}}"#), "x.json: answer.raw.frames: must be empty"),
            (
                with(
                    "{}",
                    r#"{"raw":{"code":200,"headers":{"content-length":"5"},"frames":[{"send":"a"},{"repeat":{"send":"b","times":2}}]}}"#,
                ),
                "x.json: answer.raw.headers.content-length: must be 3, as long as the frames are, and is 5; 'wire'",
            ),
            (
                with("{}", r#"{"raw":{"code":200,"headers":{"content-length":"2"},"frames":[{"send":"abc"},"cut"]}}"#),
                "x.json: answer.raw.headers.content-length: must be 3 or more, since the frames end early, and is 2",
            ),
            (
                with("{}", r#"{"raw":{"code":200,"headers":{"content-length":"7"},"frames":[{"send":"{model}"}]}}"#),
                "x.json: answer.raw.headers.content-length: cannot be known",
            ),
            (
                with("{}", r#"{"raw":{"code":200,"headers":{"transfer-encoding":"chunked"},"frames":[]}}"#),
                "x.json: answer.raw.headers.transfer-encoding: is made by the emulator",
            ),
            (
                with(r#"{"probability":0.5}"#, r#"{"completion":{}}"#),
                "x.json: when.seed: is missing, beside 'probability'",
            ),
            (with(r#"{"seed":5}"#, r#"{"completion":{}}"#), "x.json: when.seed: must stand beside 'probability'"),
            (
                with(r#"{"probability":0.5,"seed":1,"calls":{"from":1,"to":1}}"#, r#"{"completion":{}}"#),
                "x.json: when.probability: must not stand beside 'calls'",
            ),
            (
                with(r#"{"probability":2,"seed":1}"#, r#"{"completion":{}}"#),
                "x.json: when.probability: must be from 0 to 1",
            ),
            (with(r#"{"marker":"y"}"#, r#"{"completion":{}}"#), "x.json: when.marker: must be the same as the name"),
            (with(r#"{"calls":{"from":3,"to":2}}"#, r#"{"completion":{}}"#), "x.json: when.calls: must be"),
            (with("{}", r#"{"raw":{"code":99,"frames":[]}}"#), "x.json: answer.raw.code: must be a status"),
            (
                with("{}", r#"{"raw":{"code":200,"headers":{"a b":"c"},"frames":[]}}"#),
                "x.json: answer.raw.headers.a b: must",
            ),
            (
                with("{}", r#"{"raw":{"code":200,"frames":[{"send_base64":"?"}]}}"#),
                "x.json: answer.raw.frames[0]: must be",
            ),
            (with("{}", r#"{"completion":{"steps":[[{"function":"f"}]],"text":"x"}}"#), "x.json: when.callable: must"),
        ] {
            let message = refused(&text);
            assert!(message.starts_with(said), "{message}");
        }
    }
}
