//! Scenarios: what the emulator says in special cases, as data.
//!
//! One JSON file is one scenario: when it applies, and what is answered then. `library` has those that are embedded.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::data;
use super::errors::Shape;
use super::tools;
use super::vertex::{Chat, Checks, Role};

/// Begins a marker in a message: `[emulator:rate-limited]`.
const MARKER: &str = "[emulator:";
/// A piece of an answer is repeated so often at most.
const MOST_REPEATS: u32 = 1_000_000;
/// A text that is repeated has so many bytes in all at most.
const MOST_REPEATED_BYTES: usize = 64 * 1024 * 1024;
/// A name has so many characters at most: lists have a column of them.
const LONGEST_NAME: usize = 64;

/// A special case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short and unique; the same as the marker where there is one.
    pub name: String,
    /// One line for people: what it shows.
    pub about: String,
    /// What it is a case of; the folder of an embedded file.
    #[serde(skip)]
    pub family: String,
    pub(super) when: When,
    #[serde(default)]
    pub(super) checks: Checks,
    #[serde(default)]
    pub(super) answer: Answer,
}

/// When a scenario applies: everything that is given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct When {
    /// Only where the answer would be an echo, rather than in place of everything; then it must give a text.
    pub(super) instead_of_echo: bool,
    /// The last message holds `[emulator:MARKER]`.
    pub(super) marker: Option<String>,
    /// The marker may also stand in what the user has asked last, when functions have answered since.
    whole_turn: bool,
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
    pub(super) has_tools: Option<bool>,
    /// The request asks, or does not ask, for a stream.
    pub(super) stream: Option<bool>,
    /// Each of these header fields is there, and holds this text.
    headers: BTreeMap<String, String>,
    /// Of the calls for which all else holds, only some.
    pub(super) calls: Option<Calls>,
    /// Of the calls for which all else holds, this part of them, from 0 to 1.
    pub(super) probability: Option<f64>,
    /// Decides which calls those are: the same with each start.
    pub(super) seed: Option<u64>,
}

/// Which calls are meant, counted from 1.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Calls {
    from: u64,
    to: u64,
    /// After so many calls counting starts again.
    #[serde(default)]
    of: Option<u64>,
}

/// What is answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// An error in Google's shape.
    Error(ErrorAnswer),
    /// Bytes as they stand.
    Raw(RawAnswer),
    /// Bytes on the connection in place of all HTTP.
    Wire(WireAnswer),
    /// A completion, in all that is not given as it would be otherwise.
    Completion(Box<CompletionAnswer>),
    /// Of the metadata server and the token endpoints; only where it is asked for.
    Token(TokenAnswer),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Completion(Box::default())
    }
}

/// An error in Google's shape.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorAnswer {
    pub(super) code: u16,
    /// `{project}`, `{location}`, `{model}` and `{model_id}` are filled in.
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
    /// The bearer of the request is no good from now on.
    #[serde(default)]
    pub(super) revokes_token: bool,
}

/// An answer that is not made but given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAnswer {
    pub(super) code: u16,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Sent one after the other.
    pub(super) frames: Vec<Frame>,
    /// Before the answer begins.
    #[serde(default)]
    pub(super) wait_ms: u64,
}

/// What is put on the connection in place of an answer; then it is closed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireAnswer {
    /// Over HTTP/1.1: one after the other.
    pub(super) frames: Vec<Frame>,
    /// Over HTTP/2, where the library allows no wrong bytes: the code of RST_STREAM, 2 (INTERNAL_ERROR) if not given.
    pub(super) http2_reset: Option<u32>,
}

/// A piece of a given answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Frame {
    /// Text. `{project}`, `{location}`, `{model}` and `{model_id}` are filled in.
    Send(String),
    /// Bytes.
    SendBase64(String),
    /// A text many times, with a pause after each.
    Repeat(Repeat),
    /// A text in small pieces, with a pause after each.
    Trickle(Trickle),
    /// A pause.
    WaitMs(u64),
    /// Nothing more until the client leaves.
    Hold,
    /// The answer ends irregularly here.
    Cut,
    /// The connection is reset here.
    Reset,
    /// The connection takes no further requests.
    GoAway,
}

