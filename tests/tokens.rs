//! What an answer cost stands in its log line, or is unknown; and looking for it changes no byte and delays none.
mod support;

use serde_json::Value;
use support::{CHAT, CHAT_STREAM, End, Exchange, Gate, Gateway, Request, Upstream, assert_bytes};

const USAGE: &str = r#"{"completion_tokens":45,"completion_tokens_details":{"reasoning_tokens":504},"extra_properties":{"google":{"traffic_type":"ON_DEMAND"}},"prompt_tokens":27,"prompt_tokens_details":{"cached_tokens":3},"total_tokens":576}"#;
const FIELDS: [&str; 4] = ["prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"];
const KNOWN: [Option<u64>; 4] = [Some(27), Some(3), Some(45), Some(504)];
const UNKNOWN: [Option<u64>; 4] = [None; 4];

fn counts(line: &Value) -> [Option<u64>; 4] {
    FIELDS.map(|name| {
        let count = line.get(name).unwrap_or_else(|| panic!("no {name} in {line}"));
        assert!(count.is_u64() || count.is_null(), "{name} in {line}");
        count.as_u64()
    })
}

/// What it is, the pieces of the answer, whether it is a stream, and its counts.
type Case = (String, Vec<Vec<u8>>, bool, [Option<u64>; 4]);

