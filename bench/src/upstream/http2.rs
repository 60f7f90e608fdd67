//! Chat completions over HTTP/2.

use super::server::{Pacer, Shared, add, is_authorized};
use crate::machine::monotonic_nanoseconds;
use crate::payload::{DONE, EVENT_BYTES, QuestionCheck};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, SERVER, VARY};
use http::{HeaderValue, Request, Response};
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

/// Streams on one connection: what Google documents.
const MAX_STREAMS: u32 = 100;
/// Google's front ends take a request body as it comes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, shared: Rc<Shared>) {
    let _open = shared.open_connection();
    let handshake = Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(stream);
    let Ok(mut connection) = handshake.await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let shared = shared.clone();
        spawn_local(async move {
            // A stream that the client reset is over.
            let _ = answer(request, respond, &shared).await;
        });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let authorization = parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let is_right = parts.method == http::Method::POST && is_authorized(parts.uri.path().as_bytes(), authorization);
    let mut check = QuestionCheck::new(shared.shape.borrow().tail.clone());
    while let Some(piece) = body.data().await {
        let piece = piece?;
        check.push(&piece);
        add(&shared.counts.body_bytes, piece.len() as u64);
        body.flow_control().release_capacity(piece.len())?;
    }
    shared.judge(is_right && check.is_right());
    let mut head = Response::new(());
    let fields = head.headers_mut();
    fields.insert(VARY, HeaderValue::from_static("X-Origin"));
    fields.insert(SERVER, HeaderValue::from_static("scaffolding on HTTPServer2"));
    let stream_shape = shared.shape.borrow().stream;
    match stream_shape {
        None => {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
            fields.insert(CONTENT_LENGTH, HeaderValue::from(shared.answer.len()));
            respond.send_response(head, false)?.send_data(shared.answer.clone(), true)
        }
        Some(shape) => {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            let mut sending = respond.send_response(head, false)?;
            let mut pacer = Pacer::new(shared, shape);
            while let Some(number) = pacer.next().await {
                let mut event = Vec::with_capacity(EVENT_BYTES);
                shared.events.write(number, monotonic_nanoseconds(), &mut event);
                sending.send_data(event.into(), false)?;
            }
            sending.send_data(Bytes::from_static(DONE), true)
        }
    }
}
