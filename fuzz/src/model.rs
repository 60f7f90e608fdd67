//! The model of a request is found and replaced, and nothing else, wherever serde_json says that there is one.
use super::cuts;
use ai_proxy::body::{Edit, Inspection, parse, splice};
use bytes::Bytes;
use serde_json::Value;

const VERTEX_ID: &str = "google/gemini-9";

/// Panics where the promise is broken.
pub fn check(body: &[u8]) {
    let reference = serde_json::from_slice::<Value>(body);
    let ours = parse(body, "flash").map_err(|error| error.status_and_code().1);
    match (&reference, &ours) {
        (Ok(Value::Object(fields)), Ok(parsed)) => {
            assert_eq!(fields["model"], *parsed.model);
            assert_eq!(parsed.stream, fields.get("stream") == Some(&Value::Bool(true)));
            let messages = parsed.messages.map(|raw| serde_json::from_slice::<Value>(raw).expect("a part is JSON"));
            assert_eq!(fields.get("messages"), messages.as_ref());
        }
        (Ok(Value::Object(fields)), Err("missing_model")) => assert!(!fields.contains_key("model")),
        (Ok(Value::Object(fields)), Err("invalid_model")) => assert!(!fields["model"].is_string()),
        (Ok(Value::Object(fields)), Err("duplicate_model")) => assert!(fields.contains_key("model")),
        (Ok(Value::Object(_)), Err(code)) => panic!("serde_json takes it: {code}"),
        (Ok(_), ours) => assert_eq!(ours.as_ref().err(), Some(&"invalid_json")),
        (Err(error), Ok(_)) => {
            // Values have limits that the grammar does not have.
            let told = error.to_string();
            let limits = ["recursion limit", "number out of range", "surrogate", "hex escape"];
            assert!(limits.iter().any(|limit| told.contains(limit)), "only we take it: {told}");
        }
        (Err(_), Err(_)) => {}
    }
    for pieces in cuts(body) {
        let mut inspection = Inspection::default();
        let mut end = 0;
        for piece in pieces {
            end += piece.len();
            inspection.look_ahead(&body[..end]);
        }
        let told = inspection.finish(body, "flash").map_err(|error| error.status_and_code().1);
        assert_eq!(format!("{told:?}"), format!("{ours:?}"), "cuts change what is told");
    }
    let Ok(parsed) = ours else { return };
    let (span, id) = (parsed.model_span, Bytes::from(format!("\"{VERTEX_ID}\"")));
    let edit = Edit { at: span.clone(), with: id.clone() };
    let spliced = splice(&Bytes::copy_from_slice(body), vec![edit]).concat();
    assert_eq!(spliced, [&body[..span.start], &id, &body[span.end..]].concat());
    assert_eq!(parse(&spliced, "").expect("it is still a request").model, VERTEX_ID);
    if let (Ok(mut before), Ok(after)) = (reference, serde_json::from_slice::<Value>(&spliced)) {
        before["model"] = VERTEX_ID.into();
        assert_eq!(before, after);
    }
}
