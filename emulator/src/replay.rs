//! Captured exchanges, answered again as they were: bytes, pieces and pauses.
//!
//! One JSON file is one exchange; SPEC.md has the format. A request gets the answer to one like it: the same method and
//! path (whatever the project and the location), and for a chat the same model and whether it streams. Where several
//! are alike they come in turn, by the names of their files, and then again from the first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::body::{Step, Steps};
use super::data;
use super::library::Unusable;

/// The format that is known.
pub const VERSION: u32 = 1;

/// The file of a captured exchange has so many MiB at most.
const MOST_MIB: u64 = 256;
/// Header fields that are made anew for each answer.
const OWN_HEADERS: [&str; 5] = ["connection", "date", "keep-alive", "transfer-encoding", "upgrade"];

/// One captured exchange, as a file has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The format: 1.
    pub version: u32,
    /// What was asked, as far as it tells requests apart.
    pub request: Request,
    /// What was answered.
    pub response: Answer,
}

/// What was asked. Neither header fields nor texts are in it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path; project and location may be anything.
    pub path: String,
    /// Of a chat: the model, with its publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Of a chat: whether it asked for a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

/// What was answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
    /// The body's pieces as they came.
    pub frames: Vec<Piece>,
    /// How the body ended.
    #[serde(default)]
    pub end: End,
}

/// A piece of a body: a text, or bytes that are none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Milliseconds since the piece before, or since the response headers.
    #[serde(default)]
    pub after_ms: u64,
    /// The piece as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The piece in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl Piece {
    /// A piece that came so many milliseconds after the one before.
    #[must_use]
    pub fn of(after_ms: u64, bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { after_ms, text: Some(text.to_owned()), base64: None },
            Err(_) => Self { after_ms, text: None, base64: Some(STANDARD.encode(bytes)) },
        }
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Regularly.
    #[default]
    Complete,
    /// The connection broke.
    Cut,
}

/// What tells requests apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    method: String,
    path: String,
    model: Option<String>,
    stream: Option<bool>,
}

/// All captured exchanges of a folder.
#[derive(Debug)]
pub struct Replay {
    answers: BTreeMap<Likeness, Turns>,
    count: usize,
}

/// Answers to requests that are alike.
#[derive(Debug, Default)]
struct Turns {
    answers: Vec<Ready>,
    next: AtomicUsize,
}

/// An answer that was judged.
#[derive(Debug)]
struct Ready {
    status: StatusCode,
    headers: HeaderMap,
    steps: Arc<[Step]>,
}

impl Replay {
    /// Reads the `*.json` files of a folder.
    ///
    /// # Errors
    /// The first file that is no exchange, and the field.
    pub fn read(folder: &Path) -> Result<Self, Unusable> {
        let mut replay = Self { answers: BTreeMap::new(), count: 0 };
        for (file, bytes) in data::json_files(folder, MOST_MIB)? {
            let exchange: Exchange = data::read(&file, &bytes, judge_version)?;
            let unusable = |(field, problem)| Unusable { file: file.clone(), field, problem };
            exchange.request.judge().map_err(unusable)?;
            let ready = exchange.response.judge().map_err(unusable)?;
            replay.answers.entry(exchange.request.likeness()).or_default().answers.push(ready);
            replay.count += 1;
        }
        if replay.count == 0 {
            let problem = "has no file that ends in .json".to_owned();
            return Err(Unusable { file: folder.display().to_string(), field: "the folder".to_owned(), problem });
        }
        Ok(replay)
    }

