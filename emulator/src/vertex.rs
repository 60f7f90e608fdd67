//! The endpoint's checks, in Vertex's order and words: path, bearer, body, model, project, parameters, history.

use std::time::Instant;

use http::header::{AUTHORIZATION, HeaderMap};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::errors::Refusal;
use super::metadata::Tokens;
use super::models::Model;
use super::signatures;

/// Largest request that Vertex takes.
pub(super) const MAX_BODY_BYTES: usize = 20 * 1024 * 1024;
/// What `n` may be.
const MAX_CANDIDATES: u64 = 8;
/// What `max_tokens` may be, and what it is where it is not given.
const MAX_OUTPUT_TOKENS: u64 = 65_536;
/// The error without any detail, which Vertex has for much.
const NO_DETAIL: &str = "Request contains an invalid argument.";

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// The project, by id or number.
    pub(super) project: &'a str,
    /// `global` or a region.
    pub(super) location: &'a str,
}

impl<'a> Target<'a> {
    /// Takes the one path apart that is served.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let version = parts.next()?;
        let mut labelled = |label: &str| match (parts.next(), parts.next()) {
            (Some(found), Some(value)) if found == label && !value.is_empty() => Some(value),
            _ => None,
        };
        let project = labelled("projects")?;
        let location = labelled("locations")?;
        let endpoint = labelled("endpoints")?;
        let method = labelled("chat")?;
        let served = matches!(version, "v1" | "v1beta1")
            && endpoint == "openapi"
            && method == "completions"
            && parts.next().is_none();
        served.then_some(Self { project, location })
    }
}

/// Judges the bearer: a token of the emulator's own, or what looks like a signed JWT.
pub(super) fn authenticate(headers: &HeaderMap, tokens: &Tokens, now: Instant) -> Result<(), Refusal> {
    let header = headers.get(AUTHORIZATION).ok_or_else(Refusal::no_credentials)?;
    let bearer = header
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, bearer)| bearer.trim())
        .ok_or_else(Refusal::no_credentials)?;
    if tokens.accepts(bearer, now) || is_jwt(bearer) {
        Ok(())
    } else if bearer.starts_with("ya29.") {
        Err(Refusal::bad_credentials("ACCESS_TOKEN_EXPIRED"))
    } else {
        Err(Refusal::bad_credentials("ACCESS_TOKEN_TYPE_UNSUPPORTED"))
    }
}

fn is_jwt(bearer: &str) -> bool {
    let parts: Vec<&str> = bearer.split('.').collect();
    bearer.starts_with("eyJ") && parts.len() == 3 && parts.iter().all(|part| !part.is_empty())
}

/// A request that Vertex would answer.
#[derive(Clone, Debug)]
pub(super) struct Chat {
    pub(super) model: Model,
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<Tool>,
    pub(super) tool_choice: ToolChoice,
    pub(super) format: Format,
    pub(super) stream: bool,
    pub(super) candidates: usize,
    pub(super) stop: Vec<String>,
    pub(super) max_tokens: u64,
    pub(super) effort: Effort,
    pub(super) include_thoughts: bool,
    pub(super) thought_tag: Option<String>,
    /// Arguments of functions are streamed too.
    pub(super) stream_arguments: bool,
    /// Fields that Vertex does not know, in their order.
    unknown_fields: Vec<String>,
    /// A message is by `developer`, whom Google's page does not list.
    by_developer: bool,
}

/// The fields that Google's page lists, and its envelope for more.
const KNOWN_FIELDS: [&str; 25] = [
    "audio",
    "extra_body",
    "frequency_penalty",
    "function_call",
    "functions",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "modalities",
    "model",
    "n",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "web_search_options",
    "google",
];

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    System,
    /// As `System`, where it is taken.
    Developer,
    User,
    Assistant,
    Tool,
}

/// One message, with the texts of its parts joined.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) role: Role,
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    /// Parts other than text.
    pub(super) media: u64,
    /// Of a tool's message: which call it answers.
    pub(super) answers: Option<String>,
    /// Of a tool's message: the function, where it is given.
    pub(super) name: Option<String>,
}

