//! Thought signatures: what goes by is kept, what is missing is put back, and nothing else is touched.
mod support;

use support::{CHAT_PATH, Gateway, Request, Response, SECOND_KEY, Upstream, assert_bytes};

/// The signature of the call `call-1`.
const SIGNATURE: &str = "AbC+/d==";

const CALL_CHUNK: &str = r#"data: {"choices":[{"delta":{"role":"assistant","tool_calls":[{"extra_content":{"google":{"thought_signature":"AbC+/d=="}},"function":{"arguments":"{}","name":"f"},"id":"call-1","index":0,"type":"function"}]},"index":0}]}

"#;

const CALL_ANSWER: &str = r#"{"choices":[{"finish_reason":"tool_calls","message":{"tool_calls":[{"extra_content":{"google":{"thought_signature":"AbC+/d=="}},"id":"call-1"}]}}]}"#;

/// The call as it comes back from a client that drops what it does not know.
const BARE: &str = r#"{"id":"call-1"}"#;

/// Messages with a tool result whose call is `call`.
fn messages(call: &str) -> String {
    format!(
        r#""messages":[{{"role":"user","content":"1.0 é \u00e9"}},{{"role":"assistant","tool_calls":[{call}]}}, {{"role":"tool","tool_call_id":"call-1","content":"3"}}]"#
    )
}

/// A request with these messages, in a spelling that nobody would choose.
fn request(model: &str, call: &str) -> String {
    format!(r#"{{ "model" : "{model}", {} ,"x":1e-7}}"#, messages(call))
}

/// What upstream gets for such a request to `pro-preview`.
fn sent(call: &str) -> String {
    request("google/gemini-3.1-pro-preview", call)
}

/// The call with a signature, which comes first, where it was put in.
fn with_signature(signature: &str) -> String {
    format!(r#"{{"extra_content":{{"google":{{"thought_signature":"{signature}"}}}},"id":"call-1"}}"#)
}

/// An upstream that makes the call first and answers anything after that.
fn upstream(first: impl Fn(&mut support::Exchange<'_>) + Send + 'static) -> Upstream {
    let upstream = Upstream::queued();
    upstream.then(first);
    for _ in 0..3 {
        upstream.then(|exchange| exchange.json("{}"));
    }
    upstream
}

/// What the answer says of signatures that were put in.
fn told(response: &Response) -> Option<String> {
    response.header("x-ai-proxy-thought-signatures").map(str::to_owned)
}

#[test]
fn a_streamed_signature_is_put_back_for_its_key_and_for_no_other() {
    // In single bytes, so that no piece holds a whole event.
    let upstream = upstream(|exchange| exchange.sse(CALL_CHUNK.as_bytes().chunks(1)));
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(request("pro-preview", "5"));
    assert_bytes(&answer.body, CALL_CHUNK, "the answer passes unchanged");

    let answer = gateway.chat(request("pro-preview", BARE));
    assert_bytes(&upstream.wait_request(1).body, sent(&with_signature(SIGNATURE)), "the kept signature goes up");
    assert_eq!(told(&answer).as_deref(), Some("kept=1, skipped=0"));
    let line = gateway.log_of(&answer);
    assert_eq!((&line["signatures_kept"], &line["signatures_skipped"]), (&1.into(), &0.into()));

    let other = gateway.request(&Request::new("POST", CHAT_PATH).key(SECOND_KEY).body(request("pro-preview", BARE)));
    let skipped = sent(&with_signature("skip_thought_signature_validator"));
    assert_bytes(&upstream.wait_request(2).body, skipped, "another key gets the skip value");
    assert_eq!(told(&other).as_deref(), Some("kept=0, skipped=1"));

    let again = gateway.chat(request("pro-preview", BARE));
    assert_eq!(told(&again).as_deref(), Some("kept=1, skipped=0"), "as often as it is needed");
    assert!(!gateway.lines().iter().any(|line| line.contains(SIGNATURE)), "signatures are not logged");
}

#[test]
fn a_signature_of_a_whole_answer_is_known_before_the_answer_has_ended() {
    let upstream = upstream(|exchange| exchange.json(CALL_ANSWER));
    let gateway = Gateway::before(&upstream).start();
    gateway.chat(request("pro-preview", "5"));
    gateway.chat(request("pro-preview", BARE));
    assert_bytes(&upstream.wait_request(1).body, sent(&with_signature(SIGNATURE)), "the kept signature goes up");
}

#[test]
fn what_lacks_nothing_or_needs_nothing_goes_up_as_it_came() {
    let upstream = upstream(|exchange| exchange.json("{}"));
    let gateway = Gateway::before(&upstream).start();
    let own = with_signature("own");
    let answer = gateway.chat(request("pro-preview", &own));
    assert_bytes(&upstream.wait_request(0).body, sent(&own), "a signature of the client's own stays");
    assert_eq!(told(&answer), None);

    let answer = gateway.chat(request("flash", BARE));
    let unchanged = request("google/gemini-2.5-flash", BARE);
    assert_bytes(&upstream.wait_request(1).body, unchanged, "older models need none");
    assert_eq!(told(&answer), None);

    let earlier = sent(BARE).replace("\"3\"}]", "\"3\"},{\"role\":\"user\",\"content\":\"and now?\"}]");
    gateway.chat(earlier.replace("google/gemini-3.1-pro-preview", "pro-preview"));
    assert_bytes(&upstream.wait_request(2).body, earlier, "earlier turns need none");
}

#[test]
fn other_policies_keep_nothing() {
    for (policy, expected) in [("off", BARE.to_owned()), ("skip-value", with_signature("c2tpcA=="))] {
        let upstream = upstream(|exchange| exchange.json(CALL_ANSWER));
        let gateway = Gateway::before(&upstream)
            .env("THOUGHT_SIGNATURES", policy)
            .env("THOUGHT_SIGNATURE_SKIP_VALUE", "c2tpcA==")
            .start();
        gateway.chat(request("pro-preview", "5"));
        gateway.chat(request("pro-preview", BARE));
        assert_bytes(&upstream.wait_request(1).body, sent(&expected), policy);
    }
}

#[test]
fn large_histories_are_spliced_without_loss() {
    let upstream = upstream(|exchange| exchange.json(CALL_ANSWER));
    let gateway = Gateway::before(&upstream).start();
    gateway.chat(request("pro-preview", "5"));
    let padding = "x".repeat(100_000);
    let long = |body: String| body.replace("1e-7", &format!("\"{padding}\""));
    gateway.chat(long(request("pro-preview", BARE)));
    assert_bytes(&upstream.wait_request(1).body, long(sent(&with_signature(SIGNATURE))), "a long request");
}

#[test]
fn what_is_put_in_is_bounded_and_counted() {
    let long = CALL_ANSWER.replace(SIGNATURE, &"S".repeat(60_000));
    let upstream = upstream(move |exchange| exchange.json(&long));
    let gateway = Gateway::before(&upstream).env("MAX_BODY_BYTES", "500000").env("BODY_BUDGET_BYTES", "500000").start();
    gateway.chat(request("pro-preview", "5"));
    let step = r#"{"role":"assistant","tool_calls":[{"id":"call-1"}]}"#;
    let turn = |steps: usize| {
        let steps = vec![step; steps].join(",");
        format!(r#"{{"model":"pro-preview","messages":[{steps}]}}"#)
    };
    gateway.chat(turn(9)).assert_error(503, "out_of_memory");
    assert_eq!(gateway.chat(turn(2)).status, 200);
    let answer = gateway.chat(turn(1000));
    assert_eq!((answer.status, told(&answer)), (200, None), "no turn of an agent has a thousand steps");
}
