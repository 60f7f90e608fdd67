//! One entry of a log: a line as the gateway writes it, or one that Cloud Logging wraps around its fields.

use crate::tokens::Tokens;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The route whose requests cost something; the gateway's word for it stands in `message`.
const CHAT_ROUTE: &str = "/v1/chat/completions";

/// What an entry is.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    /// A chat that has ended.
    Chat(Box<Chat<'a>>),
    /// Another request.
    OtherRequest,
    /// Something else, of the gateway or not.
    Foreign,
}

/// A chat that has ended.
#[derive(Debug)]
pub(super) struct Chat<'a> {
    pub(super) time: jiff::Timestamp,
    pub(super) key: Option<Cow<'a, str>>,
    pub(super) alias: Option<Cow<'a, str>>,
    pub(super) model: Option<Cow<'a, str>>,
    pub(super) status: Option<u16>,
    pub(super) outcome: Cow<'a, str>,
    /// The gateway's error code.
    pub(super) error: Option<Cow<'a, str>>,
    /// From the request's head to the answer's last byte, in microseconds.
    pub(super) duration: u64,
    /// To the first byte of the answer's body, in microseconds.
    pub(super) first_byte: Option<u64>,
    pub(super) tokens: Option<Tokens>,
}

impl<'a> Entry<'a> {
    /// Reads an entry.
    pub(super) fn parse(json: &'a [u8]) -> Self {
        Self::read(json).unwrap_or(Self::Foreign)
    }

    fn read(json: &'a [u8]) -> Option<Self> {
        // What shows lines of many programs puts a name or a time in front of each. A parser into structs would take an
        // array for an object.
        let json = json.get(memchr::memchr(b'{', json)?..)?;
        let mut line: Line<'_> = serde_json::from_slice(json).ok()?;
        if let Some(payload) = line.json_payload {
            let timestamp = line.timestamp;
            line = serde_json::from_str(payload.get()).ok()?;
            line.time = timestamp.or(line.time);
        }
        line.request_id?;
        let outcome = line.outcome?.0;
        let is_chat = line.message?.0.split(' ').nth(1) == Some(CHAT_ROUTE);
        if !is_chat {
            return Some(Self::OtherRequest);
        }
        let counts = [&line.prompt_tokens, &line.cached_tokens, &line.completion_tokens, &line.reasoning_tokens];
        let [prompt, cached, answer, thinking] = counts.map(|count| count.as_ref().map(|count| count.0));
        let tokens = Tokens { prompt, cached, answer, thinking };
        Some(Self::Chat(Box::new(Chat {
            time: line.time?.0.parse().ok()?,
            key: line.key_id.map(|text| text.0),
            alias: line.alias.map(|text| text.0),
            model: line.model.map(|text| text.0),
            status: line.status.and_then(|status| u16::try_from(status.0).ok()),
            outcome,
            error: line.error.map(|text| text.0),
            duration: microseconds(line.duration_ms?),
            first_byte: line.ttfb_ms.map(microseconds),
            tokens: (tokens != Tokens::default()).then_some(tokens),
        })))
    }
}

fn microseconds(milliseconds: f64) -> u64 {
    // Saturates, and a negative duration is none.
    (milliseconds * 1000.0).round() as u64
}

/// The fields that matter, of a line or of the entry around it.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "jsonPayload")]
    json_payload: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    time: Option<Text<'a>>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
    #[serde(borrow)]
    request_id: Option<Text<'a>>,
    #[serde(borrow)]
    key_id: Option<Text<'a>>,
    #[serde(borrow)]
    alias: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    outcome: Option<Text<'a>>,
    #[serde(borrow)]
    error: Option<Text<'a>>,
    status: Option<Count>,
    duration_ms: Option<f64>,
    ttfb_ms: Option<f64>,
    prompt_tokens: Option<Count>,
    cached_tokens: Option<Count>,
    completion_tokens: Option<Count>,
    reasoning_tokens: Option<Count>,
}

