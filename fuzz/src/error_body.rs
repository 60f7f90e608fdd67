//! An error's array loses its two brackets and nothing else, exactly where serde_json sees an array of one error.
use serde_json::Value;

use ai_proxy::repair::{retry_delay, without_brackets};

/// Panics where the promise is broken.
pub fn check(body: &[u8]) {
    assert!(retry_delay(body).is_none_or(|seconds| seconds <= 86_400));
    let unwrapped = without_brackets(body);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    if let Some(unwrapped) = &unwrapped {
        let open = body.iter().position(|byte| !is_blank(byte)).expect("something is there");
        let close = body.iter().rposition(|byte| !is_blank(byte)).expect("something is there");
        assert_eq!((body[open], body[close]), (b'[', b']'));
        assert_eq!(unwrapped[..], [&body[..open], &body[open + 1..close], &body[close + 1..]].concat());
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    let wrapped = value.as_array().filter(|items| items.len() == 1 && items[0].get("error").is_some());
    match (wrapped, unwrapped) {
        (Some(items), Some(unwrapped)) => {
            assert_eq!(serde_json::from_slice::<Value>(&unwrapped).expect("it is JSON"), items[0])
        }
        (None, Some(_)) => panic!("what is no error lost its brackets"),
        // An object that says it twice is left alone; serde_json's values show one of the two.
        (Some(_), None) => assert!(says_error_twice(body), "an error keeps its brackets"),
        (None, None) => {}
    }
}

fn says_error_twice(body: &[u8]) -> bool {
    let plain = body.windows(7).filter(|window| window == b"\"error\"").count();
    plain > 1 || body.contains(&b'\\')
}
