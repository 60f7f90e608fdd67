//! A look at an answer on its way to the client, which can neither hold back, alter nor fail it.
//!
//! Each piece of the body is shown to the tap on its way; it puts JSON texts together from them, events of a stream or
//! a whole body, and tells them to a listener. What is too large or no JSON it passes over. A text is told before its
//! last byte leaves, since the client's next request may build on it; nothing ever waits for that.

/// An event or a body larger than this is not told, in bytes.
const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// Hears the JSON texts of an answer.
pub trait Listener: Send {
    /// One event's data, or the whole body; nothing is promised about its form.
    fn hear(&mut self, json: &[u8]);
}

/// The tap on one answer.
pub struct Tap<L> {
    listener: L,
    form: Form,
    /// What has come of a text that is not yet whole. A copy: a slice of a piece would pin a whole read buffer.
    part: Vec<u8>,
    /// The text under way is too large: the rest of it is passed over.
    too_large: bool,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Events.
    Stream,
    /// One JSON body of so many bytes, where that is known.
    Json(Option<u64>),
}

impl<L: Listener> Tap<L> {
    /// A tap on one answer.
    pub fn new(listener: L, form: Form) -> Self {
        Self { listener, form, part: Vec::new(), too_large: false }
    }

    /// Shows the next piece of the body.
    pub fn push(&mut self, mut piece: &[u8]) {
        if self.form == Form::Stream {
            while let Some(at) = memchr::memchr2(b'\n', b'\r', piece) {
                let (line, rest) = (&piece[..at], &piece[at + 1..]);
                if self.part.is_empty() && !self.too_large {
                    self.tell_line(line);
                } else {
                    self.keep(line);
                    let whole = std::mem::take(&mut self.part);
                    if !std::mem::take(&mut self.too_large) {
                        self.tell_line(&whole);
                    }
                }
                piece = rest;
            }
        }
        self.keep(piece);
        if self.form == Form::Json(Some(self.part.len() as u64)) {
            self.tell_body();
        }
    }

    /// Ends the answer.
    pub fn end(mut self) -> L {
        if self.form != Form::Stream {
            self.tell_body();
        } else if !self.too_large {
            let rest = std::mem::take(&mut self.part);
            self.tell_line(&rest);
        }
        self.listener
    }

    /// Tells the whole body, once.
    fn tell_body(&mut self) {
        let body = std::mem::take(&mut self.part);
        if !body.is_empty() {
            self.listener.hear(&body);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.too_large || self.part.len() + bytes.len() > MAX_TEXT_BYTES {
            self.too_large = true;
            self.part = Vec::new();
        } else {
            self.part.extend_from_slice(bytes);
        }
    }

    /// One line of an event stream: only data counts. Vertex writes one line of it for each event.
    fn tell_line(&mut self, line: &[u8]) {
        if let Some(data) = line.strip_prefix(b"data:") {
            self.listener.hear(data.trim_ascii());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Listener for Heard {
        fn hear(&mut self, json: &[u8]) {
            self.0.push(String::from_utf8_lossy(json).into_owned());
        }
    }

    fn heard(is_stream: bool, pieces: &[&[u8]]) -> Vec<String> {
        let mut tap = Tap::new(Heard::default(), if is_stream { Form::Stream } else { Form::Json(None) });
        pieces.iter().for_each(|piece| tap.push(piece));
        tap.end().0
    }

    #[test]
    fn events_are_told_whatever_their_line_ends() {
        let stream = b": hi\ndata: {\"a\":1}\n\ndata:{\"b\":2}\r\n\r\nevent: x\rdata:  3\r\rdata: [DONE]";
        assert_eq!(heard(true, &[stream]), ["{\"a\":1}", "{\"b\":2}", "3", "[DONE]"]);
        assert_eq!(heard(false, &[b"{\"a\":", b"1}"]), ["{\"a\":1}"]);
        assert!(heard(false, &[]).is_empty());
    }

    #[test]
    fn a_counted_body_is_told_with_its_last_byte_and_once() {
        let mut tap = Tap::new(Heard::default(), Form::Json(Some(3)));
        tap.push(b"12");
        assert!(tap.listener.0.is_empty());
        tap.push(b"3");
        assert_eq!(tap.listener.0, ["123"]);
        assert_eq!(tap.end().0, ["123"]);
    }

    #[test]
    fn what_is_too_large_is_passed_over_and_the_rest_told() {
        let long = vec![b'x'; MAX_TEXT_BYTES];
        assert_eq!(heard(true, &[b"data: ", &long, b"y\n\ndata: 1\n\n"]), ["1"]);
        assert!(heard(false, &[&long, b"y"]).is_empty());
        let mut tap = Tap::new(Heard::default(), Form::Stream);
        for _ in 0..100 {
            tap.push(&long);
        }
        assert!(tap.part.capacity() <= MAX_TEXT_BYTES);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_tell_the_same(
            stream in "(data: ?[a-z]{0,5}(\n|\r\n|\r){1,2}|: x\n|\n){0,8}[a-z:]{0,4}",
            cuts in proptest::collection::vec(1usize..6, 1..20),
        ) {
            let mut tap = Tap::new(Heard::default(), Form::Stream);
            let (mut rest, mut cut) = (stream.as_bytes(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                tap.push(piece);
                rest = after;
            }
            prop_assert_eq!(tap.end().0, heard(true, &[stream.as_bytes()]));
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            heard(true, &pieces);
            heard(false, &pieces);
        }
    }
}