/// The same again and again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    pub(super) send: String,
    pub(super) times: u32,
    #[serde(default)]
    pub(super) wait_ms: u64,
}

/// Piece by piece.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trickle {
    pub(super) send: String,
    pub(super) bytes: usize,
    #[serde(default)]
    pub(super) wait_ms: u64,
}

/// What is different about a token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TokenAnswer {
    pub(super) code: u16,
    /// In place of a token.
    pub(super) body: Option<String>,
    /// How long the token is good for, and said to be.
    pub(super) expires_in: Option<u64>,
    /// No new token, but the last one again.
    pub(super) same: bool,
    pub(super) wait_ms: u64,
}

impl Default for TokenAnswer {
    fn default() -> Self {
        Self { code: 200, body: None, expires_in: None, same: false, wait_ms: 0 }
    }
}

/// What is different about a completion.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CompletionAnswer {
    /// Functions to call before anything is said: what to call at once, step by step.
    pub(super) steps: Vec<Vec<PlannedCall>>,
    /// `{model}` is filled in, and `{last_result}` with what a function has answered last.
    pub(super) text: Option<String>,
    /// The text so many times.
    pub(super) text_times: Option<u32>,
    /// Thoughts are told, whether they are asked for or not.
    pub(super) thoughts: bool,
    /// The tag around thoughts.
    pub(super) thought_tag: Option<String>,
    pub(super) signature: SignaturePlan,
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

/// What is different about thought signatures.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SignaturePlan {
    /// The length, in characters.
    pub(super) characters: Option<usize>,
    /// It will not be accepted.
    pub(super) corrupted: bool,
    /// There is none.
    pub(super) missing: bool,
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
    /// `data:` without the blank behind it.
    pub(super) without_blank: bool,
    /// This comment line stands before every event.
    pub(super) comment: Option<String>,
    /// The whole text is one event.
    pub(super) one_event: bool,
    /// Each parallel call is an event of its own.
    pub(super) calls_apart: bool,
    /// Events are sent so many at a time.
    pub(super) together: Option<usize>,
    /// Or in pieces of so many bytes.
    pub(super) pieces: Option<usize>,
    /// After the first event, before the second.
    pub(super) stall_ms: u64,
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

impl Scenario {
    /// What to put into the last message to get it; nothing where it applies by itself.
    pub fn marker(&self) -> Option<String> {
        self.when.marker.as_ref().map(|marker| format!("{MARKER}{marker}]"))
    }

    /// Whether it is a case of a token rather than of a chat.
    pub(super) fn is_of_tokens(&self) -> bool {
        matches!(self.answer, Answer::Token(_))
    }

