//! The gateway's own errors, in the shape that OpenAI's clients read.
//!
//! What upstream answers is never an [`ApiError`]: its status and bytes pass through.

use serde::Serialize;
use std::time::Duration;

/// An error that the gateway answers with. The message is for the client: it says what to do and never
/// holds a key, a bearer or a body. Causes go to the log only.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// The request is not valid HTTP/1.1.
    #[error("the request is not valid HTTP/1.1: {0}")]
    BadRequest(&'static str),
    /// The head is larger than the limits of the server.
    #[error("the request's header fields are too large: at most 32 KiB and 100 fields are accepted")]
    HeadersTooLarge,
    /// Something other than HTTP/1.0 and HTTP/1.1.
    #[error("only HTTP/1.1 and HTTP/1.0 are spoken here")]
    HttpVersion,
    /// A transfer coding other than `chunked`.
    #[error("the only transfer-encoding accepted is 'chunked'")]
    TransferEncoding,
    /// An `expect` header other than `100-continue`.
    #[error("the only expectation accepted is '100-continue'")]
    Expectation,
    /// Head or body did not arrive in time.
    #[error("the request did not arrive in time")]
    RequestTimeout,
    /// The API, asked for on the port without TLS.
    #[error(
        "this port only leads browsers to https; send API requests to the https address, and replace a key that was sent here"
    )]
    HttpsRequired,
    /// No, an unknown, or a disabled key: always the same words.
    #[error("missing or invalid API key: send an issued key as 'x-api-key: <key>' or 'Authorization: Bearer <key>'")]
    InvalidApiKey,
    /// The model exists, but not for this key.
    #[error("this API key may not use that model; it may use: {0}")]
    ModelNotAllowed(String),
    /// The key's requests of the last minute are as many as it may send.
    #[error("this API key may send {limit} requests a minute; try again in {} s", seconds(.wait))]
    TooManyRequests {
        /// The key's `rpm`.
        limit: u32,
        /// Until one more is admitted.
        wait: Duration,
    },
    /// The key's running requests are as many as it may have.
    #[error("this API key may have {limit} requests running at one time; try again when one of them has ended")]
    TooManyRunning {
        /// The key's `max_concurrent`.
        limit: u32,
        /// Until it is worth another try.
        wait: Duration,
    },
    /// The key's tokens of today are used up.
    #[error("the {limit} tokens that this API key may use in a day are used up; the next day begins at midnight UTC, in {} s", seconds(.wait))]
    TokensUsedUp {
        /// The key's `tokens_per_day`.
        limit: u64,
        /// Until the next day begins.
        wait: Duration,
    },
    /// No such route.
    #[error("there is nothing at this path; the API is under /v1, its documentation at /docs")]
    NotFound,
    /// A route that exists, asked with another method.
    #[error("this path does not answer to that method; allowed: {0}")]
    MethodNotAllowed(&'static str),
    /// The body is compressed.
    #[error("request bodies must not be encoded: send the JSON without content-encoding")]
    ContentEncoding,
    /// The body is larger than the configured limit in bytes.
    #[error("the request body is larger than the limit of {0} bytes")]
    BodyTooLarge(usize),
    /// All memory set aside for request bodies is in use.
    #[error("the gateway is holding as many request bodies as its memory allows; try again shortly")]
    OutOfMemory,
    /// The body is not one JSON object.
    #[error("the request body is not a JSON object: {0}")]
    InvalidJson(String),
    /// The field `model` is missing.
    #[error("the request has no 'model'; send one of: {0}")]
    MissingModel(String),
    /// The field `model` is not a string.
    #[error("'model' must be a string")]
    InvalidModel,
    /// The field `model` stands twice.
    #[error("'model' is given more than once")]
    DuplicateModel,
    /// The model is not an alias.
    #[error("this model does not exist here; use one of the aliases: {aliases}")]
    ModelNotFound {
        /// The aliases that do exist, for the message.
        aliases: String,
        /// 400 for a chat, 404 for `GET /v1/models/{id}`.
        status: u16,
    },
    /// No bearer could be had in time.
    #[error("the gateway has no Google credentials at the moment; try again shortly")]
    CredentialsUnavailable,
    /// As many clients are connected as may be.
    #[error("the gateway has as many connections as it may have; try again shortly")]
    TooManyConnections,
    /// Every connection to upstream is full and no more may be opened.
    #[error("all connections to the model's endpoint are in use; try again shortly")]
    UpstreamSaturated,
    /// No connection to upstream could be made.
    #[error("the model's endpoint could not be reached")]
    UpstreamUnreachable,
    /// The connection broke before or during the answer.
    #[error("the connection to the model's endpoint broke before the answer was complete")]
    UpstreamBroke,
    /// Upstream refused two bearers in a row.
    #[error(
        "the model's endpoint rejected the gateway's own Google credentials (not your API key); its operator has to check the service account"
    )]
    UpstreamRejectedCredentials,
    /// No response headers in time.
    #[error("the model's endpoint did not answer in time")]
    UpstreamTimeout,
    /// The process is stopping and its grace period is over.
    #[error("the gateway is shutting down; send the request again")]
    ShuttingDown,
    /// An HTML page from upstream, with its status.
    #[error(
        "the endpoint answered {0} with an HTML page, not JSON: a sign of a wrong address; check GOOGLE_CLOUD_PROJECT, GOOGLE_CLOUD_LOCATION and GOOGLE_VERTEX_BASE_URL"
    )]
    UpstreamHtml(u16),
}

