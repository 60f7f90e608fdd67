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
    pub messages: Option<&'a [u8]>,
    /// Whether a stream is asked for.
    pub stream: bool,
}

/// Judges a body by RFC 8259 and finds `model`. `aliases` is for the error message.
///
/// # Errors
/// 400 when it is not one JSON object, or when `model` is missing, given twice or not a string.
pub fn parse<'a>(body: &'a [u8], aliases: &str) -> Result<Parsed<'a>, ApiError> {
    Inspection::default().finish(body, aliases)
}

/// Judges a body as it comes: large ones while what came last is still at hand, where to read all of it once more at the
/// end would be to fetch it from memory again.
#[derive(Debug)]
pub struct Inspection {
    /// So many bytes are UTF-8.
    utf8_bytes: usize,
    object: json::Scan,
    fields: Fields,
    /// The last look found nothing new: something is wrong, or so long that it would be read again each time.
    waits_for_the_end: bool,
}

impl Default for Inspection {
    fn default() -> Self {
        let object = json::Scan::of_object();
        Self { utf8_bytes: 0, object, fields: Fields::default(), waits_for_the_end: false }
    }
}

impl Inspection {
    /// Looks at what has come so far, which is all of the body from its first byte on.
    pub fn look_ahead(&mut self, so_far: &[u8]) {
        if self.waits_for_the_end {
            return;
        }
        let before = self.object.position();
        // What is wrong, and what is only incomplete, shows at the end.
        let _ = self.read_utf8(so_far);
        let _ = self.read_object(so_far);
        self.waits_for_the_end = self.object.position() == before;
    }

    /// Says what it found, now that all of the body has come.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn finish<'a>(mut self, body: &'a [u8], aliases: &str) -> Result<Parsed<'a>, ApiError> {
        self.read_utf8(body).map_err(|place| ApiError::InvalidJson(format!("invalid UTF-8 at byte {place}")))?;
        self.read_object(body).ok_or_else(|| what_is_wrong(body))?;
        if self.fields.model_is_repeated {
            return Err(ApiError::DuplicateModel);
        }
        let model_span = self.fields.model.ok_or_else(|| ApiError::MissingModel(aliases.to_owned()))?;
        let raw = std::str::from_utf8(body.get(model_span.clone()).unwrap_or_default()).unwrap_or_default();
        if !raw.starts_with('"') {
            return Err(ApiError::InvalidModel);
        }
        // A lone surrogate is allowed by the grammar, but names no alias.
        let model =
            json::text(raw).ok_or_else(|| ApiError::ModelNotFound { aliases: aliases.to_owned(), status: 400 })?;
        let messages = self.fields.messages.and_then(|span| body.get(span));
        Ok(Parsed { model, model_span, messages, stream: self.fields.stream })
    }

    /// The error is the first place that is no UTF-8, or that begins a character whose end has not come.
    fn read_utf8(&mut self, text: &[u8]) -> Result<(), usize> {
        let new = text.get(self.utf8_bytes..).unwrap_or_default();
        // serde_json does not look at the encoding of strings that it skips, and neither does our scanner.
        let (valid, result) = match simdutf8::compat::from_utf8(new) {
            Ok(_) => (new.len(), Ok(())),
            Err(error) => (error.valid_up_to(), Err(self.utf8_bytes + error.valid_up_to())),
        };
        self.utf8_bytes += valid;
        result
    }

    fn read_object(&mut self, text: &[u8]) -> Option<()> {
        let Self { object, fields, .. } = self;
        object.read(text, |name, value| fields.take(text, name, value))
    }
}

