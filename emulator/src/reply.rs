//! An answer in Vertex's shape: keys in alphabetical order at every level, and what is nothing left out.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use super::body::Steps;

/// What is answered, whole or as a stream.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// With its publisher.
    pub(super) model: String,
    /// How many choices, all the same.
    pub(super) candidates: usize,
    pub(super) thoughts: Option<String>,
    pub(super) text: Option<String>,
    pub(super) refusal: Option<String>,
    pub(super) calls: Vec<ToolCall>,
    pub(super) finish_reason: String,
    /// Blocked and starved answers have no message at all.
    pub(super) has_message: bool,
    pub(super) usage: Usage,
}

/// A chat completion, or a chunk of one.
#[derive(Serialize)]
pub(super) struct Envelope<'a> {
    pub(super) choices: Vec<Choice<'a>>,
    pub(super) created: u64,
    pub(super) id: &'a str,
    pub(super) model: &'a str,
    pub(super) object: &'static str,
    pub(super) system_fingerprint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<&'a Usage>,
}

/// One of `choices`.
#[derive(Serialize)]
pub(super) struct Choice<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delta: Option<Message<'a>>,
    /// Absent, not null, before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finish_reason: Option<&'a str>,
    pub(super) index: usize,
    pub(super) logprobs: (),
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Message<'a>>,
}

/// A message or a delta.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extra_content: Option<Extra>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<&'a str>,
    pub(super) role: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) tool_calls: &'a [ToolCall],
}

/// `extra_content`
#[derive(Clone, Debug, Serialize)]
pub(super) struct Extra {
    pub(super) google: Google,
}

/// `extra_content.google`
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Google {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thought: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thought_signature: Option<String>,
}

/// One of `tool_calls`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extra_content: Option<Extra>,
    pub(super) function: Function,
    pub(super) id: String,
    /// Only in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<usize>,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
}

/// The function that is called.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Function {
    /// JSON in a string, without blanks.
    pub(super) arguments: String,
    pub(super) name: String,
}

/// `usage`: zeros are left out, and thinking is not among the completion tokens.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Usage {
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) completion_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) completion_tokens_details: Option<CompletionDetails>,
    pub(super) extra_properties: ExtraProperties,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) prompt_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_tokens_details: Option<PromptDetails>,
    pub(super) total_tokens: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct CompletionDetails {
    pub(super) reasoning_tokens: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct PromptDetails {
    pub(super) cached_tokens: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ExtraProperties {
    google: Traffic,
}

#[derive(Clone, Debug, Serialize)]
struct Traffic {
    traffic_type: String,
}

impl Usage {
    /// Adds up; `total = prompt + completion + reasoning`.
    pub(super) fn new(prompt: u64, completion: u64, reasoning: u64, cached: u64, traffic_type: &str) -> Self {
        Self {
            completion_tokens: completion,
            completion_tokens_details: (reasoning > 0).then_some(CompletionDetails { reasoning_tokens: reasoning }),
            extra_properties: ExtraProperties { google: Traffic { traffic_type: traffic_type.to_owned() } },
            prompt_tokens: prompt,
            prompt_tokens_details: (cached > 0).then_some(PromptDetails { cached_tokens: cached }),
            total_tokens: prompt + completion + reasoning,
        }
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Reply {
    /// The envelope around choices.
    pub(super) fn envelope<'a>(
        &'a self,
        object: &'static str,
        choices: Vec<Choice<'a>>,
        usage: Option<&'a Usage>,
    ) -> Envelope<'a> {
        Envelope {
            choices,
            created: self.created,
            id: &self.id,
            model: &self.model,
            object,
            system_fingerprint: "",
            usage,
        }
    }

    /// The answer in one piece.
    pub(super) fn completion(&self) -> String {
        // Vertex does not set thoughts apart: they stand before the content.
        let content = match (&self.thoughts, &self.text) {
            (Some(thoughts), text) => Some(format!("{thoughts}{}", text.as_deref().unwrap_or_default())),
            (None, text) => text.clone(),
        };
        let choices = (0..self.candidates)
            .map(|index| Choice {
                delta: None,
                finish_reason: Some(&self.finish_reason),
                index,
                logprobs: (),
                message: self.has_message.then_some(Message {
                    content: content.as_deref(),
                    extra_content: None,
                    refusal: self.refusal.as_deref(),
                    role: "assistant",
                    tool_calls: &self.calls,
                }),
            })
            .collect();
        json(&self.envelope("chat.completion", choices, Some(&self.usage)))
    }
}

/// Serialises what cannot fail to be.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("answers are strings, numbers and lists of them")
}

/// An answer with the headers that Google's servers give.
pub(super) fn response(status: StatusCode, content_type: &'static str, body: Steps) -> Response<Steps> {
    const HEADERS: [(HeaderName, &str); 7] = [
        (http::header::VARY, "Origin"),
        (http::header::VARY, "X-Origin"),
        (http::header::VARY, "Referer"),
        (http::header::SERVER, "scaffolding on HTTPServer2"),
        (http::header::X_XSS_PROTECTION, "0"),
        (http::header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.append(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_alphabetical_and_zeros_left_out() {
        let mut reply = Reply {
            id: "bA-NacCPKoae_9MPsNCn6Qc".to_owned(),
            created: 1_770_852_204,
            model: "google/gemini-3.1-pro-preview".to_owned(),
            candidates: 1,
            thoughts: None,
            text: Some("Hi".to_owned()),
            refusal: None,
            calls: Vec::new(),
            finish_reason: "stop".to_owned(),
            has_message: true,
            usage: Usage::new(7, 16, 295, 0, "ON_DEMAND"),
        };
        assert_eq!(
            reply.completion(),
            r#"{"choices":[{"finish_reason":"stop","index":0,"logprobs":null,"message":{"content":"Hi","role":"assistant"}}],"created":1770852204,"id":"bA-NacCPKoae_9MPsNCn6Qc","model":"google/gemini-3.1-pro-preview","object":"chat.completion","system_fingerprint":"","usage":{"completion_tokens":16,"completion_tokens_details":{"reasoning_tokens":295},"extra_properties":{"google":{"traffic_type":"ON_DEMAND"}},"prompt_tokens":7,"total_tokens":318}}"#
        );
        reply.has_message = false;
        reply.usage = Usage::new(7, 0, 0, 3, "ON_DEMAND");
        let starved = reply.completion();
        assert!(starved.starts_with(r#"{"choices":[{"finish_reason":"stop","index":0,"logprobs":null}],"#));
        assert!(starved.ends_with(
            r#""usage":{"extra_properties":{"google":{"traffic_type":"ON_DEMAND"}},"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":3},"total_tokens":7}}"#
        ));
    }
}
