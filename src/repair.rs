//! The repairs of error answers that OpenAI's SDKs cannot show (`UPSTREAM_ERRORS=openai`).
//!
//! An array around the error object loses its two brackets; a 429 or 503 gains the `retry-after` that its details
//! name; an HTML page becomes a JSON error. Everything else is left as it is, and nothing is held back that needs no
//! repair.

use crate::error::ApiError;
use crate::http1::{Exchange, Interruption};
use crate::relay::{Source, length_of, media_type_is};
use crate::upstream::AnswerHead;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::future::poll_fn;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Larger error bodies pass unrepaired, in bytes.
const MAX_REPAIRED_BYTES: usize = 1024 * 1024;

/// How long the body of an error may take before its head goes to the client. Errors are short and come at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be changed.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    /// Sent in place of the answer.
    pub(crate) replacement: Option<ApiError>,
    /// Seconds for a `retry-after` of the gateway's own.
    pub(crate) retry_after: Option<u64>,
    /// How many bytes the body lost.
    pub(crate) removed_bytes: u64,
}

impl Repair {
    /// No change.
    pub(crate) fn none() -> Self {
        Self::default()
    }
}

/// Looks at an answer that is not 2xx. What is read of the body is put back in front of it, repaired where it has to
/// be. What has not come whole within `patience`, or a few seconds, is left as it is.
///
/// # Errors
/// That the client is gone.
pub(crate) async fn examine(
    exchange: &mut Exchange<'_>,
    status: u16,
    head: &AnswerHead,
    source: &mut Source,
    patience: Duration,
) -> Result<Repair, Interruption> {
    if status == 304 {
        return Ok(Repair::none());
    }
    let content_type = head.value("content-type");
    if media_type_is(content_type, b"text/html") {
        return Ok(Repair { replacement: Some(ApiError::UpstreamHtml(status)), ..Repair::default() });
    }
    let wants_retry_after = matches!(status, 429 | 503) && !head.has("retry-after");
    let is_json = content_type.is_none()
        || media_type_is(content_type, b"application/json")
        || media_type_is(content_type, b"text/json");
    if !is_json || head.has("content-encoding") {
        return Ok(Repair::none());
    }
    let mut start = BytesMut::new();
    let mut whole = false;
    let length = length_of(head);
    let deadline = Instant::now() + patience.min(PATIENCE);
    while start.len() <= MAX_REPAIRED_BYTES {
        let piece = timeout_at(deadline, poll_fn(|cx| source.poll_piece(cx)));
        let Ok(piece) = exchange.unless_interrupted(piece).await? else { break };
        match piece {
            Some(Ok(piece)) => {
                start.extend_from_slice(&piece);
                // To HTTP/2 the end is another frame, which may come later.
                if length == Some(start.len() as u64) && start.len() <= MAX_REPAIRED_BYTES {
                    whole = true;
                    break;
                }
            }
            Some(Err(error)) => {
                source.broken = Some(error);
                break;
            }
            None => {
                whole = true;
                break;
            }
        }
        if !wants_retry_after && start.trim_ascii_start().first().is_some_and(|byte| *byte != b'[') {
            break;
        }
    }
    let body = start.freeze();
    let mut repair = Repair::none();
    let mut passed = body.clone();
    if whole {
        if let Some(unwrapped) = without_brackets(&body) {
            repair.removed_bytes = 2;
            passed = unwrapped;
        }
        if wants_retry_after {
            repair.retry_after = retry_delay(&passed);
        }
    }
    if !passed.is_empty() {
        source.first = Some(passed);
    }
    Ok(repair)
}

/// The body without the brackets of an array of one object that has an `error`; every other byte stays.
#[must_use]
pub fn without_brackets(body: &[u8]) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct OneError<'a>(#[serde(borrow)] [ErrorObject<'a>; 1]);

    let OneError([_]) = serde_json::from_slice(body).ok()?;
    let open = body.iter().position(|byte| *byte == b'[')?;
    // To serde a struct may also be written as an array.
    if body.get(open + 1..)?.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let close = body.iter().rposition(|byte| *byte == b']')?;
    let mut out = BytesMut::with_capacity(body.len());
    out.extend_from_slice(body.get(..open)?);
    out.extend_from_slice(body.get(open + 1..close)?);
    out.extend_from_slice(body.get(close + 1..)?);
    Some(out.freeze())
}

/// An object with a field `error`, whatever is in it.
#[derive(Deserialize)]
struct ErrorObject<'a> {
    #[serde(borrow, rename = "error")]
    _error: &'a RawValue,
}

/// The delay of a `google.rpc.RetryInfo` in an error's details, in whole seconds, rounded up.
#[must_use]
pub fn retry_delay(body: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let details = value.get("error")?.get("details")?.as_array()?;
    let info = details.iter().find(|detail| {
        detail
            .get("@type")
            .and_then(serde_json::Value::as_str)
            .is_some_and(|name| name.ends_with("google.rpc.RetryInfo"))
    })?;
    let seconds: f64 = info.get("retryDelay")?.as_str()?.strip_suffix('s')?.parse().ok()?;
    // Anything beyond a day is no advice.
    (0.0..=86_400.0).contains(&seconds).then(|| seconds.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_an_array_of_one_error_object_is_unwrapped() {
        assert_eq!(
            without_brackets(b" [{\n \"error\": {\"a\":[1]} }\n]\n").unwrap(),
            &b" {\n \"error\": {\"a\":[1]} }\n\n"[..]
        );
        for left_alone in [
            "{\"error\":{}}",
            "[]",
            "[{\"error\":1},{\"error\":2}]",
            "[{\"x\":1}]",
            "[1]",
            "[[1]]",
            "[{\"error\":1}",
            "",
            "[{\"error\":1}] x",
        ] {
            assert!(without_brackets(left_alone.as_bytes()).is_none(), "{left_alone}");
        }
    }

    #[test]
    fn retry_delays() {
        let body = |delay: &str| {
            format!(
                r#"{{"error":{{"details":[{{"@type":"x"}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{delay}"}}]}}}}"#
            )
        };
        assert_eq!(retry_delay(body("3.2s").as_bytes()), Some(4));
        assert_eq!(retry_delay(body("17s").as_bytes()), Some(17));
        for bad in ["17", "-1s", "1e9s", "NaNs", "infs", "s", "x"] {
            assert_eq!(retry_delay(body(bad).as_bytes()), None, "{bad}");
        }
        assert_eq!(retry_delay(b"{}"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_repair_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = without_brackets(&bytes);
            let _ = retry_delay(&bytes);
        }

        #[test]
        fn unwrapping_removes_two_bytes_and_no_more(text in any::<String>(), space in "[ \n\r\t]{0,4}") {
            let inner = format!("{space}{{\"error\":{}}}{space}", serde_json::to_string(&text).unwrap());
            let unwrapped = without_brackets(format!("{space}[{inner}]{space}").as_bytes()).unwrap();
            let expected = format!("{space}{inner}{space}");
            prop_assert_eq!(&unwrapped[..], expected.as_bytes());
        }
    }
}