/// The kind of mistake and its place, without the message of serde, which could quote the body.
fn what_is_wrong(text: &[u8]) -> ApiError {
    use serde_json::error::Category;
    let Err(error) = serde_json::from_slice::<json::AnyObject>(text) else {
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

/// Where the values of fields stand that matter.
#[derive(Debug, Default)]
struct Fields {
    model: Option<Range<usize>>,
    model_is_repeated: bool,
    messages: Option<Range<usize>>,
    stream: bool,
}

impl Fields {
    fn take(&mut self, text: &[u8], name: Range<usize>, value: Range<usize>) {
        let name = text.get(name).unwrap_or_default();
        if json::is_name(name, "model") {
            self.model_is_repeated |= self.model.replace(value).is_some();
        } else if json::is_name(name, "messages") {
            self.messages = Some(value);
        } else if json::is_name(name, "stream") {
            self.stream = text.get(value) == Some(b"true");
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

    /// However it comes.
    fn in_parts(body: &[u8], ends: impl IntoIterator<Item = usize>) -> Result<String, String> {
        let mut inspection = Inspection::default();
        ends.into_iter().for_each(|end| inspection.look_ahead(&body[..end]));
        inspection.finish(body, "flash").map(|parsed| format!("{parsed:?}")).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn what_comes_in_parts_is_judged_as_if_it_came_at_once() {
        let long = "\\u00e9\u{e9}\\\\ \\n-".repeat(20);
        let good = format!(
            r#" {{"x":[-10.5e+3, true,"{long}",{{"y":[],"z":{{}}}}] ,"messages":[{{"content":"{long}"}}],"mod\u0065l" : "fl\u0061sh","stream":true}} "#
        );
        let bad = [
            good.clone().into_bytes(),
            good.replace("10.5", "1O.5").into_bytes(),
            good.replace("-10", "-010").into_bytes(),
            good.replacen("\\u00e9", "\\u00g9", 9).into_bytes(),
            good.replace(",\"stream\"", ",\"model\":1,\"stream\"").into_bytes(),
            format!("{good}}}").into_bytes(),
            good.bytes().map(|byte| if byte == 0xa9 { b'x' } else { byte }).collect(),
        ];
        for body in &bad {
            let whole = in_parts(body, []);
            assert_eq!(whole.is_ok(), *body == bad[0]);
            for end in 0..=body.len() {
                assert_eq!(in_parts(body, [end]), whole, "{end}");
                assert_eq!(in_parts(body, [end / 2, end]), whole, "{end}");
            }
            assert_eq!(in_parts(body, 0..=body.len()), whole);
        }
    }

    #[test]
    fn nothing_is_read_again_and_again() {
        for endless in [" ", "0"] {
            let body = format!("{{\"y\":1,\"x\": {}", endless.repeat(1000));
            let mut inspection = Inspection::default();
            for (end, waits) in [(8, false), (100, endless == " "), (500, true), (1000, true)] {
                inspection.look_ahead(&body.as_bytes()[..end]);
                assert_eq!(inspection.waits_for_the_end, waits, "{end}");
            }
        }
        let body = format!("{{\"x\":\"{}", "y".repeat(1000));
        let mut inspection = Inspection::default();
        for end in [400, 600, 1000] {
            inspection.look_ahead(&body.as_bytes()[..end]);
            assert!(!inspection.waits_for_the_end && inspection.object.position() > end - 128, "{end}");
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
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), end in 0..100_usize) {
            prop_assert_eq!(in_parts(&bytes, [end.min(bytes.len())]), in_parts(&bytes, []));
        }

        #[test]
        fn parts_say_nothing_else_than_the_whole(
            text in r#"\{?("(a|model|messages|é|\\n|\\)*" ?:([\[{]{0,3}("[a-z\\\t]{0,90}"|-?[0-9.e+]{1,5}|true|null|nul)[\]}]{0,3}),?){0,4}\}?[ }]?"#,
            mut ends in proptest::collection::vec(0..400_usize, 0..8),
        ) {
            ends.iter_mut().for_each(|end| *end = (*end).min(text.len()));
            ends.sort_unstable();
            prop_assert_eq!(in_parts(text.as_bytes(), ends), in_parts(text.as_bytes(), []));
        }
    }
}
