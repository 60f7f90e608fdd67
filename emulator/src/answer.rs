//! What is answered to a checked request: a scenario, a function call, the results of functions, JSON, or an echo.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Step, Steps};
use super::errors::{Detail, Refusal};
use super::facts::Facts;
use super::journal::Recorder;
use super::reply::{self, Extra, Function, Google, Reply, ToolCall, Usage};
use super::scenarios::{self, Answer, CompletionAnswer, ErrorAnswer, Frame, PlannedCall, RawAnswer, SignaturePlan};
use super::stream::Stream;
use super::vertex::{Chat, Effort, Format, Target};
use super::{Emulator, random, schema, signatures, tokens, tools, vertex};

/// What a message costs beside its text.
const MESSAGE_TOKENS: u64 = 1;
/// What a picture costs.
const MEDIA_TOKENS: u64 = 258;
/// What is thought where nothing says how much.
const THOUGHTS: &str =
    "**Considering the request**\n\nI look at what is asked, and at what I have to answer it with.\n\n";
/// Calls in one step at most, whatever a scenario says.
const MOST_CALLS: usize = 16;

/// What becomes of a request.
pub(super) enum Answered {
    /// An answer.
    Http(Response<Steps>),
    /// Bytes on the connection in place of one.
    Wire {
        steps: Steps,
        /// What is said instead over HTTP/2.
        http2_reset: Option<u32>,
    },
}

impl From<Response<Steps>> for Answered {
    fn from(response: Response<Steps>) -> Self {
        Self::Http(response)
    }
}

/// Answers a request, after the pause that a scenario may ask for.
pub(super) async fn answer(
    emulator: &Emulator,
    target: Target<'_>,
    headers: &HeaderMap,
    chat: &Chat,
    recorder: &Recorder,
) -> Answered {
    let library = &emulator.settings.library;
    let scenario = library.for_chat(chat, headers);
    if let Some(scenario) = &scenario {
        recorder.scenario(&scenario.name);
    }
    if scenario.is_none()
        && let Some(name) = library.unknown_marker(scenarios::prompt(chat))
    {
        return Refusal::no_scenario(name).response().into();
    }
    let plain = CompletionAnswer::default();
    let different = match scenario.as_ref().map(|scenario| &scenario.answer) {
        Some(Answer::Error(error)) => {
            emulator.pause(error.wait_ms).await;
            if error.revokes_token {
                emulator.tokens.revoke();
            }
            return refuse(target, chat, error).into();
        }
        Some(Answer::Raw(raw)) => {
            emulator.pause(raw.wait_ms).await;
            return given(target, chat, raw).into();
        }
        Some(Answer::Wire(wire)) => {
            let steps = Steps::stream(steps(target, chat, &wire.frames));
            return Answered::Wire { steps, http2_reset: wire.http2_reset };
        }
        Some(Answer::Completion(different)) => different,
        Some(Answer::Token(_)) | None => &plain,
    };
    let checks = scenario.as_ref().map(|scenario| scenario.checks.clone()).unwrap_or_default();
    if let Err(refusal) = vertex::judge(chat, &checks) {
        return refusal.response().into();
    }
    emulator.pause(different.wait_ms).await;
    let echo = || match &library.instead_of_echo(chat, headers)?.answer {
        Answer::Completion(different) => different.text.clone(),
        _ => None,
    };
    let reply = complete(chat, different, traffic_type(headers), &echo);
    if !chat.stream {
        let body = Steps::whole(reply.completion());
        return reply::response(StatusCode::OK, "application/json; charset=UTF-8", body).into();
    }
    let mut quirks = different.stream.clone();
    quirks.fragments |= chat.stream_arguments;
    let pace = quirks.pace_ms.map_or(emulator.settings.pace, Duration::from_millis);
    let body = Steps::stream(Stream::new(reply, quirks, pace));
    let mut response = reply::response(StatusCode::OK, "text/event-stream", body);
    response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    response.into()
}

/// Fills in where a request goes.
fn placed(target: Target<'_>, chat: &Chat, text: &str) -> String {
    text.replace("{project}", target.project)
        .replace("{location}", target.location)
        .replace("{model}", &chat.model.name())
        .replace("{model_id}", chat.model.id())
}