    /// How many exchanges there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The answer to a request like one that was captured.
    pub(super) fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Response<Steps> {
        let likeness = Likeness::of(method.as_str(), path, body);
        let Some(turns) = self.answers.get(&likeness) else { return none_like(&likeness) };
        let at = turns.next.fetch_add(1, Ordering::Relaxed) % turns.answers.len();
        let answer = &turns.answers[at];
        let body = match &answer.steps[..] {
            [Step::Wait(Duration::ZERO), Step::Send(whole)] => Steps::whole(whole.clone()),
            _ => {
                let steps = answer.steps.clone();
                Steps::stream((0..steps.len()).map(move |at| steps[at].clone()))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers.clone();
        response
    }
}

fn none_like(likeness: &Likeness) -> Response<Steps> {
    let Likeness { method, path, model, stream } = likeness;
    let model = model.as_deref().map_or_else(String::new, |model| format!(", model '{model}'"));
    let stream = stream.map_or("", |stream| if stream { ", a stream" } else { ", no stream" });
    let message = format!("No captured exchange is like this request: {method} {path}{model}{stream}");
    let error = json!([{"error": {"code": 404, "message": message, "status": "NOT_FOUND"}}]);
    let mut response = Response::new(Steps::whole(error.to_string()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}

impl Likeness {
    fn of(method: &str, path: &str, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let is_chat = path.ends_with("/chat/completions");
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            model: body.get("model").and_then(Value::as_str).filter(|_| is_chat).map(str::to_owned),
            stream: is_chat.then(|| body.get("stream").and_then(Value::as_bool).unwrap_or(false)),
        };
        request.likeness()
    }
}

impl Request {
    fn likeness(&self) -> Likeness {
        let mut parts: Vec<&str> = self.path.split('/').collect();
        for at in 1..parts.len() {
            if matches!(parts[at - 1], "projects" | "locations") {
                parts[at] = "*";
            }
        }
        Likeness { method: self.method.clone(), path: parts.join("/"), model: self.model.clone(), stream: self.stream }
    }
}

/// Before all else: another version has other fields.
fn judge_version(exchange: &Value) -> Result<(), (String, String)> {
    match exchange.get("version") {
        None => Ok(()),
        Some(version) if *version == VERSION => Ok(()),
        Some(Value::Number(version)) => Err(("version".to_owned(), format!("must be {VERSION}, and is {version}"))),
        Some(other) => Err(("version".to_owned(), format!("must be {VERSION}, and is {}", data::kind_of(other)))),
    }
}

impl Request {
    fn judge(&self) -> Result<(), (String, String)> {
        let is_method = self.method.bytes().all(|byte| byte.is_ascii_uppercase()) && !self.method.is_empty();
        if !is_method {
            return Err(("request.method".to_owned(), "must be a method in capitals, such as POST".to_owned()));
        }
        let is_path = self.path.starts_with('/')
            && self.path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
        if !is_path {
            let problem = "must be a path that begins with a slash, without blanks and query".to_owned();
            return Err(("request.path".to_owned(), problem));
        }
        Ok(())
    }
}

impl Answer {
    fn judge(&self) -> Result<Ready, (String, String)> {
        let status = Some(self.status).filter(|status| (200..=599).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok()).ok_or_else(|| {
            ("response.status".to_owned(), format!("must be from 200 to 599, and is {}", self.status))
        })?;
        let mut headers = HeaderMap::new();
        for (at, (name, value)) in self.headers.iter().enumerate() {
            let parsed = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
            let (name, value) = parsed.ok_or_else(|| {
                (format!("response.headers[{at}]"), "must be a name and a value that HTTP allows".to_owned())
            })?;
            if !OWN_HEADERS.contains(&name.as_str()) {
                headers.append(name, value);
            }
        }
        let mut sent = 0;
        let mut steps = Vec::with_capacity(2 * self.frames.len() + 1);
        for (at, piece) in self.frames.iter().enumerate() {
            let field = |name: &str| format!("response.frames[{at}]{name}");
            let bytes = match (&piece.text, &piece.base64) {
                (Some(text), None) => Bytes::from(text.clone()),
                (None, Some(text)) => {
                    STANDARD.decode(text).map_err(|_| (field(".base64"), "must be base64".to_owned()))?.into()
                }
                _ => return Err((field(""), "must have either 'text' or 'base64'".to_owned())),
            };
            sent += bytes.len();
            steps.extend([Step::Wait(Duration::from_millis(piece.after_ms)), Step::Send(bytes)]);
        }
        if self.end == End::Cut {
            steps.push(Step::Cut);
        }
        if sent > 0 && matches!(self.status, 204 | 205 | 304) {
            let problem = format!("must be empty, since a {} has no body", self.status);
            return Err(("response.frames".to_owned(), problem));
        }
        self.judge_length(&headers, sent)?;
        Ok(Ready { status, headers, steps: steps.into() })
    }

    /// An announced length has to be the body's; one that was cut has less.
    fn judge_length(&self, headers: &HeaderMap, sent: usize) -> Result<(), (String, String)> {
        let mut told = headers.get_all(CONTENT_LENGTH).iter();
        let Some(first) = told.next() else { return Ok(()) };
        let length = first.to_str().ok().and_then(|text| text.parse::<usize>().ok());
        let (fits, expected) = match self.end {
            End::Complete => (length == Some(sent), format!("{sent}, as long as the frames are")),
            End::Cut => (length >= Some(sent), format!("{sent} or more, since the frames were cut")),
        };
        if fits && told.next().is_none() {
            return Ok(());
        }
        let at = self.headers.iter().rposition(|(name, _)| name.eq_ignore_ascii_case("content-length")).unwrap_or(0);
        Err((format!("response.headers[{at}]"), format!("content-length must be {expected}, and stand once")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(response: &Value) -> Value {
        json!({"version": 1, "request": {"method": "POST", "path": "/v1/projects/p/locations/global/x"},
            "response": response})
    }

    fn refused(value: &Value) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), value.to_string()).unwrap();
        let error = Replay::read(folder.path()).unwrap_err().to_string();
        error.split_once("a.json: ").unwrap().1.to_owned()
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(refused(&json!({"version": 1})), "request: is missing");
        assert_eq!(refused(&json!({"request": {}})), "request.method: is missing");
        assert_eq!(refused(&json!([1])), "the file: must be an object, and is an array");
        // Whatever else a later version has.
        assert_eq!(refused(&json!({"version": 2, "exchange": 1})), "version: must be 1, and is 2");
        assert_eq!(refused(&json!({"version": "1"})), "version: must be 1, and is a string");
        let with = |status: u16, headers: Value, frames: Value| {
            file(&json!({"status": status, "headers": headers, "frames": frames}))
        };
        assert!(refused(&with(99, json!([]), json!([]))).starts_with("response.status: "));
        assert!(refused(&with(200, json!([["a b", "c"]]), json!([]))).starts_with("response.headers[0]: "));
        assert!(refused(&with(200, json!([]), json!([{"after_ms": 1}]))).starts_with("response.frames[0]: "));
        assert!(refused(&with(200, json!([]), json!([{"base64": "?"}]))).starts_with("response.frames[0].base64: "));
        assert!(refused(&with(200, json!([]), json!([{"txt": "?"}]))).starts_with("response.frames[0].txt: unknown"));
        let length = |length: &str, end: &str| {
            let mut value = with(200, json!([["x", "y"], ["Content-Length", length]]), json!([{"text": "abc"}]));
            value["response"]["end"] = json!(end);
            value
        };
        for (told, end) in [("2", "complete"), ("4", "complete"), ("x", "complete"), ("2", "cut")] {
            assert!(refused(&length(told, end)).starts_with("response.headers[1]: content-length must be 3"), "{told}");
        }
        assert!(refused(&with(204, json!([]), json!([{"text": "a"}]))).starts_with("response.frames: must be empty"));
        for (field, bad) in [("method", "GET X"), ("method", ""), ("path", "x"), ("path", "/a b"), ("path", "/a?b")] {
            let mut value = with(200, json!([]), json!([]));
            value["request"][field] = json!(bad);
            assert!(refused(&value).starts_with(&format!("request.{field}: must be a")), "{bad}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(Replay::read(empty.path()).unwrap_err().to_string().ends_with("has no file that ends in .json"));
    }

    #[test]
    fn requests_are_alike_wherever_they_go() {
        let chat = "/v1/projects/p/locations/global/endpoints/openapi/chat/completions";
        let body = br#"{"model":"google/m","messages":[],"stream":true}"#;
        let captured = Likeness::of("POST", chat, body);
        assert_eq!(captured, Likeness::of("POST", &chat.replace("/p/", "/q/").replace("global", "eu"), body));
        assert_ne!(captured, Likeness::of("POST", chat, br#"{"model":"google/m","messages":[]}"#));
        assert_ne!(captured, Likeness::of("GET", chat, body));
    }
}
