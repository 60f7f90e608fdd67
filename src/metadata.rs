//! The one question that the gateway itself asks the metadata server: which project it runs in.

use crate::config::parse_project;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// On Google Cloud it answers in milliseconds; elsewhere the name does not resolve.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A project id is short, in bytes.
const MAX_ANSWER_BYTES: usize = 1024;

/// The project that the metadata server names, if there is one.
pub(crate) async fn project(host: &str) -> Option<String> {
    timeout(TIMEOUT, ask(host)).await.ok()?
}

async fn ask(host: &str) -> Option<String> {
    let has_port = host.parse::<http::uri::Authority>().ok()?.port().is_some();
    let address = if has_port { host.to_owned() } else { format!("{host}:80") };
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let task = tokio::spawn(connection);
    let request = Request::get("/computeMetadata/v1/project/project-id")
        .header("host", host)
        .header("metadata-flavor", "Google")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.ok()?.to_bytes();
    task.abort();
    let text = std::str::from_utf8(&body).ok()?.trim();
    parse_project(text).filter(|_| status.is_success())
}
