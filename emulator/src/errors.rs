//! Google's errors: the JSON array of this endpoint, the object of its siblings, and the front end's HTML pages.

use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::Steps;
use super::reply;

/// How an error's body is framed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Shape {
    /// `[{"error": …}]`, as this endpoint does.
    #[default]
    Array,
    /// `{"error": …}`, as native calls do.
    Object,
    /// A page of the front end's.
    Html,
}

/// An error as Vertex would answer it.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// The name of the status in `google.rpc`.
    pub(super) reason: String,
    /// What went wrong, in Google's words.
    pub(super) message: String,
    /// Typed details.
    pub(super) details: Vec<Detail>,
    /// The frame of the body.
    pub(super) shape: Shape,
}

/// One of `error.details`; fields in the order of Google's own.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Detail {
    /// `google.rpc.ErrorInfo`
    ErrorInfo {
        #[serde(rename = "@type")]
        kind: &'static str,
        reason: &'static str,
        domain: &'static str,
        metadata: Value,
    },
    /// What a scenario gives.
    Given(Value),
}

impl Detail {
    fn error_info(reason: &'static str, domain: &'static str, metadata: Value) -> Self {
        Self::ErrorInfo { kind: "type.googleapis.com/google.rpc.ErrorInfo", reason, domain, metadata }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: u16,
    message: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [Detail],
}

impl Refusal {
    fn new(status: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into(), details: Vec::new(), shape: Shape::Array }
    }

    /// 400: the request is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
    }

    /// 401: no bearer at all.
    pub(super) fn no_credentials() -> Self {
        Self::unauthenticated(
            "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or \
             other valid authentication credential. See \
             https://developers.google.com/identity/sign-in/web/devconsole-project.",
            "CREDENTIALS_MISSING",
        )
    }

    /// 401: a bearer that is not, or no longer, good.
    pub(super) fn bad_credentials(reason: &'static str) -> Self {
        Self::unauthenticated(
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
             valid authentication credential. See \
             https://developers.google.com/identity/sign-in/web/devconsole-project.",
            reason,
        )
    }

    fn unauthenticated(message: &str, reason: &'static str) -> Self {
        let mut refusal = Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message);
        refusal.details.push(Detail::error_info(
            reason,
            "googleapis.com",
            serde_json::json!({
                "method": "google.cloud.aiplatform.v1.PredictionService.ChatCompletions",
                "service": "aiplatform.googleapis.com",
            }),
        ));
        refusal
    }

    /// 403: a project in which the caller has no rights, or which does not exist.
    pub(super) fn forbidden(project: &str, location: &str) -> Self {
        let resource = format!("projects/{project}/locations/{location}/endpoints/openapi");
        let mut refusal = Self::new(
            StatusCode::FORBIDDEN,
            "PERMISSION_DENIED",
            format!(
                "Permission 'aiplatform.endpoints.predict' denied on resource \
                 '//aiplatform.googleapis.com/{resource}' (or it may not exist)."
            ),
        );
        refusal.details.push(Detail::error_info(
            "IAM_PERMISSION_DENIED",
            "aiplatform.googleapis.com",
            serde_json::json!({
                "permission": "aiplatform.endpoints.predict",
                "resource": resource,
            }),
        ));
        refusal
    }

    /// 400, of the emulator's own: a marker that names nothing.
    pub(super) fn no_scenario(name: &str) -> Self {
        Self::invalid(format!("The emulator has no scenario '{name}': see ai-proxy emulator --list."))
    }

    /// 404: a model that does not exist, or not there.
    pub(super) fn no_model(project: &str, location: &str, publisher: &str, id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NOT_FOUND",
            format!(
                "Publisher Model `projects/{project}/locations/{location}/publishers/{publisher}/models/{id}` was not \
                 found or your project does not have access to it. Please ensure you are using a valid model version. \
                 For more information, see: \
                 https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions"
            ),
        )
    }

    /// The error as the body of an answer.
    pub(super) fn body(&self) -> String {
        let envelope = Envelope {
            error: Inner {
                code: self.status.as_u16(),
                message: &self.message,
                status: &self.reason,
                details: &self.details,
            },
        };
        let object = serde_json::to_string_pretty(&envelope).expect("an error is strings and JSON values");
        match self.shape {
            Shape::Array => format!("[{object}\n]"),
            Shape::Object => format!("{object}\n"),
            Shape::Html => page(self.status, &self.message, "", ""),
        }
    }

    /// The whole answer.
    pub(super) fn response(&self) -> Response<Steps> {
        if self.shape == Shape::Html {
            return html(self.status, &self.message, "", "");
        }
        let mut response = reply::response(self.status, "application/json; charset=UTF-8", Steps::whole(self.body()));
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"https://accounts.google.com/\""));
        }
        response
    }
}

/// A page of Google's front end: `before`, the path, `after`.
pub(super) fn html(status: StatusCode, before: &str, path: &str, after: &str) -> Response<Steps> {
    let mut response = Response::new(Steps::whole(page(status, before, path, after)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=UTF-8"));
    response.headers_mut().insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

fn page(status: StatusCode, before: &str, path: &str, after: &str) -> String {
    let code = status.as_u16();
    let reason = status.canonical_reason().unwrap_or("Error");
    // A path may hold anything but blanks and controls.
    let path = path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    format!(
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <meta name=viewport content=\"initial-scale=1, \
         minimum-scale=1, width=device-width\">\n  <title>Error {code} ({reason})!!1</title>\n  <a \
         href=//www.google.com/><span id=logo aria-label=Google></span></a>\n  <p><b>{code}.</b> <ins>That’s an \
         error.</ins>\n  <p>{before}{path}{after}  <ins>That’s all we know.</ins>\n"
    )
}

/// The front end's page for a path that leads nowhere.
pub(super) fn not_found(path: &str) -> Response<Steps> {
    html(StatusCode::NOT_FOUND, "The requested URL <code>", path, "</code> was not found on this server.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_arrays_indented_by_two() {
        assert_eq!(
            Refusal::invalid("no").body(),
            "[{\n  \"error\": {\n    \"code\": 400,\n    \"message\": \"no\",\n    \"status\": \
             \"INVALID_ARGUMENT\"\n  }\n}\n]"
        );
        let unauthenticated = Refusal::no_credentials().body();
        assert!(unauthenticated.contains(
            "    \"details\": [\n      {\n        \"@type\": \"type.googleapis.com/google.rpc.ErrorInfo\",\n        \
             \"reason\": \"CREDENTIALS_MISSING\",\n        \"domain\": \"googleapis.com\",\n"
        ));
    }
}
