//! The request's body: it must be a JSON object, and a few of its bytes are replaced, those of `model` above all.
//! Everything else goes upstream as it came.

use crate::error::ApiError;
use crate::json;
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::ops::Range;

/// Bodies up to this many bytes are copied into one piece: cheaper than three pieces on their way to the wire.
const COPIED_BODY_BYTES: usize = 16 * 1024;

/// What the gateway needs to know of a body.
#[derive(Debug)]
pub struct Parsed<'a> {
    /// The client's name for the model, escapes resolved.
    pub model: Cow<'a, str>,
    /// Where the JSON string of the model stands, quotes included.
    pub model_span: Range<usize>,
    /// The messages, as they stand in the body.
    pub messages: Option<&'a str>,
    /// Whether a stream is asked for.
    pub stream: bool,
}

/// Judges a body by RFC 8259 and finds `model`. `aliases` is for the error message.
///
/// # Errors
/// 400 when it is not one JSON object, or when `model` is missing, given twice or not a string.
pub fn parse<'a>(body: &'a [u8], aliases: &str) -> Result<Parsed<'a>, ApiError> {
    // serde_json does not look at the encoding of strings that it skips.
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::InvalidJson(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let mut fields = Fields::default();
    json::fields(text, |name, value| fields.take(name, value)).ok_or_else(|| what_is_wrong(text))?;
    if fields.model_is_repeated {
        return Err(ApiError::DuplicateModel);
    }
    let raw = fields.model.ok_or_else(|| ApiError::MissingModel(aliases.to_owned()))?;
    if !raw.starts_with('"') {
        return Err(ApiError::InvalidModel);
    }
    // A lone surrogate is allowed by the grammar, but names no alias.
    let model = json::text(raw).ok_or_else(|| ApiError::ModelNotFound { aliases: aliases.to_owned(), status: 400 })?;
    let start = raw.as_ptr() as usize - text.as_ptr() as usize;
    Ok(Parsed { model, model_span: start..start + raw.len(), messages: fields.messages, stream: fields.stream })
}

/// The kind of mistake and its place, without the message of serde, which could quote the body.
fn what_is_wrong(text: &str) -> ApiError {
    use serde_json::error::Category;
    let Err(error) = serde_json::from_str::<json::Fields<'_>>(text) else {
        return ApiError::InvalidJson("a syntax error".to_owned());
    };
    let kind = match error.classify() {
        Category::Eof => "it ends too early",
        Category::Data => "not an object",
        Category::Syntax | Category::Io => "a syntax error",
    };
    ApiError::InvalidJson(format!("{kind} at line {}, column {}", error.line(), error.column()))
}

/// One change of a body: the bytes at `at` are replaced by `with`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Which bytes; an empty range inserts.
    pub at: Range<usize>,
    /// What takes their place.
    pub with: Bytes,
}

/// The body with all edits, in the pieces that go to the wire. The edits must not overlap.
#[must_use]
pub fn splice(body: &Bytes, mut edits: Vec<Edit>) -> Vec<Bytes> {
    edits.sort_by_key(|edit| edit.at.start);
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let copied = body.len() + added <= COPIED_BODY_BYTES;
    let mut joined = BytesMut::with_capacity(if copied { body.len() + added } else { 0 });
    let mut pieces = Vec::with_capacity(if copied { 1 } else { 2 * edits.len() + 1 });
    let mut done = 0;
    for edit in edits {
        if copied {
            joined.extend_from_slice(&body[done..edit.at.start]);
            joined.extend_from_slice(&edit.with);
        } else {
            pieces.push(body.slice(done..edit.at.start));
            pieces.push(edit.with);
        }
        done = edit.at.end;
    }
    if copied {
        joined.extend_from_slice(&body[done..]);
        pieces.push(joined.freeze());
    } else {
        pieces.push(body.slice(done..));
    }
    pieces
}

