//! Google's metadata server, as far as credentials ask it.

use crate::payload::REWRITTEN;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest request, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

pub(super) async fn serve(mut stream: TcpStream) {
    let mut input = Vec::new();
    loop {
        while !input.ends_with(b"\r\n\r\n") {
            if input.len() > MAX_HEAD_BYTES || !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                return;
            }
        }
        let target = input.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let (status, body) = match path {
            b"/computeMetadata/v1/instance/service-accounts/default/token" => {
                let token = REWRITTEN.bearer.trim_start_matches("Bearer ");
                ("200 OK", format!(r#"{{"access_token":"{token}","expires_in":3599,"token_type":"Bearer"}}"#))
            }
            b"/computeMetadata/v1/project/project-id" => ("200 OK", "bench".to_owned()),
            b"/computeMetadata/v1/universe/universe-domain" | b"/computeMetadata/v1/universe/universe_domain" => {
                ("200 OK", "googleapis.com".to_owned())
            }
            _ => ("404 Not Found", String::new()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nmetadata-flavor: Google\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n\
             {body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        input.clear();
    }
}