impl Message {
    /// Whether it is by nobody who takes part.
    pub(super) fn is_instruction(&self) -> bool {
        matches!(self.role, Role::System | Role::Developer)
    }
}

/// A function call in the history.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
    signature: Option<String>,
}

/// A function that may be called.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) parameters: Value,
}

/// Whether functions are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

/// What the content is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Format {
    Text,
    Json(Option<Value>),
}

/// How much to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    Default,
    None,
    Low,
    Medium,
    High,
}

/// Reads a body and judges its form.
pub(super) fn read(target: Target<'_>, project: &str, body: &[u8]) -> Result<Chat, Refusal> {
    let request = match serde_json::from_slice(body) {
        Ok(Value::Object(request)) => request,
        Ok(_) => {
            return Err(Refusal::invalid(
                "Invalid JSON payload received. Unknown name \"\": Root element must be a message.",
            ));
        }
        Err(error) => return Err(not_json(body, &error)),
    };
    let fields = Fields(&request);
    let name = fields.text("model")?.unwrap_or_default();
    let Some((publisher, id)) =
        name.split_once('/').filter(|(publisher, id)| !publisher.is_empty() && !id.is_empty() && !id.contains('/'))
    else {
        return Err(Refusal::invalid(format!(
            "Malformed publisher model (`model`: '{name}') for the 'openapi' request endpoint ID; expected \
             '<publisher>/<model>'."
        )));
    };
    if target.project != project {
        return Err(Refusal::forbidden(target.project, target.location));
    }
    let Some(model) = Model::find(publisher, id, target.location) else {
        return Err(Refusal::no_model(target.project, target.location, publisher, id));
    };
    let messages = read_messages(fields.list("messages")?)?;
    if messages.iter().all(Message::is_instruction) {
        return Err(Refusal::invalid(
            "Unable to submit request because at least one contents field is required. Learn more: \
             https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/gemini",
        ));
    }
    let google = request.get("extra_body").and_then(|extra| extra.get("google")).and_then(Value::as_object);
    let thinking = google.and_then(|google| google.get("thinking_config"));
    let chat = Chat {
        effort: read_effort(model, &fields, thinking)?,
        include_thoughts: thinking
            .and_then(|thinking| thinking.get("include_thoughts"))
            .and_then(Value::as_bool)
            .unwrap_or(false),
        stream_arguments: google
            .and_then(|google| google.get("stream_function_call_arguments"))
            .and_then(Value::as_bool)
            .unwrap_or(false),
        thought_tag: google
            .and_then(|google| google.get("thought_tag_marker"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        candidates: usize::try_from(ranged("candidateCount", fields.whole("n")?.unwrap_or(1), 1..MAX_CANDIDATES + 1)?)
            .unwrap_or(1),
        max_tokens: match fields.whole("max_completion_tokens")?.or(fields.whole("max_tokens")?) {
            Some(limit) => ranged("maxOutputTokens", limit, 1..MAX_OUTPUT_TOKENS + 1)?,
            None => MAX_OUTPUT_TOKENS,
        },
        stop: read_stop(&fields)?,
        stream: fields.truth("stream")?.unwrap_or(false),
        format: read_format(&fields),
        tools: read_tools(&fields)?,
        tool_choice: read_tool_choice(&fields)?,
        by_developer: messages.iter().any(|message| message.role == Role::Developer),
        unknown_fields: request.keys().filter(|name| !KNOWN_FIELDS.contains(&name.as_str())).cloned().collect(),
        messages,
        model,
    };
    if let ToolChoice::Named(name) = &chat.tool_choice
        && chat.tools.iter().all(|tool| tool.name != *name)
    {
        return Err(Refusal::invalid(NO_DETAIL));
    }
    Ok(chat)
}

/// Judges what is asked, as strictly as is wanted.
pub(super) fn judge(chat: &Chat, checks: &Checks) -> Result<(), Refusal> {
    if checks.unknown_fields == UnknownFields::Refused
        && let Some(name) = chat.unknown_fields.first()
    {
        return Err(Refusal::invalid(format!(
            "Invalid JSON payload received. Unknown name \"{name}\": Cannot find field."
        )));
    }
    if chat.by_developer && !checks.developer_role {
        return Err(Refusal::invalid("Please use a valid role: user, model."));
    }
    check_history(chat, &checks.signatures)
}

/// How strictly a request is judged: in all that is not publicly known there is a choice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Checks {
    pub(super) unknown_fields: UnknownFields,
    /// Messages by `developer` are taken.
    pub(super) developer_role: bool,
    pub(super) signatures: SignatureChecks,
}

/// What becomes of fields that are not known.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum UnknownFields {
    /// As Vertex documents.
    #[default]
    Ignored,
    /// As the Developer API does.
    Refused,
}

