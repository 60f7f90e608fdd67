//! The emulator over real sockets: requests as bytes in, answers as bytes out.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PATH: &str = "/v1/projects/demo/locations/global/endpoints/openapi/chat/completions";
const FLASH: &str = "google/gemini-2.5-flash";
const PRO: &str = "google/gemini-3.1-pro-preview";

/// A running emulator and a token that its metadata server has issued.
struct Emulator {
    address: SocketAddr,
    token: String,
    server: JoinHandle<()>,
}

/// An answer taken apart; the body is without its transfer coding.
struct Answer {
    status: u16,
    head: String,
    body: String,
    /// Whether the body came to its regular end.
    complete: bool,
}

impl Emulator {
    async fn start() -> Self {
        Self::start_with(Duration::ZERO).await
    }

    async fn start_with(pace: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut settings = ai_proxy_emulator::Settings::new("demo");
        settings.pace = pace;
        let server = tokio::spawn(ai_proxy_emulator::serve(listener, settings));
        let mut emulator = Self { address, token: String::new(), server };
        emulator.token = emulator.fetch_token().await["access_token"].as_str().unwrap().to_owned();
        emulator
    }

    async fn fetch_token(&self) -> Value {
        let path = "/computeMetadata/v1/instance/service-accounts/default/token?scopes=a,b";
        let answer = self.send("GET", path, "Metadata-Flavor: Google\r\n", "").await;
        assert_eq!(answer.status, 200);
        assert!(answer.has_header("metadata-flavor: Google"));
        answer.json()
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Answer::parse(&bytes)
    }

    async fn post(&self, body: &Value) -> Answer {
        let headers = format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", self.token);
        self.send("POST", PATH, &headers, &body.to_string()).await
    }

    async fn say(&self, text: &str, stream: bool) -> Answer {
        let messages = json!([{"role": "user", "content": text}]);
        self.post(&json!({"model": FLASH, "messages": messages, "stream": stream})).await
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self { status, head: head.to_owned(), body: rest.to_owned(), complete: true };
        if answer.has_header("transfer-encoding: chunked") {
            answer.unchunk(rest);
        }
        answer
    }

    fn unchunk(&mut self, mut rest: &str) {
        self.body.clear();
        self.complete = false;
        while let Some((size, data)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                self.complete = true;
                return;
            }
            self.body.push_str(&data[..size]);
            rest = &data[size + 2..];
        }
    }

    fn has_header(&self, line: &str) -> bool {
        self.head.lines().any(|found| found.eq_ignore_ascii_case(line))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The data of a stream's events.
    fn events(&self) -> Vec<&str> {
        let events = self.body.strip_suffix("\n\n").unwrap().split("\n\n");
        events.map(|event| event.strip_prefix("data: ").unwrap()).collect()
    }
}

#[tokio::test]
async fn a_completion_has_vertex_shape() {
    let emulator = Emulator::start().await;
    let answer = emulator.say("Say hi.", false).await;
    assert_eq!(answer.status, 200);
    for header in ["content-type: application/json; charset=UTF-8", "vary: Origin", "x-content-type-options: nosniff"] {
        assert!(answer.has_header(header), "{header}");
    }
    let completion = answer.json();
    let id = completion["id"].as_str().unwrap();
    let created = completion["created"].as_u64().unwrap();
    assert!((22..=23).contains(&id.len()));
    assert_eq!(
        answer.body,
        format!(
            r#"{{"choices":[{{"finish_reason":"stop","index":0,"logprobs":null,"message":{{"content":"Hi there! How can I help you today?","role":"assistant"}}}}],"created":{created},"id":"{id}","model":"google/gemini-2.5-flash","object":"chat.completion","system_fingerprint":"","usage":{{"completion_tokens":10,"extra_properties":{{"google":{{"traffic_type":"ON_DEMAND"}}}},"prompt_tokens":4,"total_tokens":14}}}}"#
        )
    );
}

#[tokio::test]
async fn a_stream_has_vertex_framing() {
    let emulator = Emulator::start().await;
    let answer = emulator.say("Say hi.", true).await;
    assert_eq!(answer.status, 200);
    assert!(answer.has_header("content-type: text/event-stream"));
    assert!(answer.complete);
    let mut events = answer.events();
    assert_eq!(events.pop(), Some("[DONE]"));
    let last = events.len() - 1;
    let mut text = String::new();
    for (at, event) in events.iter().enumerate() {
        let chunk: Value = serde_json::from_str(event).unwrap();
        assert_eq!(chunk.to_string(), **event, "keys are alphabetical, without blanks");
        let choice = &chunk["choices"][0];
        text += choice["delta"]["content"].as_str().unwrap();
        assert_eq!(choice["delta"]["role"], "assistant");
        assert_eq!(choice.get("finish_reason").is_some(), at == last);
        assert_eq!(chunk.get("usage").is_some(), at == last);
    }
    assert_eq!(text, "Hi there! How can I help you today?");
    let chunk: Value = serde_json::from_str(events[last]).unwrap();
    assert_eq!(chunk["usage"], emulator.say("Say hi.", false).await.json()["usage"]);
}

