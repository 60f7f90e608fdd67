//! Takes out of an answer all that may say whose it is or what was said. What stays is the form.
//!
//! It goes by structure, so that nothing has to be recognised to be taken out: of a JSON text the punctuation, numbers,
//! names of fields and the few values that are words of the interface itself stay, of an event stream also its line ends
//! and the names of its lines. Every other letter and digit is replaced by one that says nothing, however it is spelled
//! and over however many events it is spread. Nothing changes its length, so that pieces stay pieces.

use std::collections::HashMap;

/// Numbers of so many digits may be a project's or an account's; Unix times in seconds have ten.
const LONG_NUMBER: usize = 11;
/// No field of the interface has a longer name, in bytes.
const LONGEST_NAME: usize = 40;
/// What stands for a letter, and for one of a thought signature; a digit becomes a 1.
const LETTER: u8 = b'x';
const SIGNATURE_LETTER: u8 = b'A';
/// Every reader of event streams skips it at the start.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What must not be written down even where words stay.
#[derive(Debug)]
pub(in super::super) struct Redaction {
    /// As [`letters_of`] has them.
    names: Vec<String>,
}

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// An event stream.
    Events,
    /// JSON, or a page, or any other text.
    Text,
    /// Something that cannot be looked into.
    Opaque,
}

impl Redaction {
    /// Knows these names.
    pub(in super::super) fn new(project: &str, account: Option<&str>) -> Self {
        let names = [Some(project), account].into_iter().flatten().map(letters_of);
        // The shortest id of a project has six characters.
        Self { names: names.filter(|name| name.len() >= 4).collect() }
    }

    /// Whether a text names somebody who is known.
    pub(super) fn is_named_in(&self, text: &str) -> bool {
        let text = letters_of(text);
        self.names.iter().any(|name| text.contains(name))
    }

    /// A body without it, as long as before. `model` is what was asked for.
    pub(super) fn body(&self, body: &[u8], form: Form, model: &str) -> Vec<u8> {
        let mut masking = Masking { redaction: self, model, field: None, ids: HashMap::new(), out: Vec::new() };
        masking.out.reserve(body.len());
        let body = match body.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if form != Form::Opaque => {
                masking.out.extend_from_slice(BYTE_ORDER_MARK);
                rest
            }
            _ => body,
        };
        match form {
            Form::Opaque => masking.out.resize(body.len(), LETTER),
            Form::Events => masking.events(body),
            Form::Text => masking.text(body),
        }
        masking.out
    }
}

/// A body that is being written down.
struct Masking<'a> {
    redaction: &'a Redaction,
    model: &'a str,
    /// The field whose value comes next.
    field: Option<String>,
    /// Ids in their order: two calls have two, and the deltas of one have the same.
    ids: HashMap<Vec<u8>, usize>,
    out: Vec<u8>,
}