/// How thought signatures are judged.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SignatureChecks {
    pub(super) dummy: signatures::Dummy,
    pub(super) wording: Wording,
}

/// The words in which a missing signature is refused.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wording {
    #[default]
    Vertex,
    Developer,
}

/// Google's parser points at the place; ours does the same, a little more roughly.
fn not_json(body: &[u8], error: &serde_json::Error) -> Refusal {
    const SHOWN_BYTES: usize = 30;
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let column = error.column().saturating_sub(1).min(line.len());
    let before = String::from_utf8_lossy(&line[column.saturating_sub(SHOWN_BYTES)..column]);
    let after = String::from_utf8_lossy(&line[column..line.len().min(column + SHOWN_BYTES)]);
    let problem = if error.is_eof() { "Unexpected end of string." } else { "Unexpected token." };
    let caret = " ".repeat(before.chars().count());
    Refusal::invalid(format!("Invalid JSON payload received. {problem}\n{before}{after}\n{caret}^"))
}

/// The fields of a body; `null` is the same as nothing.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        self.typed(name, "TYPE_STRING", Value::as_str)
    }

    fn truth(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.typed(name, "TYPE_BOOL", Value::as_bool)
    }

    fn whole(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.typed(name, "TYPE_INT32", |value| {
            // As in all of Google's JSON, `8` may be spelled `8.0` or `"8"`.
            let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))?;
            (number.fract() == 0.0 && number.abs() < 2_147_483_648.0).then_some(number as i64)
        })
    }

    fn list(&self, name: &str) -> Result<&'a [Value], Refusal> {
        let list = self.typed(name, "TYPE_MESSAGE", |value| value.as_array().map(Vec::as_slice))?;
        Ok(list.unwrap_or_default())
    }

    fn typed<T>(&self, name: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| wrong_type(name, kind, value))
    }
}

fn wrong_type(name: &str, kind: &str, value: &Value) -> Refusal {
    let mut shown = value.to_string();
    if shown.len() > 200 {
        shown = shown.chars().take(200).collect();
    }
    Refusal::invalid(format!("Invalid value at '{name}' ({kind}), {shown}"))
}

fn ranged(name: &str, value: i64, range: std::ops::Range<u64>) -> Result<u64, Refusal> {
    match u64::try_from(value) {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(Refusal::invalid(format!(
            "Unable to submit request because it has a {name} value of {value} but the supported range is from {} \
             (inclusive) to {} (exclusive). Update the value and try again.",
            range.start, range.end
        ))),
    }
}

fn read_messages(list: &[Value]) -> Result<Vec<Message>, Refusal> {
    let mut messages = Vec::with_capacity(list.len());
    for (at, value) in list.iter().enumerate() {
        let Some(message) = value.as_object() else {
            return Err(wrong_type(&format!("messages[{at}]"), "TYPE_MESSAGE", value));
        };
        let text = |name: &str| message.get(name).and_then(Value::as_str).map(str::to_owned);
        let role = match message.get("role").and_then(Value::as_str) {
            Some("system") => Role::System,
            Some("developer") => Role::Developer,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("tool" | "function") => Role::Tool,
            _ => return Err(Refusal::invalid("Please use a valid role: user, model.")),
        };
        let (content, media) = read_content(message.get("content"));
        let mut calls: Vec<Call> =
            message.get("tool_calls").and_then(Value::as_array).into_iter().flatten().map(read_call).collect();
        if let Some(call) = message.get("function_call").filter(|call| call.is_object()) {
            calls.push(read_call(&serde_json::json!({ "function": call })));
        }
        messages.push(Message { role, text: content, calls, media, answers: text("tool_call_id"), name: text("name") });
    }
    Ok(messages)
}