    /// What is wrong with it, if anything: the field, and what it must be.
    pub(super) fn problem(&self) -> Option<(String, String)> {
        let is_name = |text: &str| {
            (1..=LONGEST_NAME).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let wrong = |field: &str, expected: &str| Some((field.to_owned(), format!("must be {expected}")));
        let when = &self.when;
        if !is_name(&self.name) {
            return wrong("name", "1 to 64 letters, digits and '-_.'");
        }
        if self.about.is_empty() || self.about.contains(char::is_control) {
            return wrong("about", "one line without control characters");
        }
        if when.marker.as_ref().is_some_and(|marker| *marker != self.name) {
            return wrong("when.marker", "the same as the name");
        }
        if when.probability.is_some_and(|probability| !(0.0..=1.0).contains(&probability)) {
            return wrong("when.probability", "from 0 to 1");
        }
        let told = |field: &str, problem: &str| Some((field.to_owned(), problem.to_owned()));
        match (when.probability, when.seed) {
            (Some(_), None) => {
                return told("when.seed", "is missing, beside 'probability': which calls are meant must not be chance");
            }
            (None, Some(_)) => return told("when.seed", "must stand beside 'probability'"),
            (Some(_), Some(_)) if when.calls.is_some() => {
                return told("when.probability", "must not stand beside 'calls': either says which calls are meant");
            }
            _ => {}
        }
        if when.calls.is_some_and(|calls| calls.from == 0 || calls.to < calls.from) {
            return wrong("when.calls", "'from' 1 or more, 'to' not less than that");
        }
        if when.calls.is_some_and(|calls| calls.of.is_some_and(|of| of < calls.to)) {
            return wrong("when.calls.of", "not less than 'to'");
        }
        if when.headers.keys().any(|name| name.parse::<HeaderName>().is_err()) {
            return wrong("when.headers", "names of header fields");
        }
        let judged = match &self.answer {
            Answer::Error(error) => judge_code("answer.error.code", error.code, 400)
                .or_else(|| judge_headers("answer.error.headers", &error.headers, &[OWN_FIELDS, &[CONTENT_LENGTH]])),
            Answer::Raw(raw) => raw.problem(),
            Answer::Wire(wire) => judge_frames("answer.wire.frames", &wire.frames),
            Answer::Token(token) => judge_code("answer.token.code", token.code, 200),
            Answer::Completion(_) => None,
        };
        if judged.is_some() {
            return judged;
        }
        match &self.answer {
            Answer::Completion(different) => {
                let must_say = when.instead_of_echo || !different.steps.is_empty();
                if must_say && different.text.is_none() {
                    return wrong("answer.completion.text", "given, where there are steps, and in place of an echo");
                }
                if different.steps.iter().any(Vec::is_empty) {
                    return wrong("answer.completion.steps", "lists of calls, none of them empty");
                }
                if !different.steps.iter().flatten().all(|call| when.callable.contains(&call.function)) {
                    return wrong("when.callable", "all functions that the steps call");
                }
                if different.text_times.is_some_and(|times| times > MOST_REPEATS) {
                    return wrong("answer.completion.text_times", "no more than 1000000");
                }
                let length = different.text.as_ref().map_or(0, String::len);
                if length.saturating_mul(different.text_times.unwrap_or(1) as usize) > MOST_REPEATED_BYTES {
                    return wrong("answer.completion.text_times", "such that the text has no more than 64 MiB in all");
                }
                if different.signature.characters.is_some_and(|characters| characters > MOST_REPEATS as usize) {
                    return wrong("answer.completion.signature.characters", "no more than 1000000");
                }
                if different.stream.pieces == Some(0) || different.stream.together == Some(0) {
                    return wrong("answer.completion.stream", "with 'pieces' and 'together' of 1 or more");
                }
            }
            Answer::Error(_) | Answer::Raw(_) | Answer::Wire(_) | Answer::Token(_) => {}
        }
        if when.instead_of_echo && !matches!(self.answer, Answer::Completion(_)) {
            return wrong("answer", "a completion, in place of an echo");
        }
        None
    }
}

/// The fields of the connection, which an answer cannot give.
const OWN_FIELDS: &[&str] = &["connection", "keep-alive", "transfer-encoding", "upgrade"];
const CONTENT_LENGTH: &str = "content-length";

/// Judges what serde would have no plain words for: choices of one among several.
///
/// # Errors
/// The field, and what is wrong with it.
pub(super) fn judge_choices(scenario: &Value) -> Result<(), (String, String)> {
    const ANSWERS: [&str; 5] = ["error", "raw", "wire", "completion", "token"];
    const FRAMES: [&str; 5] = ["send", "send_base64", "repeat", "trickle", "wait_ms"];
    const ENDS: [&str; 4] = ["hold", "cut", "reset", "go_away"];
    let Some(answer) = scenario.get("answer") else { return Ok(()) };
    data::judge_choice(answer, &ANSWERS, &[]).map_err(|problem| ("answer".to_owned(), problem))?;
    for kind in ["raw", "wire"] {
        let frames = answer.get(kind).and_then(|answer| answer.get("frames")).and_then(Value::as_array);
        for (at, frame) in frames.into_iter().flatten().enumerate() {
            let field = |problem| (format!("answer.{kind}.frames[{at}]"), problem);
            data::judge_choice(frame, &FRAMES, &ENDS).map_err(field)?;
        }
    }
    Ok(())
}

fn judge_code(field: &str, code: u16, from: u16) -> Option<(String, String)> {
    let is_known = (from..=599).contains(&code) && StatusCode::from_u16(code).is_ok();
    (!is_known).then(|| (field.to_owned(), format!("must be a status from {from} to 599, and is {code}")))
}

fn judge_headers(field: &str, headers: &BTreeMap<String, String>, own: &[&[&str]]) -> Option<(String, String)> {
    headers.iter().find_map(|(name, value)| {
        let field = format!("{field}.{name}");
        if name.parse::<HeaderName>().is_err() || value.parse::<HeaderValue>().is_err() {
            return Some((field, "must be a name and a value that HTTP allows".to_owned()));
        }
        let is_own = own.concat().contains(&name.to_ascii_lowercase().as_str());
        is_own.then(|| (field, "is made by the emulator; 'wire' sends what does not fit".to_owned()))
    })
}

fn judge_frames(field: &str, frames: &[Frame]) -> Option<(String, String)> {
    frames
        .iter()
        .enumerate()
        .find_map(|(at, frame)| frame.problem().map(|problem| (format!("{field}[{at}]"), format!("must be {problem}"))))
}

impl RawAnswer {
    fn problem(&self) -> Option<(String, String)> {
        judge_code("answer.raw.code", self.code, 200)
            .or_else(|| judge_headers("answer.raw.headers", &self.headers, &[OWN_FIELDS]))
            .or_else(|| judge_frames("answer.raw.frames", &self.frames))
            .or_else(|| {
                let has_body = self.frames.iter().any(|frame| frame.length() > 0);
                let problem = format!("must be empty, since a {} has no body", self.code);
                (has_body && matches!(self.code, 204 | 205 | 304)).then(|| ("answer.raw.frames".to_owned(), problem))
            })
            .or_else(|| self.problem_of_length())
    }