impl Masking<'_> {
    fn events(&mut self, body: &[u8]) {
        for line in body.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let content = line.trim_ascii_end();
            let name = content.iter().position(|byte| *byte == b':').map_or(content, |at| &content[..at]);
            match name {
                b"data" | b"event" | b"retry" => {
                    let (name, value) = line.split_at(name.len() + usize::from(name.len() < content.len()));
                    self.out.extend_from_slice(name);
                    if value.trim_ascii() == b"[DONE]" {
                        self.out.extend_from_slice(value);
                    } else {
                        self.json(value);
                    }
                }
                b"" | b"id" => {
                    self.out.extend_from_slice(name);
                    self.mask(&line[name.len()..], LETTER);
                }
                // No line of a stream: an error behind it, say.
                _ => self.json(line),
            }
        }
    }

    fn text(&mut self, body: &[u8]) {
        const PAGE: [&[u8]; 2] = [b"<!doctype html", b"<html"];
        if body.trim_ascii_start().starts_with(b"{") || body.trim_ascii_start().starts_with(b"[") {
            return self.json(body);
        }
        let begin =
            PAGE.into_iter().find(|page| body.get(..page.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(page)));
        let (begin, rest) = body.split_at(begin.map_or(0, <[u8]>::len));
        self.out.extend_from_slice(begin);
        self.mask(rest, LETTER);
    }

    /// JSON, or as much of it as came, or what only looks like it.
    fn json(&mut self, mut text: &[u8]) {
        while let Some(first) = text.first() {
            let length = match first {
                b'"' => {
                    let length = length_of_string(text);
                    self.string(&text[..length], &text[length..]);
                    length
                }
                b'{' | b'[' | b',' => {
                    self.out.push(*first);
                    self.field = None;
                    1
                }
                b'-' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
                    let length = run(text, |byte| byte.is_ascii_alphanumeric() || b"-+._@".contains(&byte));
                    self.word(&text[..length]);
                    length
                }
                _ => {
                    let length = length_of_character(text);
                    self.mask(&text[..length], LETTER);
                    length
                }
            };
            text = &text[length..];
        }
    }

    /// A number, a word of JSON's, or what is neither: an address, say.
    fn word(&mut self, word: &[u8]) {
        let is_number = serde_json::from_slice::<serde_json::Number>(word).is_ok();
        let longest = word.split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).max();
        if is_number && longest < Some(LONG_NUMBER) || matches!(word, b"true" | b"false" | b"null") {
            self.out.extend_from_slice(word);
        } else {
            self.mask(word, LETTER);
        }
    }

    /// A string with its quotes, the last of which may be missing; and what comes behind it.
    fn string(&mut self, text: &[u8], behind: &[u8]) {
        let value: Option<String> = serde_json::from_slice(text).ok();
        if behind.trim_ascii_start().starts_with(b":") {
            let is_name = value.as_deref().is_some_and(|name| self.is_name_of_field(name));
            if is_name {
                self.out.extend_from_slice(text);
            } else {
                self.mask(text, LETTER);
            }
            self.field = value.filter(|_| is_name);
            return;
        }
        let field = self.field.take().unwrap_or_default();
        let is_word = value.is_some_and(|value| {
            is_word_of_interface(&field, &value, self.model) && !self.redaction.is_named_in(&value)
        });
        match field.as_str() {
            _ if is_word => self.out.extend_from_slice(text),
            "thought_signature" | "thoughtSignature" => self.mask(text, SIGNATURE_LETTER),
            "id" | "tool_call_id" => self.id(text),
            _ => self.mask(text, LETTER),
        }
    }

    /// Ids that differ still do, by their last characters.
    fn id(&mut self, text: &[u8]) {
        let next = self.ids.len() + 1;
        let number = self.ids.entry(text.to_vec()).or_insert(next).to_string();
        self.mask(text, LETTER);
        let end = self.out.len() - usize::from(text.ends_with(b"\""));
        let last = end.saturating_sub(number.len());
        let is_plain = text.len() > number.len() + 1 && !text.contains(&b'\\');
        if is_plain && self.out[last..end].is_ascii() {
            self.out[last..end].copy_from_slice(number.as_bytes());
        }
    }

    fn is_name_of_field(&self, name: &str) -> bool {
        let rest = name.strip_prefix('@').unwrap_or(name);
        !rest.is_empty()
            && rest.len() <= LONGEST_NAME
            && rest.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && !self.redaction.is_named_in(rest)
    }

    /// Puts something else in the place of every letter and digit, escaped or not. Line ends, blanks and punctuation of
    /// ASCII stay.
    fn mask(&mut self, mut text: &[u8], letter: u8) {
        let digit = if letter == SIGNATURE_LETTER { SIGNATURE_LETTER } else { b'1' };
        while let Some(first) = text.first() {
            let length = match first {
                b'\\' => {
                    let escape = &text[..length_of_escape(text)];
                    match escape.get(2..6) {
                        Some(code) if escape[1] == b'u' => {
                            self.out.extend_from_slice(b"\\u");
                            self.out.extend_from_slice(&masked_code(code, letter));
                        }
                        _ => self.out.extend_from_slice(escape),
                    }
                    escape.len()
                }
                b'a'..=b'z' | b'A'..=b'Z' => {
                    self.out.push(letter);
                    1
                }
                b'0'..=b'9' => {
                    self.out.push(digit);
                    1
                }
                b'+' | b'/' | b'-' | b'_' if letter == SIGNATURE_LETTER => {
                    self.out.push(letter);
                    1
                }
                0..=0x7f => {
                    self.out.push(*first);
                    1
                }
                // One of as many bytes; what is no character becomes a byte that none begins with.
                _ => {
                    let length = length_of_character(text);
                    let put: &[u8] = match length {
                        2 => "é".as_bytes(),
                        3 => "€".as_bytes(),
                        4 => "😀".as_bytes(),
                        _ => b"\xff",
                    };
                    self.out.extend_from_slice(put);
                    length
                }
            };
            text = &text[length..];
        }
    }
}