/// The text of a content, and how many of its parts are something else.
fn read_content(content: Option<&Value>) -> (String, u64) {
    match content {
        Some(Value::String(text)) => (text.clone(), 0),
        Some(Value::Array(parts)) => {
            let mut media = 0;
            let mut texts = Vec::new();
            for part in parts {
                match part.get("text").and_then(Value::as_str).or_else(|| part.as_str()) {
                    Some(text) => texts.push(text),
                    None => media += 1,
                }
            }
            (texts.join("\n"), media)
        }
        _ => (String::new(), 0),
    }
}

fn read_call(call: &Value) -> Call {
    let text = |pointer: &str| call.pointer(pointer).and_then(Value::as_str);
    Call {
        id: text("/id").unwrap_or_default().to_owned(),
        name: text("/function/name").unwrap_or_default().to_owned(),
        arguments: text("/function/arguments").unwrap_or_default().to_owned(),
        signature: text("/extra_content/google/thought_signature").map(str::to_owned),
    }
}

fn read_tools(fields: &Fields<'_>) -> Result<Vec<Tool>, Refusal> {
    let tools = fields.list("tools")?.iter().filter_map(|tool| tool.get("function"));
    // The older spelling of the same.
    let functions = fields.list("functions")?.iter();
    Ok(tools
        .chain(functions)
        .filter_map(|function| {
            let text = |name: &str| function.get(name).and_then(Value::as_str).map(str::to_owned);
            Some(Tool {
                name: text("name")?,
                description: text("description").unwrap_or_default(),
                parameters: function.get("parameters").cloned().unwrap_or_default(),
            })
        })
        .collect())
}

fn read_tool_choice(fields: &Fields<'_>) -> Result<ToolChoice, Refusal> {
    let Some(choice) = fields.get("tool_choice").or_else(|| fields.get("function_call")) else {
        return Ok(ToolChoice::Auto);
    };
    match choice.as_str() {
        Some("none") => return Ok(ToolChoice::None),
        // Google's own: may call or answer, but calls only what is declared.
        Some("auto" | "validated") => return Ok(ToolChoice::Auto),
        Some("required" | "any") => return Ok(ToolChoice::Required),
        Some(_) => return Err(Refusal::invalid(NO_DETAIL)),
        None => {}
    }
    let name = choice.pointer("/function/name").or_else(|| choice.get("name"));
    name.and_then(Value::as_str)
        .map(|name| ToolChoice::Named(name.to_owned()))
        .ok_or_else(|| Refusal::invalid(NO_DETAIL))
}

fn read_format(fields: &Fields<'_>) -> Format {
    let format = fields.get("response_format");
    match format.and_then(|format| format.get("type")).and_then(Value::as_str) {
        Some("json_object") => Format::Json(None),
        Some("json_schema") => Format::Json(format.and_then(|format| format.pointer("/json_schema/schema")).cloned()),
        _ => Format::Text,
    }
}

fn read_stop(fields: &Fields<'_>) -> Result<Vec<String>, Refusal> {
    let stops = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => stops.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(other) => return Err(wrong_type("stop", "TYPE_STRING", other)),
    };
    Ok(stops.into_iter().filter(|stop| !stop.is_empty()).collect())
}

