//! The plain-HTTP port beside the TLS one: it sends browsers over, and refuses clients.

use crate::App;
use crate::error::ApiError;
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
    let host = exchange.head.value("host").and_then(host_of);
    let (Some(host), true, Ok(path)) = (host, is_page && is_plain(&path), std::str::from_utf8(&path)) else {
        return Err(ApiError::HttpsRequired.into());
    };
    let port = match app.https_port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let location = format!("https://{host}{port}{path}");
    let fields = vec![("location", location)];
    exchange
        .answer(Answer { status: 308, content_type: "text/plain", fields, vary: "", body: bytes::Bytes::new() })
        .await
}

/// The host in a `host` header, without its port: a name or an address, and nothing that could lead elsewhere.
fn host_of(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, rest)) if inside.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') => {
            (text.get(..inside.len() + 2)?, rest)
        }
        Some(_) => return None,
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (host, rest) = text.split_at(end);
            let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
            (Some(host).filter(|_| is_name)?, rest)
        }
    };
    let port_is_right =
        port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    (port_is_right && !host.is_empty() && host.len() <= 255).then_some(host)
}

/// Whether a path can stand in a header as it is.
fn is_plain(path: &[u8]) -> bool {
    path.starts_with(b"/")
        && !path.starts_with(b"//")
        && path.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for (value, host) in [
            ("gateway.example", Some("gateway.example")),
            ("gateway.example:80", Some("gateway.example")),
            ("127.0.0.1:8080", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("", None),
            (":80", None),
            ("a@b", None),
            ("a/b", None),
            ("a:b", None),
            ("[::1]x", None),
            ("[a@b]", None),
            ("evil.example\\", None),
        ] {
            assert_eq!(host_of(value.as_bytes()), host, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_host_leads_elsewhere(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(host) = host_of(&value) {
                let url: http::Uri = format!("https://{host}/").parse().unwrap();
                prop_assert_eq!(url.host(), Some(host));
                prop_assert_eq!(url.path(), "/");
            }
        }
    }
}