    /// An announced length has to be the body's: the server that frames it would refuse to lie.
    fn problem_of_length(&self) -> Option<(String, String)> {
        let (name, told) = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_LENGTH))?;
        let length: usize = self.frames.iter().map(Frame::length).sum();
        let ends_early = self.frames.iter().any(|frame| matches!(frame, Frame::Hold | Frame::Cut | Frame::Reset));
        let is_filled_in = self.frames.iter().any(Frame::is_filled_in);
        let told_length = told.parse::<usize>().ok();
        let problem = if is_filled_in {
            "cannot be known where {project}, {location}, {model} or {model_id} is filled in".to_owned()
        } else if ends_early && told_length.is_none_or(|told| told < length) {
            format!(
                "must be {length} or more, since the frames end early, and is {told}; 'wire' sends what does not fit"
            )
        } else if !ends_early && told_length != Some(length) {
            format!("must be {length}, as long as the frames are, and is {told}; 'wire' sends what does not fit")
        } else {
            return None;
        };
        Some((format!("answer.raw.headers.{name}"), problem))
    }
}

impl Frame {
    fn problem(&self) -> Option<&'static str> {
        match self {
            Self::SendBase64(text) if STANDARD.decode(text).is_err() => Some("such that 'send_base64' is base64"),
            Self::Repeat(repeat) if repeat.times > MOST_REPEATS => Some("repeated no more than 1000000 times"),
            Self::Trickle(trickle) if trickle.bytes == 0 => Some("such that a trickle has 1 byte or more"),
            _ => None,
        }
    }

    /// In bytes, before anything is filled in.
    fn length(&self) -> usize {
        match self {
            Self::Send(text) => text.len(),
            Self::SendBase64(text) => STANDARD.decode(text).map_or(0, |bytes| bytes.len()),
            Self::Repeat(repeat) => repeat.send.len().saturating_mul(repeat.times as usize),
            Self::Trickle(trickle) => trickle.send.len(),
            Self::WaitMs(_) | Self::Hold | Self::Cut | Self::Reset | Self::GoAway => 0,
        }
    }

    fn is_filled_in(&self) -> bool {
        let text = match self {
            Self::Send(text) => text,
            Self::Repeat(repeat) => &repeat.send,
            Self::Trickle(trickle) => &trickle.send,
            _ => return false,
        };
        ["{project}", "{location}", "{model}", "{model_id}"].iter().any(|place| text.contains(place))
    }
}

impl Calls {
    /// Whether the `n`th call is one of them.
    pub(super) fn hold(self, n: u64) -> bool {
        let n = self.of.map_or(n, |of| (n - 1) % of + 1);
        (self.from..=self.to).contains(&n)
    }
}