fn read_effort(model: Model, fields: &Fields<'_>, thinking: Option<&Value>) -> Result<Effort, Refusal> {
    let Some(effort) = fields.text("reasoning_effort")? else {
        let asks = thinking.and_then(|thinking| thinking.get("include_thoughts")).and_then(Value::as_bool);
        return Ok(if asks == Some(true) { Effort::Low } else { Effort::Default });
    };
    if thinking.is_some() {
        return Err(Refusal::invalid(
            "Expected one of either `reasoning_effort` or custom `thinking_config`; found both.",
        ));
    }
    match effort {
        "minimal" if model.refuses_minimal_thinking() => {
            Err(Refusal::invalid("Thinking level is unsupported: THINKING_LEVEL_MINIMAL"))
        }
        "none" => Ok(Effort::None),
        "minimal" | "low" => Ok(Effort::Low),
        "medium" => Ok(Effort::Medium),
        "high" => Ok(Effort::High),
        _ => Err(Refusal::invalid(NO_DETAIL)),
    }
}

/// Calls and their answers must pair, and Gemini 3's signatures must have come back.
fn check_history(chat: &Chat, checks: &SignatureChecks) -> Result<(), Refusal> {
    let turn = current_turn(&chat.messages);
    // Vertex counts contents: system messages are none, and a step's answers are one.
    let mut block = 0;
    let mut previous = None;
    for (at, message) in chat.messages.iter().enumerate() {
        if message.is_instruction() {
            continue;
        }
        let first_of_step = previous != Some(Role::Assistant);
        if !(message.role == Role::Tool && previous == Some(Role::Tool)) {
            block += 1;
        }
        previous = Some(message.role);
        if message.calls.is_empty() {
            continue;
        }
        let answers = chat.messages[at + 1..].iter().take_while(|later| later.role == Role::Tool).count();
        if at + 1 < chat.messages.len() && answers != message.calls.len() {
            return Err(Refusal::invalid(
                "Please ensure that the number of function response parts is equal to the number of function call \
                 parts of the function call turn",
            ));
        }
        if chat.model.signs_calls() && at >= turn {
            check_signatures(message, block, first_of_step, checks)?;
        }
    }
    Ok(())
}