/// Letters and digits only, in lower case: `CANARY_PROJECT` names `canary-project`.
fn letters_of(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Whether a value is one that the interface itself knows, in this field.
fn is_word_of_interface(field: &str, value: &str, model: &str) -> bool {
    match field {
        "role" => ["assistant", "user", "system", "tool", "model", "developer"].contains(&value),
        "object" => ["chat.completion", "chat.completion.chunk"].contains(&value),
        "type" => ["function", "text", "image_url", "input_audio", "file"].contains(&value),
        "model" => value == model || model.split_once('/').is_some_and(|(_, bare)| value == bare),
        // The one function that is offered.
        "name" => value == "get_weather",
        "domain" => value == "googleapis.com",
        "service" => value == "aiplatform.googleapis.com",
        "@type" => {
            let kind = value.strip_prefix("type.googleapis.com/google.rpc.");
            kind.is_some_and(|kind| kind.len() <= 20 && kind.bytes().all(|byte| byte.is_ascii_alphabetic()))
        }
        "retryDelay" => {
            value.len() <= 16 && value.strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok())
        }
        // Open sets, of which it is worth knowing the members.
        "finish_reason" => {
            let (before, behind) = value.split_once(": ").unwrap_or((value, ""));
            value.len() <= 2 * LONGEST_NAME
                && !before.is_empty()
                && before.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                && behind.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        }
        "status" | "reason" | "traffic_type" => {
            !value.is_empty()
                && value.len() <= LONGEST_NAME
                && value.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        }
        _ => false,
    }
}