impl When {
    /// Whether all holds that does not depend on how many calls there were.
    pub(super) fn holds(&self, chat: &Chat, headers: &HeaderMap) -> bool {
        let spoken = chat.messages.iter().rfind(|message| !message.is_instruction());
        let text = spoken.map_or("", |message| message.text.as_str());
        let marked = |marker: &String| {
            let marker = format!("{MARKER}{marker}]");
            text.contains(&marker) || self.whole_turn && prompt(chat).contains(&marker)
        };
        let prefixed = |prefix: &String| chat.model.name().starts_with(prefix.as_str());
        let said = |phrases: &[String], text: &str| {
            let words = plain_words(text);
            phrases.iter().any(|phrase| words.contains(&plain_words(phrase)))
        };
        let has_header = |(name, part): (&String, &String)| {
            let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.any(|value| value.contains(part.as_str()))
        };
        self.marker.as_ref().is_none_or(marked)
            && self.model_prefix.as_ref().is_none_or(prefixed)
            && self.has_tools.is_none_or(|has| has != chat.tools.is_empty())
            && self.stream.is_none_or(|stream| stream == chat.stream)
            && self.max_words.is_none_or(|most| text.split_whitespace().take(most + 1).count() <= most)
            && self.callable.iter().all(|name| tools::may_call(chat, name))
            && self.headers.iter().all(has_header)
            && (self.any_phrase.is_empty() || said(&self.any_phrase, text))
            && (self.any_prompt_phrase.is_empty() || said(&self.any_prompt_phrase, prompt(chat)))
    }

    /// Whether the `n`th call for which it holds, from 1, is one of those that are meant.
    pub(super) fn meant(&self, n: u64) -> bool {
        self.calls.is_none_or(|calls| calls.hold(n))
            && self.probability.is_none_or(|part| chance(self.seed.unwrap_or(0), n) < part)
    }
}

/// A number from 0 to 1 that depends on nothing but these two (SplitMix64).
fn chance(seed: u64, n: u64) -> f64 {
    let mut mixed = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // 53 bits are what fits.
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
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

/// The names of a message's markers.
pub(super) fn markers(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARKER).skip(1).filter_map(|rest| Some(rest.split_once(']')?.0))
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
    use serde_json::json;

    use super::super::vertex::tests::chat;
    use super::*;

    #[test]
    fn some_calls_are_meant() {
        let meant = |when: Value| {
            let when: When = serde_json::from_value(when).unwrap();
            (1..=8).map(|n| if when.meant(n) { 'x' } else { '.' }).collect::<String>()
        };
        assert_eq!(meant(json!({})), "xxxxxxxx");
        assert_eq!(meant(json!({"calls": {"from": 2, "to": 3}})), ".xx.....");
        assert_eq!(meant(json!({"calls": {"from": 1, "to": 2, "of": 3}})), "xx.xx.xx");
        assert_eq!(meant(json!({"probability": 0})), "........");
        assert_eq!(meant(json!({"probability": 1})), "xxxxxxxx");
        let some = json!({"probability": 0.3, "seed": 7});
        assert_eq!(meant(some.clone()), meant(some.clone()));
        assert_ne!(meant(some), meant(json!({"probability": 0.3, "seed": 8})));
        let when: When = serde_json::from_value(json!({"probability": 0.3})).unwrap();
        let count = (1..=10_000).filter(|n| when.meant(*n)).count();
        assert!((2_800..3_200).contains(&count), "{count}");
    }

    #[test]
    fn header_fields_are_a_condition() {
        let request = chat(json!({"model": "google/gemini-2.5-flash", "messages": [{"role": "user", "content": "x"}]}));
        let when: When = serde_json::from_value(json!({"headers": {"User-Agent": "ai-proxy/"}})).unwrap();
        let mut headers = HeaderMap::new();
        assert!(!when.holds(request.as_ref().unwrap(), &headers));
        headers.insert("user-agent", "ai-proxy/1.2".parse().unwrap());
        assert!(when.holds(&request.unwrap(), &headers));
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
            serde_json::from_value::<When>(when).unwrap().holds(&chat(request).unwrap(), &HeaderMap::new())
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
        let names: Vec<&str> = markers("[emulator:slow] Say [emulator:a b] [emulator:open").collect();
        assert_eq!(names, ["slow", "a b"]);
    }
}
