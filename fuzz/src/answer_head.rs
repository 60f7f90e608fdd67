//! The head of an answer is read alike however it comes, and where its body ends is what a plain reader of lines says.

use super::cuts;
use ai_proxy::upstream::http1::{MAX_INTERIM, take_head};
use bytes::BytesMut;

/// What is told of a head, and what is left behind it.
type Read = Result<Option<(String, Vec<u8>)>, String>;

fn read(pieces: &[&[u8]]) -> Read {
    let (mut input, mut interim_left) = (BytesMut::new(), MAX_INTERIM);
    for (number, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        if let Some((head, body)) = take_head(&mut input, &mut interim_left).map_err(|error| error.to_string())? {
            input.extend_from_slice(&pieces[number + 1..].concat());
            let told = format!("{} {:?} {:?} {body:?}", head.status, head.version, head.to_map());
            return Ok(Some((told, input.to_vec())));
        }
    }
    Ok(None)
}

/// Panics where the promise is broken.
pub fn check(input: &[u8]) {
    let whole = read(&[input]);
    for pieces in cuts(input) {
        match (&whole, read(&pieces)) {
            // Which of two faults is told may depend on what has come.
            (Err(_), Err(_)) => {}
            (whole, pieces) => assert_eq!(&pieces, whole),
        }
    }
    let Ok(Some((_, rest))) = &whole else { return };
    let mut input = BytesMut::from(input);
    let (head, body) = take_head(&mut input, &mut MAX_INTERIM.clone()).expect("it was good").expect("it was whole");
    assert_eq!(&input[..], &rest[..]);
    let status = head.status.as_u16();
    assert!(status == 101 || !(100..200).contains(&status), "an interim answer is none");
    let fields = head.to_map();
    let values = |name: &str| -> Vec<Vec<u8>> {
        fields.get_all(name).iter().map(|value| value.as_bytes().to_ascii_lowercase()).collect()
    };
    let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
    let is_chunked = codings.last().is_some_and(|last| {
        last.rsplit(|byte| *byte == b',').next().is_some_and(|coding| coding.trim_ascii() == b"chunked")
    });
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let length = lengths.first().map(|text| number(text).expect("a length is a number"));
    assert!(lengths.iter().all(|text| number(text) == length), "two lengths");
    let told = format!("{body:?}");
    let expected = match length {
        _ if matches!(status, 204 | 304) => "Ended".to_owned(),
        _ if is_chunked => "Chunked(".to_owned(),
        _ if !codings.is_empty() => "UntilClose".to_owned(),
        None => "UntilClose".to_owned(),
        Some(0) => "Ended".to_owned(),
        Some(length) => format!("Counted({length})"),
    };
    assert!(told.starts_with(&format!("Body {{ framing: {expected}")), "{told}, not {expected}");
    let ambiguous = !codings.is_empty() && length.is_some();
    if ambiguous || expected == "UntilClose" {
        assert!(told.ends_with("keeps_connection: false }"), "{told}");
    }
}