#[tokio::test]
async fn a_stream_is_paced() {
    let pace = Duration::from_millis(10);
    let emulator = Emulator::start_with(pace).await;
    let started = Instant::now();
    let answer = emulator.say("Say hi.", true).await;
    let chunks = u32::try_from(answer.events().len() - 1).unwrap();
    assert!(started.elapsed() >= pace * (chunks - 1));
}

fn sum_request(messages: Value, stream: bool) -> Value {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer", "title": "A"},
        "b": {"type": "integer", "title": "B"}}, "required": ["a", "b"], "additionalProperties": false});
    json!({"model": PRO, "messages": messages, "stream": stream, "tools": [{"type": "function",
        "function": {"name": "add", "description": "Add two integers.", "parameters": parameters, "strict": true}}]})
}

#[tokio::test]
async fn a_tool_turn_ends_in_the_sum() {
    let emulator = Emulator::start().await;
    let question = json!({"role": "user", "content": "What is 2024 plus 1776?"});
    for stream in [false, true] {
        let answer = emulator.post(&sum_request(json!([question]), stream)).await;
        let call = if stream {
            let events = answer.events();
            assert_eq!(events.len(), 2, "the whole call is one event");
            let chunk: Value = serde_json::from_str(events[0]).unwrap();
            assert_eq!(chunk["choices"][0]["finish_reason"], "tool_calls");
            chunk["choices"][0]["delta"]["tool_calls"][0].clone()
        } else {
            let completion = answer.json();
            assert_eq!(completion["choices"][0]["finish_reason"], "tool_calls");
            completion["choices"][0]["message"]["tool_calls"][0].clone()
        };
        assert_eq!(call["function"]["name"], "add");
        assert_eq!(call["function"]["arguments"], r#"{"a":2024,"b":1776}"#);
        assert!(call["id"].as_str().unwrap().starts_with("function-call-"));
        assert_eq!(call.get("index").is_some(), stream);
        assert!(answer.body.contains(r#""tool_calls":[{"extra_content":{"google":{"thought_signature":""#));

        let history = |call: &Value| {
            json!([question, {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": call["id"], "content": "3800"}])
        };
        let answer = emulator.post(&sum_request(history(&call), false)).await;
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "The sum is 3800.");

        let mut unsigned = call.clone();
        unsigned.as_object_mut().unwrap().remove("extra_content");
        let answer = emulator.post(&sum_request(history(&unsigned), stream)).await;
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("function call `default_api:add` in the 2. content block is missing a"));
    }
}

#[tokio::test]
async fn a_plan_is_followed_to_what_the_last_function_answers() {
    let emulator = Emulator::start().await;
    let tools = json!([{"type": "function", "function": {"name": "exec_command", "parameters": {"type": "object"}}}]);
    let mut messages = vec![json!({"role": "user", "content": "Who has the keys? See launch.md."})];
    let mut commands = Vec::new();
    for printed in ["launch.md", "Grace has the keys."] {
        let answer = emulator.post(&json!({"model": PRO, "tools": tools, "messages": messages})).await.json();
        let message = &answer["choices"][0]["message"];
        let call = &message["tool_calls"][0];
        assert_eq!(call["function"]["name"], "exec_command");
        commands.push(call["function"]["arguments"].as_str().unwrap().to_owned());
        let content = format!("Chunk ID: 1f2e\nWall time: 0.1 seconds\nOutput:\n{printed}\n");
        messages.push(message.clone());
        messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": content}));
    }
    assert_eq!(commands, [r#"{"cmd":"ls"}"#, r#"{"cmd":"cat launch.md"}"#]);
    let answer = emulator.post(&json!({"model": PRO, "tools": tools, "messages": messages})).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "launch.md says: Grace has the keys.");
    // Without the function it is a prompt like any other.
    let answer = emulator.say("Who has the keys? See launch.md.", false).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "You said: Who has the keys? See launch.md.");
}

#[tokio::test]
async fn wrong_requests_are_refused_as_vertex_does() {
    let emulator = Emulator::start().await;
    let body = json!({"model": "gemini-3.5-flash", "messages": [{"role": "user", "content": "Say hi."}]});
    let answer = emulator.post(&body).await;
    assert_eq!(answer.status, 400);
    assert!(answer.has_header("content-type: application/json; charset=UTF-8"));
    assert_eq!(
        answer.body,
        "[{\n  \"error\": {\n    \"code\": 400,\n    \"message\": \"Malformed publisher model (`model`: \
         'gemini-3.5-flash') for the 'openapi' request endpoint ID; expected '<publisher>/<model>'.\",\n    \"status\": \
         \"INVALID_ARGUMENT\"\n  }\n}\n]"
    );

    let body = body.to_string();
    let answer = emulator.send("POST", PATH, "", &body).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.json()[0]["error"]["details"][0]["reason"], "CREDENTIALS_MISSING");
    let answer = emulator.send("POST", PATH, "authorization: Bearer ya29.old\r\n", &body).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.json()[0]["error"]["details"][0]["reason"], "ACCESS_TOKEN_EXPIRED");
    let jwt = "authorization: Bearer eyJhbGciOi.eyJpc3MiOi.c2lnbg\r\n";
    assert_eq!(emulator.send("POST", PATH, jwt, &body).await.status, 400, "past the bearer");

    for (method, path) in [("GET", PATH), ("POST", "/v1/projects/demo"), ("POST", "/\"quoted\""), ("GET", "/")] {
        let answer = emulator.send(method, path, jwt, "").await;
        assert_eq!(answer.status, 404);
        assert!(answer.has_header("content-type: text/html; charset=UTF-8"));
        assert!(answer.body.starts_with("<!DOCTYPE html>") && !answer.body.contains("\"quoted"));
    }
    let elsewhere = PATH.replace("demo", "other");
    let body = body.replace("gemini-3.5-flash", "google/gemini-3.5-flash");
    assert_eq!(emulator.send("POST", &elsewhere, jwt, &body).await.status, 403);

    let big = " ".repeat(20 * 1024 * 1024 + 1);
    let answer = emulator.send("POST", PATH, jwt, &big).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("Request payload size exceeds the limit: 20971520 bytes."));
}

#[tokio::test]
async fn scenarios_are_asked_for_by_marker() {
    let emulator = Emulator::start().await;
    let answers = [
        ("rate-limited", 429, "RESOURCE_EXHAUSTED"),
        ("overloaded", 503, "The model is overloaded."),
        ("internal", 500, "INTERNAL"),
        ("forbidden", 403, "projects/demo/locations/global/"),
        ("html-404", 404, "<!DOCTYPE html>"),
        ("object-error", 400, "{\n  \"error\": {\n"),
        ("empty", 200, r#""message":{"content":"","role":"assistant"}"#),
        ("blocked", 200, r#"{"finish_reason":"content_filter: PROHIBITED_CONTENT","index":0,"logprobs":null}"#),
    ];
    for (marker, status, part) in answers {
        let answer = emulator.say(&format!("Say hi. [emulator:{marker}]"), false).await;
        assert_eq!(answer.status, status, "{marker}");
        assert!(answer.body.contains(part), "{marker}: {}", answer.body);
    }
    let empty = emulator.say("[emulator:empty]", false).await.json();
    assert_eq!(empty["usage"].get("completion_tokens"), None);

    let cut = emulator.say("[emulator:cut]", true).await;
    assert!(!cut.complete);
    assert_eq!(cut.body.matches("data: ").count(), 3);
    let tail = emulator.say("[emulator:json-tail]", true).await;
    assert!(tail.complete && tail.body.ends_with("\"status\": \"UNAVAILABLE\"\n  }\n}\n"));
}

#[tokio::test]
async fn the_metadata_server_answers_its_own() {
    let emulator = Emulator::start().await;
    let token = emulator.fetch_token().await;
    assert_eq!(token["access_token"], emulator.token.as_str(), "the same token until near its end");
    assert_eq!(token["token_type"], "Bearer");
    assert!((3590..=3599).contains(&token["expires_in"].as_u64().unwrap()));

    let flavor = "metadata-flavor: Google\r\n";
    let project = emulator.send("GET", "/computeMetadata/v1/project/project-id", flavor, "").await;
    assert_eq!(project.body, "demo");
    let universe = "/computeMetadata/v1/universe/universe-domain";
    assert_eq!(emulator.send("GET", universe, flavor, "").await.body, "googleapis.com");
    assert_eq!(emulator.send("GET", universe, "", "").await.status, 403);
    assert_eq!(emulator.send("GET", "/computeMetadata/v1/other", flavor, "").await.status, 404);
}

#[tokio::test]
async fn googles_own_library_gets_a_token_that_is_accepted() {
    // The library's HTTP client wants one, even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let emulator = Emulator::start().await;
    let credentials = google_cloud_auth::credentials::mds::Builder::default()
        .with_endpoint(format!("http://{}", emulator.address))
        .build_access_token_credentials()
        .unwrap();
    let token = credentials.access_token().await.unwrap().token;
    assert_eq!(token, emulator.token);
}

#[tokio::test]
async fn what_it_serves_ends_when_it_is_dropped() {
    let emulator = Emulator::start().await;
    let mut stream = TcpStream::connect(emulator.address).await.unwrap();
    let path = "/computeMetadata/v1/project/project-id";
    assert_eq!(emulator.send("GET", path, "metadata-flavor: Google\r\n", "").await.status, 200);
    drop(emulator);
    // Either end of the connection will do, but it must end.
    let mut bytes = [0; 1];
    assert!(!matches!(stream.read(&mut bytes).await, Ok(1)));
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let emulator = Emulator::start().await;
    let mut stream = TcpStream::connect(emulator.address).await.unwrap();
    for _ in 0..3 {
        let request =
            "GET /computeMetadata/v1/project/project-id HTTP/1.1\r\nhost: x\r\nmetadata-flavor: Google\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\ndemo") {
            let mut bytes = [0; 1024];
            let read = stream.read(&mut bytes).await.unwrap();
            assert!(read > 0);
            answer += std::str::from_utf8(&bytes[..read]).unwrap();
        }
    }
}
