//! Signatures are noted from any answer and put into any request, which loses nothing by it and lacks nothing then.
//!
//! Input: an event stream, a line `====`, a request; or a request alone.
use super::cuts;
use ai_proxy::body::{parse, splice};
use ai_proxy::signatures::{Policy, Signatures};
use ai_proxy::tap::{Form, Tap};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

const SEPARATOR: &[u8] = b"\n====\n";

/// Panics where the promise is broken.
pub fn check(input: &[u8]) {
    let at = input.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
    let (answer, request) = at.map_or((&[][..], input), |at| (&input[..=at], &input[at + SEPARATOR.len()..]));
    let key: Arc<str> = "owner".into();
    let whole = learned(&[answer], &key);
    let put_in = restored(&whole, request, &key);
    for pieces in cuts(answer) {
        assert_eq!(restored(&learned(&pieces, &key), request, &key), put_in, "cuts change what is learned");
    }
    let Ok(parsed) = parse(request, "") else { return };
    let Some(messages) = parsed.messages else { return };
    let (edits, count) = whole.restore(request, messages, &key);
    assert_eq!(edits.len(), (count.kept + count.skipped) as usize);
    assert!(edits.windows(2).all(|pair| pair[0].at.end <= pair[1].at.start), "places overlap");
    let result = splice(&Bytes::copy_from_slice(request), edits).concat();
    let parsed = parse(&result, "").expect("it is still a request");
    let again = whole.restore(&result, parsed.messages.expect("the messages are still there"), &key);
    assert!(again.0.is_empty(), "something is still missing");
    if let (Ok(mut before), Ok(mut after)) = (serde_json::from_slice(request), serde_json::from_slice(&result)) {
        forget_signatures(&mut before);
        forget_signatures(&mut after);
        assert_eq!(before, after, "more than signatures has changed");
    }
    assert_eq!(whole.restore(request, messages, "another owner").1.kept, 0);
}

fn learned(pieces: &[&[u8]], key: &Arc<str>) -> Signatures {
    let signatures = Signatures::new(Policy::Keep, "skip");
    let mut tap = Tap::new(signatures.listener(key), Form::Stream);
    pieces.iter().for_each(|piece| tap.push(piece));
    tap.end();
    signatures
}

fn restored(signatures: &Signatures, request: &[u8], key: &str) -> Option<Vec<u8>> {
    let messages = parse(request, "").ok()?.messages?;
    Some(splice(&Bytes::copy_from_slice(request), signatures.restore(request, messages, key).0).concat())
}

/// The only things that may differ.
fn forget_signatures(request: &mut Value) {
    for message in request["messages"].as_array_mut().into_iter().flatten() {
        let first = message.get_mut("tool_calls").and_then(|calls| calls.get_mut(0)).and_then(Value::as_object_mut);
        first.map(|call| call.remove("extra_content"));
    }
}