fn refuse(target: Target<'_>, chat: &Chat, error: &ErrorAnswer) -> Response<Steps> {
    let refusal = Refusal {
        status: StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        reason: error.status.clone(),
        message: placed(target, chat, &error.message),
        details: error.details.iter().cloned().map(Detail::Given).collect(),
        shape: error.shape,
    };
    with_headers(refusal.response(), &error.headers)
}

fn given(target: Target<'_>, chat: &Chat, raw: &RawAnswer) -> Response<Steps> {
    let body = match &raw.frames[..] {
        [Frame::Send(whole)] => Steps::whole(placed(target, chat, whole)),
        frames => Steps::stream(steps(target, chat, frames)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(raw.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_headers(response, &raw.headers)
}

/// The steps of a given answer, made as they are asked for.
fn steps(target: Target<'_>, chat: &Chat, frames: &[Frame]) -> impl Iterator<Item = Step> + use<> {
    type Made = Box<dyn Iterator<Item = Step> + Send>;
    let one = |step| -> Made { Box::new(std::iter::once(step)) };
    let frames: Vec<Made> = frames
        .iter()
        .map(|frame| match frame {
            Frame::Send(text) => one(Step::Send(placed(target, chat, text).into())),
            // Judged when the scenario was read.
            Frame::SendBase64(text) => one(Step::Send(STANDARD.decode(text).unwrap_or_default().into())),
            Frame::Repeat(repeat) => {
                let text = Bytes::from(placed(target, chat, &repeat.send));
                let wait = Step::Wait(Duration::from_millis(repeat.wait_ms));
                Box::new((0..repeat.times).flat_map(move |_| [Step::Send(text.clone()), wait.clone()]))
            }
            Frame::Trickle(trickle) => {
                let wait = Step::Wait(Duration::from_millis(trickle.wait_ms));
                let text = Bytes::from(placed(target, chat, &trickle.send));
                let size = trickle.bytes.max(1);
                Box::new((0..text.len()).step_by(size).flat_map(move |at| {
                    let piece = text.slice(at..text.len().min(at + size));
                    [Step::Send(piece), wait.clone()]
                }))
            }
            Frame::WaitMs(pause) => one(Step::Wait(Duration::from_millis(*pause))),
            Frame::Hold => one(Step::Hold),
            Frame::Cut => one(Step::Cut),
            Frame::Reset => one(Step::Reset),
            Frame::GoAway => one(Step::GoAway),
        })
        .collect();
    frames.into_iter().flatten()
}

fn with_headers<'a>(
    mut response: Response<Steps>,
    headers: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Response<Steps> {
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// What Vertex echoes of the tier headers.
fn traffic_type(headers: &HeaderMap) -> &'static str {
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (value("x-vertex-ai-llm-request-type"), value("x-vertex-ai-llm-shared-request-type")) {
        (_, Some("flex")) => "ON_DEMAND_FLEX",
        (_, Some("priority")) => "ON_DEMAND_PRIORITY",
        (Some("dedicated"), _) => "PROVISIONED_THROUGHPUT",
        _ => "ON_DEMAND",
    }
}

/// What the answer consists of before limits apply.
enum Said {
    Calls(Vec<ToolCall>),
    Text(String),
}

/// What a scenario says in place of an echo.
type Echo<'a> = &'a dyn Fn() -> Option<String>;

fn complete(chat: &Chat, different: &CompletionAnswer, traffic_type: &str, echo: Echo<'_>) -> Reply {
    let said = match (different.steps.get(tools::steps_over(chat)), &different.text) {
        (Some(step), _) => Said::Calls(calls(chat, different.signature, step.iter().map(planned))),
        (None, Some(text)) => Said::Text(filled(chat, text).repeat(different.text_times.unwrap_or(1) as usize)),
        (None, None) => say(chat, different, echo),
    };
    let reasoning = different
        .reasoning_tokens
        .unwrap_or_else(|| reasoning_tokens(chat))
        // Thinking counts against the limit.
        .min(chat.max_tokens);
    let left = chat.max_tokens - reasoning;
    let mut reply = Reply {
        id: random::response_id(),
        created: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        model: chat.model.name(),
        candidates: chat.candidates,
        thoughts: ((chat.include_thoughts || different.thoughts) && reasoning > 0)
            .then(|| tagged(THOUGHTS, different.thought_tag.as_deref().or(chat.thought_tag.as_deref()))),
        text: None,
        refusal: different.refusal.clone(),
        calls: Vec::new(),
        finish_reason: "stop".to_owned(),
        has_message: !different.without_message,
        usage: Usage::new(0, 0, 0, 0, ""),
    };
    let mut completion = 0;
    match said {
        _ if different.without_message => reply.thoughts = None,
        // Thinking has left nothing: there is no message at all.
        _ if left == 0 => {
            reply.finish_reason = "length".to_owned();
            reply.has_message = false;
            reply.thoughts = None;
        }
        Said::Calls(calls) => {
            completion = calls
                .iter()
                .map(|call| tokens::count(&call.function.name) + tokens::count(&call.function.arguments))
                .sum();
            reply.finish_reason = "tool_calls".to_owned();
            reply.calls = calls;
        }
        Said::Text(text) => {
            let end = chat.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let text = &text[..end.unwrap_or(text.len())];
            let (text, cut) = tokens::truncate(text, left);
            if cut {
                reply.finish_reason = "length".to_owned();
            }
            completion = tokens::count(text);
            reply.text = Some(text.to_owned());
        }
    }
    if let Some(reason) = &different.finish_reason {
        reply.finish_reason.clone_from(reason);
    }
    reply.usage = Usage::new(
        prompt_tokens(chat),
        completion * chat.candidates as u64,
        reasoning,
        different.cached_tokens,
        different.traffic_type.as_deref().unwrap_or(traffic_type),
    );
    reply
}

/// The calls of one step.
fn calls(chat: &Chat, plan: SignaturePlan, functions: impl Iterator<Item = Function>) -> Vec<ToolCall> {
    functions
        .enumerate()
        .map(|(at, function)| ToolCall {
            // Parallel siblings have none.
            extra_content: (at == 0 && chat.model.signs_calls() && !plan.missing).then(|| Extra {
                google: Google {
                    thought_signature: Some(if plan.corrupted {
                        signatures::corrupted()
                    } else {
                        signatures::issue(plan.characters)
                    }),
                    ..Google::default()
                },
            }),
            function,
            id: random::call_id(),
            index: None,
            kind: "function",
        })
        .collect()
}

fn planned(call: &PlannedCall) -> Function {
    Function { arguments: Value::Object(call.arguments.clone()).to_string(), name: call.function.clone() }
}

/// A scenario's text. The result comes last: what it holds is not filled in again.
fn filled(chat: &Chat, text: &str) -> String {
    let text = text.replace("{model}", &chat.model.name());
    match tools::results(chat).last() {
        Some((_, result)) => text.replace("{last_result}", &tools::plain(result)),
        None => text,
    }
}

fn say(chat: &Chat, different: &CompletionAnswer, echo: Echo<'_>) -> Said {
    let prompt = scenarios::without_markers(scenarios::prompt(chat));
    if let Some(tool) = tools::choose(chat, &prompt) {
        let count = different.calls.unwrap_or(1).clamp(1, MOST_CALLS);
        let arguments = tools::arguments(tool, &prompt, count).into_iter();
        return Said::Calls(calls(
            chat,
            different.signature,
            arguments.map(|arguments| Function { arguments, name: tool.name.clone() }),
        ));
    }
    let results = tools::results(chat);
    if let Format::Json(schema) = &chat.format {
        let mut facts = Facts::read(&prompt);
        for (_, result) in &results {
            facts.learn(result);
        }
        let value = match schema {
            Some(schema) => schema::fill(schema, &mut facts),
            None => json!({ "answer": plain_text(chat, &prompt, &results, echo) }),
        };
        return Said::Text(Value::to_string(&value));
    }
    Said::Text(plain_text(chat, &prompt, &results, echo))
}

fn plain_text(chat: &Chat, prompt: &str, results: &[(String, &str)], echo: Echo<'_>) -> String {
    if !results.is_empty() {
        return tools::tell(results);
    }
    if let Some(text) = echo() {
        return filled(chat, &text);
    }
    if prompt.is_empty() {
        return "I have read your message.".to_owned();
    }
    format!("You said: {prompt}")
}

fn tagged(thoughts: &str, tag: Option<&str>) -> String {
    match tag {
        Some(tag) => format!("<{tag}>{thoughts}</{tag}>"),
        None => thoughts.to_owned(),
    }
}

/// What a model of this kind thinks: steady for a prompt, more for a long one and for more effort.
fn reasoning_tokens(chat: &Chat) -> u64 {
    let times = match chat.effort {
        Effort::None => return 0,
        Effort::Default if !chat.model.thinks() => return 0,
        Effort::Default | Effort::Low => 1,
        Effort::Medium => 4,
        Effort::High => 12,
    };
    (32 + prompt_tokens(chat) % 97) * times
}

fn prompt_tokens(chat: &Chat) -> u64 {
    let messages: u64 = chat
        .messages
        .iter()
        .map(|message| {
            let calls: u64 =
                message.calls.iter().map(|call| tokens::count(&call.name) + tokens::count(&call.arguments)).sum();
            MESSAGE_TOKENS + tokens::count(&message.text) + calls + message.media * MEDIA_TOKENS
        })
        .sum();
    let tools: u64 = chat
        .tools
        .iter()
        .map(|tool| {
            tokens::count(&tool.name) + tokens::count(&tool.description) + tokens::count(&tool.parameters.to_string())
        })
        .sum();
    messages + tools
}

#[cfg(test)]
mod tests {
    use super::super::library::Library;
    use super::super::schema::tests::satisfies;
    use super::super::vertex::tests::chat;
    use super::*;

    fn reply(request: Value) -> Reply {
        let chat = chat(request).unwrap();
        let echo = || match &Library::embedded().instead_of_echo(&chat, &HeaderMap::new())?.answer {
            Answer::Completion(different) => different.text.clone(),
            _ => None,
        };
        complete(&chat, &CompletionAnswer::default(), "ON_DEMAND", &echo)
    }

    fn ask(prompt: &str, more: Value) -> Reply {
        let mut request =
            json!({"model": "google/gemini-2.5-flash", "messages": [{"role": "user", "content": prompt}]});
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        reply(request)
    }

    #[test]
    fn a_greeting_is_answered_and_the_rest_echoed() {
        let text = |prompt| ask(prompt, json!({})).text.unwrap();
        assert_eq!(text("Say hi."), "Hi there! How can I help you today?");
        assert_eq!(
            text("Say hello and name the model you are."),
            "Hello, I am the emulator in place of google/gemini-2.5-flash."
        );
        assert_eq!(text("The ship sails."), "You said: The ship sails.");
        assert_eq!(text(""), "I have read your message.");
    }

    #[test]
    fn limits_are_kept() {
        let short = ask("The ship sails.", json!({"max_tokens": 2}));
        assert_eq!(short.text.as_deref(), Some("You said"));
        assert_eq!(short.finish_reason, "length");
        assert_eq!(short.usage.completion_tokens, 2);

        let stopped = ask("The ship sails.", json!({"stop": ["sails", "ship"]}));
        assert_eq!(stopped.text.as_deref(), Some("You said: The "));
        assert_eq!(stopped.finish_reason, "stop");

        let starved = ask("Say hi.", json!({"max_tokens": 5, "model": "google/gemini-3.1-pro-preview"}));
        assert_eq!(starved.finish_reason, "length");
        assert!(!starved.has_message);
        assert_eq!(starved.usage.completion_tokens, 0);
        assert_eq!(starved.usage.completion_tokens_details.unwrap().reasoning_tokens, 5);
    }

    #[test]
    fn thinking_is_beside_the_completion() {
        let usage = ask("Say hi.", json!({"model": "google/gemini-2.5-pro"})).usage;
        let reasoning = usage.completion_tokens_details.unwrap().reasoning_tokens;
        assert!(reasoning > 0);
        assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens + reasoning);
        let effort = |effort| {
            let usage = ask("Say hi.", json!({"reasoning_effort": effort})).usage;
            usage.completion_tokens_details.map_or(0, |details| details.reasoning_tokens)
        };
        assert_eq!(effort("none"), 0);
        assert!(0 < effort("low") && effort("low") < effort("high"));
    }

    #[test]
    fn thoughts_are_told_where_asked_for() {
        let google = json!({"thinking_config": {"include_thoughts": true}, "thought_tag_marker": "think"});
        let reply = ask("Say hi.", json!({"extra_body": {"google": google}}));
        assert!(reply.completion().contains(r#""content":"<think>**Considering"#));
    }

    #[test]
    fn json_satisfies_its_schema() {
        let plain = ask("Say hi.", json!({"response_format": {"type": "json_object"}}));
        let value: Value = serde_json::from_str(&plain.text.unwrap()).unwrap();
        assert_eq!(value, json!({"answer": "Hi there! How can I help you today?"}));

        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}, "sum": {"type": "integer"}},
            "required": ["city", "sum"], "additionalProperties": false});
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let reply = ask("Paris has 20 districts", json!({"response_format": format}));
        let value: Value = serde_json::from_str(&reply.text.unwrap()).unwrap();
        assert!(satisfies(&value, &schema, &schema));
        assert_eq!(value, json!({"city": "Paris", "sum": 20}));
    }

    #[test]
    fn a_tool_turn_ends_in_the_sum() {
        let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {"type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}}]);
        let pro = "google/gemini-3.1-pro-preview";
        let question = json!({"role": "user", "content": "What is 2024 plus 1776?"});
        let first = reply(json!({"model": pro, "tools": tools, "messages": [question]}));
        assert_eq!(first.finish_reason, "tool_calls");
        assert_eq!(first.calls[0].function.arguments, r#"{"a":2024,"b":1776}"#);
        let calls = serde_json::to_value(&first.calls).unwrap();
        let second = reply(json!({"model": pro, "tools": tools, "messages": [
            question,
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "tool_call_id": first.calls[0].id, "content": "3800"},
        ]}));
        assert_eq!(second.text.as_deref(), Some("The sum is 3800."));
        assert_eq!(second.finish_reason, "stop");
    }
    #[test]
    fn a_plan_is_followed_step_by_step() {
        let plan: CompletionAnswer = serde_json::from_value(json!({
            "steps": [
                [{"function": "sh", "arguments": {"cmd": "ls"}}, {"function": "ping"}],
                [{"function": "sh", "arguments": {"cmd": "cat a"}}],
            ],
            "text": "{model} has read: {last_result}",
        }))
        .unwrap();
        let user = json!({"role": "user", "content": "Read a."});
        let mut messages = vec![user.clone()];
        let next = |messages: &[Value]| {
            let request = json!({"model": "google/gemini-3.1-pro-preview", "messages": messages});
            complete(&chat(request).unwrap(), &plan, "ON_DEMAND", &|| None)
        };
        let mut asked = Vec::new();
        let said = loop {
            let reply = next(&messages);
            if let Some(text) = reply.text {
                break text;
            }
            assert_eq!(reply.finish_reason, "tool_calls");
            messages.push(json!({"role": "assistant", "tool_calls": reply.calls}));
            for (at, call) in reply.calls.iter().enumerate() {
                assert_eq!(call.extra_content.is_some(), at == 0);
                asked.push(format!("{} {}", call.function.name, call.function.arguments));
                let content = format!("{{model}} {}", asked.len());
                messages.push(json!({"role": "tool", "tool_call_id": call.id, "content": content}));
            }
        };
        assert_eq!(asked, [r#"sh {"cmd":"ls"}"#, "ping {}", r#"sh {"cmd":"cat a"}"#]);
        assert_eq!(said, "google/gemini-3.1-pro-preview has read: {model} 3");
        // What the user says next begins a turn of its own.
        messages.push(user);
        assert_eq!(next(&messages).calls.len(), 2);
    }
}