/// Answers as given, one after another; each must arrive unchanged and be counted so.
fn check(answers: Vec<Case>) {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for (name, pieces, is_stream, expected) in answers {
        let whole = pieces.concat();
        upstream.then(move |exchange| {
            if is_stream {
                exchange.sse_head();
            } else {
                exchange
                    .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
            }
            for piece in pieces {
                exchange.chunk(piece);
            }
            exchange.last_chunk();
        });
        let answer = client.request(&Request::chat(if is_stream { CHAT_STREAM } else { CHAT }));
        assert_eq!((answer.status, answer.end), (200, End::Complete), "{name}");
        assert_bytes(&answer.body, &whole, &name);
        assert_eq!(counts(&gateway.log_of(&answer)), expected, "{name}");
    }
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

fn with_usage(usage: &str) -> String {
    format!(r#"{{"choices":[{{"delta":{{"content":"x"}}}}],"usage":{usage}}}"#)
}

#[test]
fn usage_is_found_wherever_vertex_puts_it() {
    let content = event(r#"{"choices":[{"delta":{"content":"hello"},"index":0}]}"#);
    let done = event("[DONE]");
    let last = event(&with_usage(USAGE));
    let growing = [r#"{"prompt_tokens":27}"#, r#"{"prompt_tokens":27,"completion_tokens":9}"#, USAGE];
    let growing: Vec<Vec<u8>> = growing.iter().map(|usage| event(&with_usage(usage)).into_bytes()).collect();
    let apart = event(&format!(r#"{{"choices":[],"usage":{USAGE}}}"#));
    let split = |text: String, at: usize| text.into_bytes().chunks(at).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let whole = with_usage(USAGE);
    check(vec![
        ("last content".into(), vec![content.clone().into(), last.clone().into(), done.clone().into()], true, KNOWN),
        ("growing".into(), growing, true, KNOWN),
        ("an event of its own".into(), vec![content.clone().into(), apart.into()], true, KNOWN),
        ("all in one piece".into(), vec![format!("{content}{last}{done}").into()], true, KNOWN),
        ("in single bytes".into(), split(format!("{content}{last}{done}"), 1), true, KNOWN),
        ("CRLF".into(), split(format!("{content}{last}{done}").replace('\n', "\r\n"), 7), true, KNOWN),
        ("no space".into(), split(last.replace("data: ", "data:"), 50), true, KNOWN),
        ("one body".into(), vec![whole.clone().into()], false, KNOWN),
        ("an indented body in bytes".into(), split(whole.replace(',', " ,\n  "), 1), false, KNOWN),
        ("no usage".into(), vec![content.into(), done.into()], true, UNKNOWN),
        (
            "no completion".into(),
            vec![with_usage(r#"{"completion_tokens_details":{"reasoning_tokens":295},"prompt_tokens":7912}"#).into()],
            false,
            [Some(7912), None, None, Some(295)],
        ),
    ]);
}

#[test]
fn hostile_answers_arrive_unchanged_and_are_counted_rightly_or_not_at_all() {
    let last = event(&with_usage(USAGE));
    let mut answers = Vec::new();
    for usage in [
        "null",
        "5",
        "\"27\"",
        "[27]",
        "{}",
        r#"{"prompt_tokens":-1,"completion_tokens":5}"#,
        r#"{"prompt_tokens":1.5}"#,
        r#"{"prompt_tokens":"27"}"#,
        r#"{"prompt_tokens":99999999999999999999999}"#,
        r#"{"prompt_tokens":1"#,
        r#"{"usage":{"prompt_tokens":1}}"#,
    ] {
        answers.push((usage.to_owned(), vec![with_usage(usage).into_bytes()], false, UNKNOWN));
        answers.push((usage.to_owned(), vec![event(&with_usage(usage)).into_bytes()], true, UNKNOWN));
    }
    let fake = r#"\"},\"usage\":{\"prompt_tokens\":1}"#;
    for content in [fake.to_owned(), fake.repeat(40_000), "\\u0022usage\\u0022:{".into(), "[".repeat(100_000)] {
        let text = format!(r#"{{"choices":[{{"message":{{"content":"{content}"}}}}],"usage":{USAGE}}}"#);
        let pieces: Vec<Vec<u8>> = text.as_bytes().chunks(5000).map(<[u8]>::to_vec).collect();
        let name = format!("a message that looks so, {} bytes", text.len());
        answers.push((name.clone(), pieces.clone(), false, KNOWN));
        answers.push((name, [vec![b"data: ".to_vec()], pieces, vec![b"\n\n".to_vec()]].concat(), true, KNOWN));
        let without = text.replace(&format!(",\"usage\":{USAGE}"), "");
        answers.push(("the same without usage".into(), vec![event(&without).into_bytes()], true, UNKNOWN));
    }
    let nested = format!(r#"{{"a":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let nested_usage = format!(r#"{{"a":{{"usage":{USAGE}}},"b":[{{"usage":{USAGE}}}]}}"#);
    let second = r#"{"prompt_tokens":1,"completion_tokens":2}"#;
    let twice = format!(r#"{{"usage":{second},"usage":{USAGE}}}"#);
    let invalid_utf8 = [b"data: {\"a\":\"\xff\xfe\",\"usage\":", USAGE.as_bytes(), b"}\n\n"].concat();
    answers.extend([
        ("deep nesting".to_owned(), vec![event(&nested).into_bytes(), last.clone().into()], true, KNOWN),
        ("a nested usage".into(), vec![event(&nested_usage).into_bytes()], true, UNKNOWN),
        ("twice".into(), vec![event(&twice).into_bytes()], true, KNOWN),
        ("invalid UTF-8".into(), vec![invalid_utf8], true, KNOWN),
        ("only NUL".into(), vec![vec![0; 10_000]], true, UNKNOWN),
        ("comments".into(), vec![format!(": \"usage\":{USAGE}\n\n: \"usage\"\n").into()], true, UNKNOWN),
        ("a bare JSON tail".into(), vec![last.clone().into(), with_usage(second).into()], true, KNOWN),
        ("JSON that is no stream".into(), vec![with_usage(USAGE).into()], true, UNKNOWN),
        ("a last event without its end".into(), vec![format!("data: {}", with_usage(USAGE)).into()], true, KNOWN),
        (
            "a last event without its object's end".into(),
            vec![last.trim_end().trim_end_matches('}').into()],
            true,
            UNKNOWN,
        ),
    ]);
    check(answers);
}

#[test]
fn encoded_answers_are_not_looked_into_and_errors_are_not_counted() {
    let upstream = Upstream::queued();
    let body = with_usage(USAGE);
    for (status, headers) in [("200 OK", "content-encoding: x\r\n"), ("400 Bad Request", "")] {
        let body = body.clone();
        upstream.then(move |exchange| {
            exchange.answer(status, &format!("content-type: application/json\r\n{headers}"), &body);
        });
    }
    let gateway = Gateway::before(&upstream).start();
    for _ in 0..2 {
        let answer = gateway.chat(CHAT);
        assert_bytes(&answer.body, &body, "unchanged");
        assert_eq!(counts(&gateway.log_of(&answer)), UNKNOWN);
    }
}

/// Sends an event without usage, waits, then the end.
fn slow(gate: Gate, before: String, after: String) -> impl FnOnce(&mut Exchange<'_>) + Send {
    move |exchange| {
        exchange.sse_head();
        exchange.chunk(before);
        gate.wait();
        exchange.chunk(after);
        exchange.last_chunk();
    }
}

#[test]
fn a_half_event_is_not_held_back_by_looking_at_it() {
    let upstream = Upstream::queued();
    let gate = Gate::new();
    let last = event(&with_usage(USAGE));
    let (before, after) = last.split_at(60);
    upstream.then(slow(gate.clone(), before.to_owned(), after.to_owned()));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    client.expect_body(before);
    gate.open();
    client.rest(&mut answer);
    assert_bytes(&answer.body, after, "the rest");
    assert_eq!(counts(&gateway.log_of(&answer)), KNOWN);
}

#[test]
fn what_had_not_come_is_unknown() {
    let upstream = Upstream::queued();
    let gate = Gate::new();
    let content = event(r#"{"choices":[]}"#);
    upstream.then(slow(gate.clone(), content.clone(), event(&with_usage(USAGE))));
    let cut = content.clone();
    upstream.then(move |exchange| {
        exchange.sse_head();
        exchange.chunk(&cut);
        exchange.close();
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let answer = client.head();
    client.expect_body(&content);
    drop(client);
    let line = gateway.log_of(&answer);
    gate.open();
    assert_eq!((counts(&line), &line["outcome"]), (UNKNOWN, &"client_hung_up".into()));
    let line = gateway.log_of(&gateway.chat(CHAT_STREAM));
    assert_eq!((counts(&line), &line["outcome"]), (UNKNOWN, &"upstream_broke".into()));
    let line = gateway.log_of(&gateway.get("/health"));
    assert_eq!((counts(&line), &line["model"]), (UNKNOWN, &Value::Null));
}

#[test]
fn the_model_stands_beside_its_alias() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let line = gateway.log_of(&gateway.chat(CHAT));
    assert_eq!((&line["alias"], &line["model"]), (&"flash".into(), &"google/gemini-2.5-flash".into()));
}