/// OpenAI's error object.
#[derive(Serialize)]
struct Envelope<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl ApiError {
    /// The HTTP status and the stable `code`.
    #[must_use]
    pub fn status_and_code(&self) -> (u16, &'static str) {
        match self {
            Self::BadRequest(_) => (400, "bad_request"),
            Self::InvalidJson(_) => (400, "invalid_json"),
            Self::MissingModel(_) => (400, "missing_model"),
            Self::InvalidModel => (400, "invalid_model"),
            Self::DuplicateModel => (400, "duplicate_model"),
            Self::ModelNotFound { status, .. } => (*status, "model_not_found"),
            Self::InvalidApiKey => (401, "invalid_api_key"),
            Self::HttpsRequired => (403, "https_required"),
            Self::ModelNotAllowed(_) => (403, "model_not_allowed"),
            Self::NotFound => (404, "not_found"),
            Self::MethodNotAllowed(_) => (405, "method_not_allowed"),
            Self::RequestTimeout => (408, "request_timeout"),
            Self::BodyTooLarge(_) => (413, "request_too_large"),
            Self::ContentEncoding => (415, "unsupported_content_encoding"),
            Self::Expectation => (417, "expectation_failed"),
            Self::TooManyRequests { .. } => (429, "rate_limit_exceeded"),
            Self::TooManyRunning { .. } => (429, "rate_limit_exceeded"),
            Self::TokensUsedUp { .. } => (429, "insufficient_quota"),
            Self::HeadersTooLarge => (431, "headers_too_large"),
            Self::TransferEncoding => (501, "unsupported_transfer_encoding"),
            Self::UpstreamUnreachable => (502, "upstream_unreachable"),
            Self::UpstreamBroke => (502, "upstream_broke"),
            Self::UpstreamRejectedCredentials => (502, "upstream_rejected_credentials"),
            Self::CredentialsUnavailable => (503, "credentials_unavailable"),
            Self::OutOfMemory => (503, "out_of_memory"),
            Self::TooManyConnections => (503, "too_many_connections"),
            Self::UpstreamSaturated => (503, "upstream_saturated"),
            Self::ShuttingDown => (503, "shutting_down"),
            Self::UpstreamTimeout => (504, "upstream_timeout"),
            Self::HttpVersion => (505, "http_version_not_supported"),
            Self::UpstreamHtml(status) => (*status, "upstream_html"),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status_and_code().0
    }

    /// OpenAI's `type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UpstreamHtml(_) | Self::UpstreamBroke => "upstream_error",
            // OpenAI's words for what has run out.
            Self::TooManyRequests { .. } | Self::TooManyRunning { .. } => "requests",
            Self::TokensUsedUp { .. } => "insufficient_quota",
            _ => match self.status() {
                401 => "authentication_error",
                400..=499 => "invalid_request_error",
                502 | 504 => "upstream_error",
                _ => "server_error",
            },
        }
    }

    /// The field of the request that is at fault.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::MissingModel(_)
            | Self::InvalidModel
            | Self::DuplicateModel
            | Self::ModelNotFound { .. }
            | Self::ModelNotAllowed(_) => Some("model"),
            _ => None,
        }
    }

    /// How long a client should wait before it tries again, where waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CredentialsUnavailable => Some(Duration::from_secs(2)),
            Self::TooManyRequests { wait, .. }
            | Self::TooManyRunning { wait, .. }
            | Self::TokensUsedUp { wait, .. } => Some(*wait),
            Self::OutOfMemory | Self::TooManyConnections | Self::UpstreamSaturated | Self::ShuttingDown => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }

    /// The JSON body. The sole place that builds one.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let message = self.to_string();
        let (_, code) = self.status_and_code();
        let body = Body { message: &message, r#type: self.kind(), param: self.param(), code };
        serde_json::to_vec(&Envelope { error: body }).expect("strings always serialise")
    }
}

/// A wait in whole seconds, as `retry-after` has it: never less, and never none at all.
#[must_use]
pub fn seconds(wait: &Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_has_openais_four_fields() {
        let error = ApiError::ModelNotFound { aliases: "flash \"x\"".into(), status: 400 };
        let value: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(value["error"]["code"], "model_not_found");
        assert_eq!(value["error"]["param"], "model");
        assert_eq!(value["error"]["type"], "invalid_request_error");
        assert!(value["error"]["message"].as_str().unwrap().ends_with("flash \"x\""));
        assert_eq!(value["error"].as_object().unwrap().len(), 4);
    }

    #[test]
    fn upstream_failures_are_not_blamed_on_the_client() {
        assert_eq!(ApiError::UpstreamRejectedCredentials.status(), 502);
        assert_eq!(ApiError::UpstreamTimeout.kind(), "upstream_error");
        assert_eq!(ApiError::OutOfMemory.kind(), "server_error");
    }
}
