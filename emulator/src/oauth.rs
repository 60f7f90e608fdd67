//! Google's token endpoints, as far as credentials other than the metadata server's ask them: the OAuth token endpoint,
//! the exchange of other identities' tokens, and tokens for another service account.
//!
//! No grant is verified: whoever asks in the right form gets a token that the emulator accepts.

use std::collections::HashMap;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::body::Steps;
use super::journal::Recorder;
use super::{Emulator, errors, metadata};

/// `oauth2.googleapis.com/token`: what a credentials file's `token_uri` is to name.
const TOKEN: &str = "/token";
/// `sts.googleapis.com/v1/token`: the exchange.
const EXCHANGE: &str = "/v1/token";
/// `iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/ACCOUNT:generateAccessToken`
const IMPERSONATION: &str = ":generateAccessToken";

/// What each endpoint grants, and the field without which it does not.
const GRANTS: [(&str, &str, &str); 3] = [
    (TOKEN, "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion"),
    (TOKEN, "refresh_token", "refresh_token"),
    (EXCHANGE, "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token"),
];

/// Whether a path is one of theirs. Their bodies hold secrets.
pub(super) fn serves(path: &str) -> bool {
    matches!(path, TOKEN | EXCHANGE) || path.ends_with(IMPERSONATION)
}

/// Answers a request.
pub(super) async fn answer(
    emulator: &Emulator,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
    recorder: &Recorder,
) -> Response<Steps> {
    if method != Method::POST {
        return errors::not_found(path);
    }
    let impersonates = path.ends_with(IMPERSONATION);
    if impersonates && !headers.contains_key(AUTHORIZATION) {
        return errors::Refusal::no_credentials().response();
    }
    if !impersonates {
        let fields = fields(headers, body);
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let grant = GRANTS.iter().find(|(of, grant, _)| *of == path && *grant == field("grant_type"));
        match grant {
            None => return refuse("unsupported_grant_type", "Invalid grant_type"),
            Some((_, _, needed)) if field(needed).is_empty() => {
                return refuse("invalid_request", &format!("Missing required parameter: {needed}"));
            }
            Some(_) => {}
        }
    }
    let (token, expires_in) = match metadata::token(emulator, recorder).await {
        Ok(token) => token,
        Err(response) => return response,
    };
    if impersonates {
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(expires_in.cast_signed());
        return json_answer(StatusCode::OK, &json!({"accessToken": token, "expireTime": expires.to_string()}));
    }
    let mut told = json!({"access_token": token, "expires_in": expires_in, "token_type": "Bearer"});
    if path == EXCHANGE {
        told["issued_token_type"] = json!("urn:ietf:params:oauth:token-type:access_token");
    }
    json_answer(StatusCode::OK, &told)
}

fn refuse(error: &str, description: &str) -> Response<Steps> {
    json_answer(StatusCode::BAD_REQUEST, &json!({"error": error, "error_description": description}))
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Steps> {
    let mut response = Response::new(Steps::whole(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

/// The fields of a form or of a JSON object: Google's libraries send either.
fn fields(headers: &HeaderMap, body: &[u8]) -> HashMap<String, String> {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if kind.starts_with(b"application/json") {
        let fields: HashMap<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: Value| value.as_str().map(str::to_owned);
        return fields.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect();
    }
    let pairs = body.split(|byte| *byte == b'&').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((decoded(&pair[..at]), decoded(&pair[at + 1..])))
    });
    pairs.collect()
}

/// Undoes the percent-encoding of forms.
fn decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = &after[if byte.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_and_json_are_read() {
        let mut headers = HeaderMap::new();
        let form = fields(&headers, b"grant_type=urn%3Aietf%3Aparams&x=a+b%2&empty=");
        assert_eq!(form["grant_type"], "urn:ietf:params");
        assert_eq!(form["x"], "a b%2");
        assert_eq!(form["empty"], "");
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        assert_eq!(fields(&headers, br#"{"a":"b","c":1}"#).len(), 1);
        assert!(fields(&headers, b"{").is_empty());
    }

    proptest! {
        #[test]
        fn no_form_panics(body in prop::collection::vec(any::<u8>(), 0..60)) {
            fields(&HeaderMap::new(), &body);
        }
    }
}
