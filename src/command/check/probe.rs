//! A chat as a client's would go, the smallest there is: one token, through the gateway's own way up.

use crate::http1::Head;
use crate::models::Model;
use crate::relay::is_event_stream;
use crate::upstream::{ChatRequest, ForwardError, Vertex};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Version};
use serde_json::{Value, json};
use std::future::poll_fn;
use std::time::{Duration, Instant, SystemTime};

/// How long an answer may take in all. A thinking model may need a while even for one token.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// More is no answer to such a question, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What came back.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An answer of upstream's, whatever its status.
    Answered(Answered),
    /// None; why.
    Failed(ForwardError),
    /// It began and did not end; what had come, unless it took too long.
    Broken(Option<Box<Answered>>),
}

/// An answer of upstream's.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) version: Version,
    pub(super) body: Bytes,
    /// How the body came.
    pub(super) pieces: Vec<Piece>,
    /// From the question to the first byte of the answer's body.
    pub(super) first_byte: Duration,
    /// Upstream's clock and ours, when the answer's head came.
    pub(super) clocks: Option<(SystemTime, SystemTime)>,
}

/// A piece of a body.
#[derive(Debug)]
pub(super) struct Piece {
    /// In bytes.
    pub(super) length: usize,
    /// Since the piece before, or since the answer's head.
    pub(super) after: Duration,
}

impl Answered {
    /// Whether the body is an object of JSON, as every completion is, and no error.
    pub(super) fn is_json_object(&self) -> bool {
        let object = serde_json::from_slice::<serde_json::Map<String, Value>>(&self.body);
        object.is_ok_and(|object| !object.contains_key("error"))
    }

    /// Whether the answer is a stream of events that was ended as one is.
    pub(super) fn is_whole_stream(&self) -> bool {
        let text = self.body.trim_ascii_end();
        is_event_stream(&self.headers) && text.ends_with(b"[DONE]")
    }
}

/// Asks a model at one of its locations for one token.
pub(super) async fn ask(vertex: &Vertex, model: &Model, location: usize, stream: bool) -> Outcome {
    let question = json!({
        "model": &*model.vertex_id,
        "messages": [{"role": "user", "content": "Say ok."}],
        "max_tokens": 1,
        "stream": stream,
    });
    put(vertex, location, &question).await
}

/// Puts a question to a location.
pub(super) async fn put(vertex: &Vertex, location: usize, question: &Value) -> Outcome {
    let body = Bytes::from(question.to_string());
    let begun = Instant::now();
    // Nothing of a client's head goes up: there is no client.
    let request = ChatRequest::new(&Head::unreadable(), vec![body.clone()], (body, None));
    let asked = async {
        let mut answer = match vertex.forward_to(location, &request).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failed(error),
        };
        let now = SystemTime::now();
        let date = answer.head.text("date");
        let clocks = date.and_then(|date| httpdate::parse_http_date(date).ok()).map(|theirs| (theirs, now));
        let mut body = BytesMut::new();
        let (mut first_byte, mut pieces, mut last) = (None, Vec::new(), Instant::now());
        let mut is_whole = true;
        while let Some(piece) = poll_fn(|cx| answer.body.poll_piece(cx)).await {
            let Some(data) = piece.ok().filter(|data| body.len() + data.len() <= MAX_ANSWER_BYTES) else {
                is_whole = false;
                break;
            };
            first_byte.get_or_insert_with(|| begun.elapsed());
            body.extend_from_slice(&data);
            pieces.push(Piece { length: data.len(), after: last.elapsed() });
            last = Instant::now();
        }
        let answered = Answered {
            status: answer.head.status.as_u16(),
            headers: answer.head.to_map(),
            version: answer.head.version,
            body: body.freeze(),
            pieces,
            first_byte: first_byte.unwrap_or_else(|| begun.elapsed()),
            clocks,
        };
        if is_whole { Outcome::Answered(answered) } else { Outcome::Broken(Some(Box::new(answered))) }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or(Outcome::Broken(None))
}