fn check_signatures(
    message: &Message,
    block: usize,
    first_of_step: bool,
    checks: &SignatureChecks,
) -> Result<(), Refusal> {
    for (at, call) in message.calls.iter().enumerate() {
        match &call.signature {
            Some(signature) if signatures::accepts(signature, checks.dummy) => {}
            Some(_) => return Err(Refusal::invalid("Corrupted thought signature.")),
            None if at == 0 && first_of_step => {
                let name = &call.name;
                return Err(Refusal::invalid(match checks.wording {
                    Wording::Vertex => format!(
                        "Unable to submit request because function call `default_api:{name}` in the {block}. content \
                         block is missing a `thought_signature`. Learn more: \
                         https://docs.cloud.google.com/vertex-ai/generative-ai/docs/thought-signatures"
                    ),
                    Wording::Developer => format!(
                        "Function call is missing a thought_signature in functionCall parts. This is required for \
                         tools to work correctly, and missing thought_signature may lead to degraded model \
                         performance. Additional data, function call `default_api:{name}` , position {block}. Please \
                         refer to https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                    ),
                }));
            }
            None => {}
        }
    }
    Ok(())
}

/// Where the current turn begins: after the last message of the user's.
pub(super) fn current_turn(messages: &[Message]) -> usize {
    messages.iter().rposition(|message| message.role == Role::User).map_or(0, |at| at + 1)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub(in super::super) const TARGET: Target<'static> = Target { project: "p", location: "global" };

    /// Reads a body as for project `p`.
    pub(in super::super) fn chat(body: Value) -> Result<Chat, Refusal> {
        let chat = read(TARGET, "p", body.to_string().as_bytes())?;
        judge(&chat, &Checks::default())?;
        Ok(chat)
    }

    fn message(body: Value) -> String {
        chat(body).unwrap_err().message
    }

    #[test]
    fn one_path_is_served() {
        let path = "/v1/projects/p/locations/global/endpoints/openapi/chat/completions";
        assert_eq!(Target::parse(path), Some(TARGET));
        assert!(Target::parse(&path.replace("v1", "v1beta1")).is_some());
        for other in [
            path.replace("v1", "v2"),
            path.replace("openapi", "123"),
            path.replace("/p/", "//"),
            format!("{path}/"),
            path.replace("/completions", ""),
            "/".to_owned(),
            String::new(),
        ] {
            assert_eq!(Target::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn bearers_are_judged() {
        let judge = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            let refusal = authenticate(&headers, &Tokens::default(), Instant::now()).err()?;
            Some(refusal.body())
        };
        assert_eq!(judge("Bearer eyJh.eyJp.c2ln"), None);
        assert_eq!(judge("bearer eyJh.eyJp.c2ln"), None);
        assert!(judge("Bearer ya29.old").unwrap().contains("ACCESS_TOKEN_EXPIRED"));
        assert!(judge("Bearer sk_live_x").unwrap().contains("ACCESS_TOKEN_TYPE_UNSUPPORTED"));
        assert!(judge("Basic eyJh.eyJp.c2ln").unwrap().contains("CREDENTIALS_MISSING"));
        assert!(judge("Bearer eyJh").is_some());
    }

    #[test]
    fn wrong_requests_get_vertex_words() {
        let hi = json!([{"role": "user", "content": "Say hi."}]);
        let flash = "google/gemini-2.5-flash";
        assert_eq!(
            message(json!({"model": "gemini-2.5-flash", "messages": hi})),
            "Malformed publisher model (`model`: 'gemini-2.5-flash') for the 'openapi' request endpoint ID; expected \
             '<publisher>/<model>'."
        );
        assert!(message(json!({"messages": hi})).starts_with("Malformed publisher model"));
        assert!(message(json!({"model": "google/gemini-1", "messages": hi})).starts_with(
            "Publisher Model `projects/p/locations/global/publishers/google/models/gemini-1` was not found"
        ));
        assert!(message(json!({"model": flash})).contains("at least one contents field"));
        assert!(message(json!({"model": flash, "messages": hi, "n": 9})).contains("candidateCount value of 9"));
        assert_eq!(
            message(json!({"model": flash, "messages": hi, "max_tokens": "many"})),
            "Invalid value at 'max_tokens' (TYPE_INT32), \"many\""
        );
        assert_eq!(
            message(json!({"model": "google/gemini-3.8-flash", "messages": hi, "reasoning_effort": "minimal"})),
            "Thinking level is unsupported: THINKING_LEVEL_MINIMAL"
        );
        assert_eq!(
            message(json!({"model": flash, "messages": hi, "reasoning_effort": "low",
                "extra_body": {"google": {"thinking_config": {"thinking_budget": 1}}}})),
            "Expected one of either `reasoning_effort` or custom `thinking_config`; found both."
        );
        assert!(chat(json!({"model": flash, "messages": hi, "store": true, "user": "u", "logit_bias": {}})).is_ok());

        let text = |body: &[u8]| read(TARGET, "p", body).unwrap_err().message;
        assert_eq!(text(b"{\"a\": nope}"), "Invalid JSON payload received. Unexpected token.\n{\"a\": nope}\n       ^");
        assert!(text(b"[]").starts_with("Invalid JSON payload received. "));
        assert!(text(b"").starts_with("Invalid JSON payload received. Unexpected end"));
        assert!(text(&[0xff, 0xfe]).starts_with("Invalid JSON payload received. "));
        assert!(text("[".repeat(100_000).as_bytes()).starts_with("Invalid JSON payload received. "));

        let other = Target { project: "q", location: "global" };
        let body = json!({"model": flash, "messages": hi}).to_string();
        let refusal = read(other, "p", body.as_bytes()).unwrap_err();
        assert_eq!(
            refusal.message,
            "Permission 'aiplatform.endpoints.predict' denied on resource \
             '//aiplatform.googleapis.com/projects/q/locations/global/endpoints/openapi' (or it may not exist)."
        );
    }

    fn history(model: &str, calls: Value, answers: usize) -> Value {
        let mut messages = vec![
            json!({"role": "system", "content": "s"}),
            json!({"role": "user", "content": "What is 1 plus 2?"}),
            json!({"role": "assistant", "tool_calls": calls}),
        ];
        for _ in 0..answers {
            messages.push(json!({"role": "tool", "tool_call_id": "1", "content": "3"}));
        }
        json!({"model": model, "messages": messages})
    }

    fn call(signature: Option<&str>) -> Value {
        let mut call = json!({"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}});
        if let Some(signature) = signature {
            call["extra_content"] = json!({"google": {"thought_signature": signature}});
        }
        call
    }

    #[test]
    fn signatures_are_enforced_on_gemini_3() {
        let pro = "google/gemini-3.1-pro-preview";
        assert_eq!(
            message(history(pro, json!([call(None)]), 1)),
            "Unable to submit request because function call `default_api:add` in the 2. content block is missing a \
             `thought_signature`. Learn more: \
             https://docs.cloud.google.com/vertex-ai/generative-ai/docs/thought-signatures"
        );
        assert!(chat(history("google/gemini-2.5-flash", json!([call(None)]), 1)).is_ok());
        let issued = signatures::issue(None);
        assert!(chat(history(pro, json!([call(Some(&issued))]), 1)).is_ok());
        // Parallel siblings have none.
        assert!(chat(history(pro, json!([call(Some(&issued)), call(None)]), 2)).is_ok());
        assert!(chat(history(pro, json!([call(Some("skip_thought_signature_validator"))]), 1)).is_ok());
        assert_eq!(message(history(pro, json!([call(Some("bm9wZQ=="))]), 1)), "Corrupted thought signature.");
        // A turn that is over is not judged.
        let mut over = history(pro, json!([call(None)]), 1);
        let next = json!({"role": "user", "content": "Thanks"});
        over["messages"].as_array_mut().unwrap().push(next);
        assert!(chat(over).is_ok());
    }

    #[test]
    fn checks_are_a_choice() {
        let flash = "google/gemini-2.5-flash";
        let judged = |body: Value, checks: Value| {
            let chat = read(TARGET, "p", body.to_string().as_bytes()).unwrap();
            judge(&chat, &serde_json::from_value(checks).unwrap()).err().map(|refusal| refusal.message)
        };
        let hi = json!({"model": flash, "messages": [{"role": "developer", "content": "x"},
            {"role": "user", "content": "hi"}], "store": true, "user": "u"});
        assert_eq!(judged(hi.clone(), json!({})).unwrap(), "Please use a valid role: user, model.");
        assert_eq!(judged(hi.clone(), json!({"developer_role": true})), None);
        assert_eq!(
            judged(hi, json!({"unknown_fields": "refused"})).unwrap(),
            "Invalid JSON payload received. Unknown name \"store\": Cannot find field."
        );
        let pro = "google/gemini-3.1-pro-preview";
        let developer = judged(history(pro, json!([call(None)]), 1), json!({"signatures": {"wording": "developer"}}));
        assert!(developer.unwrap().contains("function call `default_api:add` , position 2."));
        let raw = history(pro, json!([call(Some("skip_thought_signature_validator"))]), 1);
        let encoded = history(pro, json!([call(Some("c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="))]), 1);
        for (dummy, takes_raw, takes_encoded) in
            [("either", true, true), ("raw", true, false), ("base64", false, true), ("neither", false, false)]
        {
            let checks = json!({"signatures": {"dummy": dummy}});
            assert_eq!(judged(raw.clone(), checks.clone()).is_none(), takes_raw, "{dummy}");
            assert_eq!(judged(encoded.clone(), checks).is_none(), takes_encoded, "{dummy}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..80), cut in 0..400_usize) {
            let _ = read(TARGET, "p", &body);
            let whole = history("google/gemini-3.1-pro-preview", json!([call(Some("é"))]), 1).to_string();
            let mut bytes = whole.into_bytes();
            bytes.truncate(cut);
            bytes.extend(body);
            let _ = read(TARGET, "p", &bytes);
        }
    }

    #[test]
    fn calls_and_answers_pair() {
        let flash = "google/gemini-2.5-flash";
        assert!(
            message(history(flash, json!([call(None), call(None)]), 1)).starts_with("Please ensure that the number")
        );
        assert!(chat(history(flash, json!([call(None), call(None)]), 2)).is_ok());
    }
}