/// A string, borrowed where it has no escapes: serde borrows no `Cow` within an `Option`.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A whole number that is not negative. Cloud Logging keeps all numbers as floating ones.
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;

        impl Visitor<'_> for CountVisitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Count, E> {
                Ok(Count(number))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Count, E> {
                let is_whole = number.fract() == 0.0 && (0.0..=(1u64 << 53) as f64).contains(&number);
                if is_whole { Ok(Count(number as u64)) } else { Err(E::custom("not a whole number")) }
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = r#"{"severity":"INFO","message":"POST /v1/chat/completions 200","time":"2026-11-26T01:02:03.5Z","httpRequest":{"requestMethod":"POST"},"request_id":"r","key_id":"a\"b","alias":"flash","model":"google/gemini-2.5-flash","stream":true,"status":200,"upstream_status":200,"ttfb_ms":1.5,"duration_ms":20.25,"prompt_tokens":27,"cached_tokens":null,"completion_tokens":45,"reasoning_tokens":504,"error":null,"outcome":"completed"}"#;

    fn chat(json: &str) -> Chat<'_> {
        match Entry::parse(json.as_bytes()) {
            Entry::Chat(chat) => *chat,
            other => panic!("{other:?} in {json}"),
        }
    }

    #[test]
    fn lines_are_read() {
        let chat = chat(LINE);
        assert_eq!((chat.key.as_deref(), chat.alias.as_deref()), (Some("a\"b"), Some("flash")));
        assert!(matches!(chat.alias, Some(Cow::Borrowed(_))));
        assert_eq!((chat.status, &*chat.outcome, chat.error), (Some(200), "completed", None));
        assert_eq!((chat.duration, chat.first_byte), (20_250, Some(1500)));
        assert_eq!(chat.time.to_string(), "2026-11-26T01:02:03.5Z");
        let tokens = Tokens { prompt: Some(27), cached: None, answer: Some(45), thinking: Some(504) };
        assert_eq!(chat.tokens, Some(tokens));
        let unknown = LINE.replace("27", "null").replace("45,", "null,").replace("504", "null");
        assert_eq!(self::chat(&unknown).tokens, None);
    }

    #[test]
    fn entries_of_cloud_logging_are_read() {
        // It takes `time`, `severity` and `httpRequest` out of the payload, and writes numbers its own way.
        let payload = LINE
            .replace(r#""time":"2026-11-26T01:02:03.5Z","httpRequest":{"requestMethod":"POST"},"#, "")
            .replace("27", "27.0")
            .replace("504", "5.04e2");
        let entry = format!(
            r#"{{"insertId":"x","jsonPayload":{payload},"timestamp":"2026-11-25T23:59:59.999Z","resource":{{"labels":{{}}}}}}"#
        );
        let chat = chat(&entry);
        assert_eq!(chat.time.to_string(), "2026-11-25T23:59:59.999Z");
        assert_eq!(chat.tokens.unwrap().total(), 576);
    }

    #[test]
    fn what_is_no_chat_is_told_apart() {
        let health = LINE.replace("POST /v1/chat/completions 200", "GET /health 200");
        assert!(matches!(Entry::parse(health.as_bytes()), Entry::OtherRequest));
        for foreign in [
            "",
            "INFO: started",
            "{}",
            "[]",
            "null",
            r#"{"severity":"INFO","message":"listening on http://0.0.0.0:8080","time":"2026-11-26T01:02:03Z"}"#,
            r#"{"textPayload":"x","timestamp":"2026-11-26T01:02:03Z"}"#,
            r#"{"jsonPayload":[1]}"#,
            &LINE.replace("\"2026-11-26T01:02:03.5Z\"", "\"yesterday\""),
            &LINE.replace("27", "-27"),
            &LINE.replace("27", "27.5"),
            &LINE.replace("27", "\"27\""),
            &LINE[..LINE.len() - 1],
            &format!("{LINE}}}"),
        ] {
            assert!(matches!(Entry::parse(foreign.as_bytes()), Entry::Foreign), "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), at in any::<proptest::sample::Index>()) {
            let _ = Entry::parse(&bytes);
            let mut line = LINE.as_bytes().to_vec();
            let at = at.index(line.len());
            line.splice(at..at, bytes);
            let _ = Entry::parse(&line);
        }
    }
}
