//! Chat completions over HTTP/2: a task for each connection, and one for each stream of events. What is ready in one turn
//! leaves in one write.

mod connection;
mod frame;
mod hpack;
mod request;
mod stream;

use super::StreamShape;
use super::server::{Pacer, Shared};
use crate::machine::monotonic_nanoseconds;
use crate::payload::{DONE, EVENT_BYTES};
use connection::Connection;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::task::spawn_local;

/// Nothing more is read while so much waits to be sent, in bytes.
const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// Nothing more can come on a connection, or be sent on it.
struct Ended;

/// Serves one connection to its end.
pub(super) async fn serve<S: AsyncBufRead + AsyncWrite + Unpin>(mut stream: S, shared: Rc<Shared>) {
    let _open = shared.open_connection();
    let connection = Rc::new(RefCell::new(Connection::new(shared.clone())));
    std::future::poll_fn(|context| {
        let held = &mut *connection.borrow_mut();
        loop {
            let read = read(Pin::new(&mut stream), context, held);
            for (id, shape) in held.to_pace.drain(..) {
                spawn_local(pace(connection.clone(), shared.clone(), id, shape));
            }
            // What is wrong is said before the end, if that is possible at once.
            let written = write(Pin::new(&mut stream), context, &mut held.output);
            match (read, written) {
                (Poll::Ready(Err(Ended)), _) | (_, Poll::Ready(Err(Ended))) => return Poll::Ready(()),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {}
                _ if held.is_over() => return Poll::Ready(()),
                _ => {
                    held.sender = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    })
    .await;
    connection.borrow_mut().end();
}

/// Reads all that is there, or until too much waits to be sent.
fn read<S: AsyncBufRead>(
    mut stream: Pin<&mut S>,
    context: &mut Context<'_>,
    connection: &mut Connection,
) -> Poll<Result<(), Ended>> {
    while connection.output.len() < MAX_OUTPUT_BYTES {
        let piece = ready!(stream.as_mut().poll_fill_buf(context)).map_err(|_| Ended)?;
        if piece.is_empty() {
            return Poll::Ready(Err(Ended));
        }
        let length = piece.len();
        connection.receive(piece).map_err(|_| Ended)?;
        stream.as_mut().consume(length);
    }
    Poll::Ready(Ok(()))
}

fn write<S: AsyncWrite>(
    mut stream: Pin<&mut S>,
    context: &mut Context<'_>,
    output: &mut Vec<u8>,
) -> Poll<Result<(), Ended>> {
    while !output.is_empty() {
        let count = ready!(stream.as_mut().poll_write(context, output)).map_err(|_| Ended)?;
        if count == 0 {
            return Poll::Ready(Err(Ended));
        }
        output.drain(..count);
    }
    stream.poll_flush(context).map_err(|_| Ended)
}

/// Sends the events of one stream, each at its time. The first one leaves together with the head.
async fn pace(connection: Rc<RefCell<Connection>>, shared: Rc<Shared>, id: u32, shape: StreamShape) {
    connection.borrow_mut().begin_events(id);
    let mut pacer = Pacer::new(&shared, shape);
    let mut event = Vec::with_capacity(EVENT_BYTES);
    while let Some(number) = pacer.next().await {
        event.clear();
        shared.events.write(number, monotonic_nanoseconds(), &mut event);
        if !connection.borrow_mut().send(id, &event, false) {
            // The client has reset the stream, or gone.
            return;
        }
    }
    connection.borrow_mut().send(id, DONE, true);
}
