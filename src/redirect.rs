//! The plain-HTTP port beside the TLS one: it sends browsers over, and refuses clients.

use crate::App;
use crate::error::ApiError;
use crate::host::Host;
use crate::http1::{Answer, Exchange, Failure, Method};

/// Answers one request that came without TLS.
///
/// Pages are sent over to https. The API is refused instead: a client that follows would send its key in clear each time and
/// nobody would notice.
///
/// # Errors
/// The refusal, or that the client is gone.
pub async fn answer(app: &App, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
    exchange.record.route = "redirect";
    let path = exchange.head.shared_path();
    let is_page = matches!(exchange.head.method, Method::Get | Method::Head) && !path.starts_with(b"/v1");
    let host = exchange.head.value("host").and_then(Host::of_field);
    let (Some(host), true, Ok(path)) = (host, is_page && is_plain(&path), std::str::from_utf8(&path)) else {
        return Err(ApiError::HttpsRequired.into());
    };
    let there = Host { port: Some(app.https_port), ..host };
    let fields = vec![("location", format!("{}{path}", there.url(true)))];
    exchange
        .answer(Answer { status: 308, content_type: "text/plain", fields, vary: "", body: bytes::Bytes::new() })
        .await
}

/// Whether a path can stand in a header as it is.
fn is_plain(path: &[u8]) -> bool {
    path.starts_with(b"/")
        && !path.starts_with(b"//")
        && path.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\')
}