#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a str>,
    model_is_repeated: bool,
    messages: Option<&'a str>,
    stream: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a str) {
        if json::is_name(name, "model") {
            self.model_is_repeated |= self.model.replace(value).is_some();
        } else if json::is_name(name, "messages") {
            self.messages = Some(value);
        } else if json::is_name(name, "stream") {
            self.stream = value == "true";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn model(body: &str) -> Result<String, &'static str> {
        match parse(body.as_bytes(), "flash") {
            Ok(parsed) => Ok(parsed.model.into_owned()),
            Err(error) => Err(error.status_and_code().1),
        }
    }

    fn spliced(body: &str) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let span = parse(&body, "").unwrap().model_span;
        let pieces = splice(&body, vec![Edit { at: span, with: Bytes::from_static(b"\"google/x\"") }]);
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn only_the_models_bytes_change() {
        assert_eq!(spliced(r#"{"model":"flash"}"#), r#"{"model":"google/x"}"#);
        assert_eq!(
            spliced(
                "\r\n{ \"a\" : [1e-7, 1.0,\"\\u00e9\\/\"],\t\"mod\\u0065l\" : \"fl\\u0061sh\" , \"model \":1, \"b\":{\"model\":\"flash\"}}\n"
            ),
            "\r\n{ \"a\" : [1e-7, 1.0,\"\\u00e9\\/\"],\t\"mod\\u0065l\" : \"google/x\" , \"model \":1, \"b\":{\"model\":\"flash\"}}\n"
        );
        let long = format!(r#"{{"model":"flash","x":"{}"}}"#, "y".repeat(COPIED_BODY_BYTES));
        assert_eq!(spliced(&long), long.replacen("flash", "google/x", 1));
    }

    #[test]
    fn edits_in_any_order_land_in_their_places() {
        for padding in [0, COPIED_BODY_BYTES] {
            let text = format!("0123456789{}", "x".repeat(padding));
            let edit = |at: Range<usize>, with: &'static str| Edit { at, with: Bytes::from_static(with.as_bytes()) };
            let edits = vec![edit(9..10, "N"), edit(0..0, "<"), edit(3..5, ""), edit(5..5, "five")];
            let out = splice(&Bytes::from(text), edits).concat();
            assert_eq!(out, format!("<012five5678N{}", "x".repeat(padding)).as_bytes());
        }
    }

    #[test]
    fn models_that_cannot_be_told_are_refused() {
        assert_eq!(model(r#"{"model":"fl\u0061sh"}"#).unwrap(), "flash");
        assert_eq!(model("{}"), Err("missing_model"));
        assert_eq!(model(r#"{"model":null}"#), Err("invalid_model"));
        assert_eq!(model(r#"{"model":["flash"]}"#), Err("invalid_model"));
        assert_eq!(model(r#"{"model":"a","model":"a"}"#), Err("duplicate_model"));
        assert_eq!(model(r#"{"model":"a","mod\u0065l":5}"#), Err("duplicate_model"));
        assert_eq!(model(r#"{"model":"\ud800"}"#), Err("model_not_found"));
        assert_eq!(model(r#"{"\ud800":1,"model":"a"}"#).unwrap(), "a");
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        for bad in [
            "",
            " ",
            "null",
            "[]",
            r#"["model","flash"]"#,
            "5",
            r#""model""#,
            "{",
            r#"{"model":"a"}}"#,
            r#"{"model":"a"} {}"#,
            r#"{"model":"a","x":NaN}"#,
            r#"{"model":"a","x":Infinity}"#,
            r#"{"model":"a","x":01}"#,
            r#"{"model":"a","x":1.}"#,
            r#"{"model":"a","x":+1}"#,
            r#"{"model":"a","x":.5}"#,
            r#"{"model":"a","x":"\x"}"#,
            "{\"model\":\"a\",\"x\":\"\n\"}",
            "{\"model\":\"a\",\"x\":\"\u{0}\"}",
            r#"{"model":"a",}"#,
            r#"{"model":"a" "b":1}"#,
            r#"{model:"a"}"#,
            r#"{'model':'a'}"#,
            r#"{"model":"a"}//"#,
            "\u{feff}{\"model\":\"a\"}",
            r#"{"model":"a","x":tru}"#,
            "{\"model\":\"a\",\"x\":\"\\u12g4\"}",
            "{\"model\":\"a\"\u{a0}}",
            "{\"mod\u{1}el\":\"a\"}",
        ] {
            assert_eq!(model(bad), Err("invalid_json"), "{bad:?}");
        }
        let bad_bytes = b"{\"model\":\"a\",\"x\":\"\xff\"}";
        assert_eq!(parse(bad_bytes, "").unwrap_err().status_and_code().1, "invalid_json");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (bad, said) in [
            ("{\"model\":\n\"a\"", "it ends too early at line 2, column 3"),
            ("[]", "not an object at line 1, column 0"),
            ("{\"model\"]", "a syntax error at line 1, column 9"),
        ] {
            match parse(bad.as_bytes(), "") {
                Err(ApiError::InvalidJson(told)) => assert_eq!(told, said),
                other => panic!("{bad:?}: {other:?}"),
            }
        }
    }

    /// Sixteen KiB go up as one copy, a byte more as they came, with what is new between.
    #[test]
    fn small_bodies_are_copied_and_large_ones_are_not() {
        for (length, pieces) in [(16 * 1024, 1), (16 * 1024 + 1, 3)] {
            let body = Bytes::from("x".repeat(length - 5));
            let spliced = splice(&body, vec![Edit { at: 1..1, with: Bytes::from_static(b"added") }]);
            assert_eq!((spliced.len(), spliced.concat().len()), (pieces, length));
        }
    }

    #[test]
    fn depth_is_no_limit() {
        let depth = 1_000_000;
        let body = format!(r#"{{"x":{}{},"model":"flash"}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(model(&body).unwrap(), "flash");
        assert_eq!(model(&format!(r#"{{"x":{}"#, "[".repeat(depth))), Err("invalid_json"));
        assert_eq!(model(&format!(r#"{{"model":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))), Err("invalid_model"));
    }

    #[test]
    fn streams_are_seen() {
        for (body, stream) in [
            (r#"{"model":"a","stream":true}"#, true),
            (r#"{"model":"a","stream": false}"#, false),
            (r#"{"model":"a","stream":"true"}"#, false),
            (r#"{"model":"a","x":{"stream":true}}"#, false),
        ] {
            assert_eq!(parse(body.as_bytes(), "").unwrap().stream, stream, "{body}");
        }
    }

    /// Any JSON value, as text with odd spacing.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            Just("\"\\u00e9\\ud83d\\ude00\\/\\b\"".to_owned()),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[ {}\t]", items.join(" ,\n"))),
                proptest::collection::vec((any::<String>(), inner), 0..5).prop_map(|fields| {
                    let fields: Vec<_> = fields
                        .iter()
                        .map(|(name, value)| format!("{}: {value}", serde_json::to_string(name).unwrap()))
                        .collect();
                    format!("{{{}}}", fields.join(", "))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_model_is_replaced_and_nothing_else(
            before in proptest::collection::vec((any::<String>(), json()), 0..4),
            after in proptest::collection::vec((any::<String>(), json()), 0..4),
        ) {
            let field = |(name, value): &(String, String)| format!("{}:{value}", serde_json::to_string(name).unwrap());
            let before: Vec<_> = before.iter().filter(|(name, _)| name != "model").map(field).collect();
            let after: Vec<_> = after.iter().filter(|(name, _)| name != "model").map(field).collect();
            let body = |model: &str| {
                let all: Vec<_> = before.iter().cloned().chain([format!("\"model\": \"{model}\"")]).chain(after.iter().cloned()).collect();
                format!("{{ {} }}", all.join(","))
            };
            prop_assert_eq!(spliced(&body("flash")), body("google/x"));
        }

        #[test]
        fn accepts_exactly_what_serde_json_accepts(text in "[\\[\\]{}:,\"a-z0-9\\\\. \n-]{0,40}") {
            let body = format!("{{\"model\":\"a\",\"x\":{text}}}");
            // As a raw value, since a full parse has limits of its own on numbers and depth.
            let reference = serde_json::from_str::<std::collections::HashMap<String, Box<RawValue>>>(&body).is_ok();
            let ours = !matches!(model(&body), Err("invalid_json"));
            prop_assert_eq!(ours, reference, "{}", body);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes, "");
        }
    }
}