/// The length of a string that begins here, with its quotes; of one that does not end, all that there is.
fn length_of_string(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of an escape that begins here; of half a one, of what is there.
fn length_of_escape(text: &[u8]) -> usize {
    match text.get(1) {
        Some(b'u') => {
            let digits = run(text.get(2..).unwrap_or_default(), |byte| byte.is_ascii_hexdigit());
            if digits >= 4 { 6 } else { 1 }
        }
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
        _ => 1,
    }
}

/// Four digits that say as little: punctuation stays, half a pair stays one.
fn masked_code(code: &[u8], letter: u8) -> Vec<u8> {
    let value = std::str::from_utf8(code).ok().and_then(|code| u32::from_str_radix(code, 16).ok()).unwrap_or(0);
    match value {
        0..0x80 if !char::from_u32(value).is_some_and(|c| c.is_ascii_alphanumeric()) => code.to_vec(),
        0..0x80 => format!("{letter:04x}").into_bytes(),
        0xd800..0xdc00 => b"d83d".to_vec(),
        0xdc00..0xe000 => b"de00".to_vec(),
        _ => b"00e9".to_vec(),
    }
}

/// How many bytes the character has that begins here; one, where none does.
fn length_of_character(text: &[u8]) -> usize {
    let most = &text[..text.len().min(4)];
    (1..=most.len()).find(|length| std::str::from_utf8(&most[..*length]).is_ok()).unwrap_or(1)
}

fn run(bytes: &[u8], fits: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| fits(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const MODEL: &str = "google/gemini-2.5-flash";

    fn redacted(body: &[u8], form: Form) -> Vec<u8> {
        Redaction::new("canary-project", Some("sa@canary-project.iam.gserviceaccount.com")).body(body, form, MODEL)
    }

    #[track_caller]
    fn becomes(form: Form, before: &str, after: &str) {
        assert_eq!(String::from_utf8_lossy(&redacted(before.as_bytes(), form)), after);
    }

    #[test]
    fn the_form_of_a_text_stays_and_what_it_says_goes() {
        for (before, after) in [
            (
                r#"{"model":"google/gemini-2.5-flash","object":"chat.completion","created":1770852204}"#,
                r#"{"model":"google/gemini-2.5-flash","object":"chat.completion","created":1770852204}"#,
            ),
            (
                r#"{ "role" : "assistant", "content" : "Ask jane@example.com 2 \"é\"." }"#,
                r#"{ "role" : "assistant", "content" : "xxx xxxx@xxxxxxx.xxx 1 \"é\"." }"#,
            ),
            (r#"{"model":"google/canary-project"}"#, r#"{"model":"xxxxxx/xxxxxx-xxxxxxx"}"#),
            (r#"{"thought_signature":"Cq9a-b/+=="}"#, r#"{"thought_signature":"AAAAAAAA=="}"#),
            (r#"{"x":"\u003d\u0041\u00e7\ud83d\ude80\n\/\\n"}"#, r#"{"x":"\u003d\u0078\u00e9\ud83d\ude00\n\/\\x"}"#),
            (
                r#"{"name":"get_weather","arguments":"{\"city\":\"Paris\"}"}"#,
                r#"{"name":"get_weather","arguments":"{\"xxxx\":\"xxxxx\"}"}"#,
            ),
            (
                r#"[{"error":{"code":403,"status":"PERMISSION_DENIED","message":"no"}}]"#,
                r#"[{"error":{"code":403,"status":"PERMISSION_DENIED","message":"xx"}}]"#,
            ),
            (
                r#"{"finish_reason":"content_filter: PROHIBITED_CONTENT"}"#,
                r#"{"finish_reason":"content_filter: PROHIBITED_CONTENT"}"#,
            ),
            (r#"{"finish_reason":"because of Jane"}"#, r#"{"finish_reason":"xxxxxxx xx xxxx"}"#),
            (
                r#"{"status":"CANARY_PROJECT","a":[123456789012,1.5e3,true,10.1.2.3]}"#,
                r#"{"status":"xxxxxx_xxxxxxx","a":[111111111111,1.5e3,true,11.1.1.1]}"#,
            ),
            (
                r#"{"new_field":"x1","projects/canary-project":1,"k9":"y"}"#,
                r#"{"new_field":"x1","xxxxxxxx/xxxxxx-xxxxxxx":1,"x1":"x"}"#,
            ),
            (r#"{"role":["assistant","user"],"a":{"b":"role"}}"#, r#"{"role":["xxxxxxxxx","xxxx"],"a":{"b":"xxxx"}}"#),
            (r#"{"role":"assist"#, r#"{"role":"xxxxxx"#),
            ("<!DOCTYPE html><title>Jane</title>", "<!DOCTYPE html><xxxxx>xxxx</xxxxx>"),
            ("upstream of jane", "xxxxxxxx xx xxxx"),
        ] {
            becomes(Form::Text, before, after);
        }
        becomes(Form::Opaque, "\u{1f}\u{8b}a", "xxxx");
    }

    #[test]
    fn ids_that_differ_still_do() {
        becomes(
            Form::Text,
            r#"[{"id":"call-abc"},{"id":"call-xyz"},{"id":"call-abc"},{"id":""},{"id":"a"}]"#,
            r#"[{"id":"xxxx-xx1"},{"id":"xxxx-xx2"},{"id":"xxxx-xx1"},{"id":""},{"id":"4"}]"#,
        );
    }

    #[test]
    fn the_form_of_a_stream_stays() {
        becomes(
            Form::Events,
            "\u{feff}: hello\r\n\r\nevent: jane\rid: jane\ndata:{\"role\":\"user\"}\r\n\r\ndata: [DONE]\n\n[{\n\"error\": 1}]",
            "\u{feff}: xxxxx\r\n\r\nevent: xxxx\rid: xxxx\ndata:{\"role\":\"user\"}\r\n\r\ndata: [DONE]\n\n[{\n\"error\": 1}]",
        );
    }

    /// A way in which JSON may spell a character.
    fn spelled(text: &str, escape: &[bool]) -> String {
        let mut ways = escape.iter().cycle();
        text.chars().fold(String::new(), |out, c| {
            if *ways.next().unwrap_or(&false) { format!("{out}\\u{:04X}", c as u32) } else { format!("{out}{c}") }
        })
    }

    fn shape(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(shape).collect(),
            Value::Object(fields) => fields.values().map(shape).collect(),
            Value::String(text) => json!(text.chars().count()),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives(
            secret in prop_oneof![
                Just("canary-project".to_owned()), Just("Canary-Project".to_owned()), Just("jane@example.com".to_owned()),
                Just("AIzaSyD3adB33f".to_owned()), Just("ya29.c.b0Az".to_owned()), Just("10.1.2.3".to_owned()),
                "[a-wyzA-Z0-9]{6,20}",
            ],
            field in "content|reasoning_content|arguments|message|role|model|object|id|name|@type|type|unknown",
            escape in proptest::collection::vec(any::<bool>(), 1..5),
            cut in 0..20_usize,
        ) {
            // What reads like a number is one: there is no telling.
            prop_assume!(serde_json::from_str::<serde_json::Number>(&secret).is_err());
            let value = spelled(&secret, &escape);
            let (first, second) = secret.split_at(cut.min(secret.len()));
            let bodies = [
                (Form::Text, format!(r#"{{"{field}":"{value}"}}"#)),
                (Form::Text, format!(r#"{{"{field}":"{value}"#)),
                (Form::Text, format!(r#"[{{"{field}":["{value}"]}}]"#)),
                (Form::Events, format!("data: {{\"{field}\":\"{first}\"}}\n\ndata: {{\"{field}\":\"{second}\"}}\r\r")),
                (Form::Events, format!(": {secret}\n\nid: {secret}\nevent: {secret}\ndata: {secret}\n\n{secret}")),
                (Form::Text, format!("<html>{secret}")),
            ];
            for (form, body) in bodies {
                let out = redacted(body.as_bytes(), form);
                prop_assert_eq!(out.len(), body.len());
                let text = String::from_utf8(out).unwrap();
                for part in [secret.as_str(), first, second, value.as_str()] {
                    let says_something = part.bytes().filter(u8::is_ascii_alphanumeric).any(|byte| !b"x1".contains(&byte));
                    prop_assert!(
                        part.len() < 6 || !says_something || field.contains(part) || !text.contains(part),
                        "{} of {}: {}", part, body, text
                    );
                }
            }
        }

        #[test]
        fn json_stays_json_of_the_same_shape(text in any::<String>(), number in any::<i32>(), name in "[a-z_]{1,10}") {
            for body in [json!({ &name: text, "a": [number, text, null] }), json!({ &text: { &name: text } })] {
                let out = redacted(body.to_string().as_bytes(), Form::Text);
                let read: Value = serde_json::from_slice(&out).map_err(|error| TestCaseError::fail(error.to_string()))?;
                // Names that are masked may coincide.
                if body.get(&name).is_some() {
                    prop_assert_eq!(shape(&read), shape(&body));
                }
            }
        }

        #[test]
        fn any_bytes_keep_their_length_and_line_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for form in [Form::Events, Form::Text] {
                let out = redacted(&bytes, form);
                prop_assert_eq!(out.len(), bytes.len());
                for (before, after) in bytes.iter().zip(&out) {
                    prop_assert_eq!(*before == b'\n', *after == b'\n');
                    prop_assert_eq!(*before == b'\r', *after == b'\r');
                }
            }
        }
    }
}
