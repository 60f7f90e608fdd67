//! A head is read alike however it comes, and what is admitted can be read in one way only: a plain reader of lines
//! comes to the same end of the body.
use super::cuts;
use ai_proxy::http1::Head;
use bytes::BytesMut;

/// What is told of a head, and what is left behind it.
type Read = Result<Option<(String, Vec<u8>)>, &'static str>;

fn read(pieces: &[&[u8]]) -> Read {
    let mut input = BytesMut::new();
    for (number, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        if let Some(head) = Head::take(&mut input).map_err(|error| error.status_and_code().1)? {
            input.extend_from_slice(&pieces[number + 1..].concat());
            return Ok(Some((told(&head), input.to_vec())));
        }
    }
    Ok(None)
}

fn told(head: &Head) -> String {
    let fields: Vec<_> = head.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let flags = (head.method, head.http11, head.body, head.keep_alive, head.expects_continue, head.expectation_fails);
    format!("{flags:?} {:?} {fields:?}", head.path())
}

/// Panics where the promise is broken.
pub fn check(input: &[u8]) {
    let whole = read(&[input]);
    for pieces in cuts(input) {
        assert_eq!(read(&pieces), whole);
    }
    let Ok(Some((_, rest))) = &whole else { return };
    let text = &input[..input.len() - rest.len()];
    let head = Head::take(&mut BytesMut::from(text)).expect("it was good").expect("it was whole");
    assert!(!text.contains(&0), "a NUL");
    let lines = text.strip_suffix(b"\r\n\r\n").expect("a head ends in a blank line");
    let mut lines = lines.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    assert!(lines.clone().all(|line| !line.contains(&b'\r')), "a bare CR");
    assert_eq!(text.iter().filter(|byte| **byte == b'\r').count(), text.iter().filter(|byte| **byte == b'\n').count());
    // Blank lines before a request are allowed.
    let request_line = lines.find(|line| !line.is_empty()).expect("a request line");
    assert_eq!(request_line.iter().filter(|byte| **byte == b' ').count(), 2);
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        assert!(!line.starts_with(b" ") && !line.starts_with(b"\t"), "a folded line");
        let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
        let (name, value) = (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii());
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic), "a name with blanks");
        match &name[..] {
            b"content-length" => lengths.push(value.to_vec()),
            b"transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            b"host" => hosts += 1,
            _ => {}
        }
    }
    assert!(hosts == 1 || (hosts == 0 && !head.http11));
    let expected = match (&lengths[..], &codings[..]) {
        ([], []) => "Counted(0)".to_owned(),
        ([length], []) => {
            let length = std::str::from_utf8(length).expect("digits");
            assert!(length.bytes().all(|byte| byte.is_ascii_digit()));
            format!("Counted({})", length.parse::<u64>().expect("a number"))
        }
        ([], [coding]) => {
            assert_eq!(coding, b"chunked");
            "Chunked".to_owned()
        }
        both => panic!("two framings: {both:?}"),
    };
    assert_eq!(format!("{:?}", head.body), expected);
}
