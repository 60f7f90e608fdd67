//! A look at an answer on its way to the client, which can neither hold back, alter nor fail it.
//!
//! Each piece of the body is shown to the tap on its way. It finds the JSON texts in them, the data of each event of a
//! stream or a whole body, and tells them part by part to its listeners, which keep what they need and no more. Pieces
//! of whole events that concern nobody, nearly all of a stream, cost a search and nothing else. A text has been told
//! before its last byte leaves, since the client's next request may build on it; nothing ever waits for that.

/// A text larger than this is not put together, in bytes.
const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// What begins the lines of an event that matter.
const DATA: &[u8] = b"data:";

/// Hears the JSON texts of an answer. Nothing is promised about their form.
pub trait Listener: Send {
    /// Whether there can be something to hear in these whole events. Wrong only by being true too often.
    fn concerns(&self, events: &[u8]) -> bool;
    /// The next part of a text.
    fn hear(&mut self, part: &[u8]);
    /// The text that was heard is whole, as far as it came.
    fn end_of_text(&mut self);
}

impl<L: Listener> Listener for Option<L> {
    fn concerns(&self, events: &[u8]) -> bool {
        self.as_ref().is_some_and(|listener| listener.concerns(events))
    }

    fn hear(&mut self, part: &[u8]) {
        if let Some(listener) = self {
            listener.hear(part);
        }
    }

    fn end_of_text(&mut self) {
        if let Some(listener) = self {
            listener.end_of_text();
        }
    }
}

impl<A: Listener, B: Listener> Listener for (A, B) {
    fn concerns(&self, events: &[u8]) -> bool {
        self.0.concerns(events) || self.1.concerns(events)
    }

    fn hear(&mut self, part: &[u8]) {
        self.0.hear(part);
        self.1.hear(part);
    }

    fn end_of_text(&mut self) {
        self.0.end_of_text();
        self.1.end_of_text();
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Events.
    Stream,
    /// One JSON body of so many bytes, where that is known.
    Json(Option<u64>),
}

/// The tap on one answer.
#[derive(Debug)]
pub struct Tap<L> {
    listener: L,
    form: Form,
    line: Line,
    /// The last byte was a carriage return: a line feed belongs to it.
    after_cr: bool,
    /// A text has begun.
    in_text: bool,
}

/// Where in a line of an event stream the last piece ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// At its start, after so many bytes of [`DATA`].
    Start(usize),
    /// In data.
    Data,
    /// In something else: a comment, an event's name.
    Other,
}

impl<L: Listener> Tap<L> {
    /// A tap on one answer.
    pub fn new(listener: L, form: Form) -> Self {
        Self { listener, form, line: Line::Start(0), after_cr: false, in_text: false }
    }

    /// Shows the next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        match &mut self.form {
            Form::Stream => self.push_events(piece),
            Form::Json(left) => {
                *left = left.map(|left| left.saturating_sub(piece.len() as u64));
                let is_last = *left == Some(0);
                self.in_text |= !piece.is_empty();
                self.listener.hear(piece);
                if is_last {
                    self.end_text();
                }
            }
        }
    }

    /// What has listened so far.
    pub fn listener(&self) -> &L {
        &self.listener
    }

    /// Ends the answer.
    pub fn end(mut self) -> L {
        self.end_text();
        self.listener
    }

    fn push_events(&mut self, mut piece: &[u8]) {
        let whole_events =
            !self.in_text && self.line == Line::Start(0) && (piece.ends_with(b"\n\n") || piece.ends_with(b"\r\n\r\n"));
        if whole_events && !self.listener.concerns(piece) {
            self.after_cr = false;
            return;
        }
        loop {
            if !piece.is_empty() && std::mem::take(&mut self.after_cr) {
                piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            }
            let Some(at) = memchr::memchr2(b'\n', b'\r', piece) else { return self.push_line(piece) };
            let (line, rest) = piece.split_at(at);
            self.push_line(line);
            self.end_line();
            self.after_cr = rest.starts_with(b"\r");
            piece = rest.get(1..).unwrap_or_default();
        }
    }

    /// A part of a line, without its end.
    fn push_line(&mut self, part: &[u8]) {
        match self.line {
            Line::Data => self.listener.hear(part),
            Line::Other => {}
            Line::Start(known) => {
                let expected = DATA.get(known..).unwrap_or_default();
                if let Some(data) = part.strip_prefix(expected) {
                    if std::mem::replace(&mut self.in_text, true) {
                        // Several lines of data are one text.
                        self.listener.hear(b"\n");
                    }
                    self.line = Line::Data;
                    self.listener.hear(data);
                } else if expected.starts_with(part) {
                    self.line = Line::Start(known + part.len());
                } else {
                    self.line = Line::Other;
                }
            }
        }
    }

    /// A blank line ends an event, and with it its text.
    fn end_line(&mut self) {
        if self.line == Line::Start(0) {
            self.end_text();
        }
        self.line = Line::Start(0);
    }

    fn end_text(&mut self) {
        if std::mem::take(&mut self.in_text) {
            self.listener.end_of_text();
        }
    }
}

/// A text put together, for listeners that need it whole. A copy: a slice of a piece would pin a whole read buffer.
#[derive(Debug, Default)]
pub struct WholeText {
    bytes: Vec<u8>,
    is_too_large: bool,
}

impl WholeText {
    /// Adds a part.
    pub fn push(&mut self, part: &[u8]) {
        if self.is_too_large || self.bytes.len() + part.len() > MAX_TEXT_BYTES {
            self.is_too_large = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(part);
        }
    }

    /// The whole text, unless it was too large; the next part begins another one.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let bytes = std::mem::take(&mut self.bytes);
        (!std::mem::take(&mut self.is_too_large)).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hears all texts, or passes over whole events without an `x`.
    #[derive(Debug, Default)]
    struct Heard {
        under_way: WholeText,
        texts: Vec<String>,
        only_x: bool,
    }

    impl Listener for Heard {
        fn concerns(&self, events: &[u8]) -> bool {
            !self.only_x || events.contains(&b'x')
        }

        fn hear(&mut self, part: &[u8]) {
            self.under_way.push(part);
        }

        fn end_of_text(&mut self) {
            let text = self.under_way.take();
            self.texts.extend(text.map(|text| String::from_utf8_lossy(text.trim_ascii()).into_owned()));
        }
    }

    fn heard(form: Form, pieces: &[&[u8]]) -> Vec<String> {
        let mut tap = Tap::new(Heard::default(), form);
        pieces.iter().for_each(|piece| tap.push(piece));
        tap.end().texts
    }

    #[test]
    fn events_are_told_whatever_their_line_ends() {
        let stream =
            b": hi\ndata: {\"a\":1}\n\ndata:{\"b\":2}\r\n\r\nevent: x\rdata:  3\r\rdata: 4\r\ndata\r\ndata: 5\n\ndata: [DONE]";
        let texts = ["{\"a\":1}", "{\"b\":2}", "3", "4\n 5", "[DONE]"];
        assert_eq!(heard(Form::Stream, &[stream]), texts);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(heard(Form::Stream, &bytes), texts);
        assert_eq!(heard(Form::Json(None), &[b"{\"a\":", b"1}"]), ["{\"a\":1}"]);
        assert!(heard(Form::Json(None), &[]).is_empty());
    }

    #[test]
    fn a_counted_body_is_told_with_its_last_byte_and_once() {
        let mut tap = Tap::new(Heard::default(), Form::Json(Some(3)));
        tap.push(b"12");
        assert!(tap.listener.texts.is_empty());
        tap.push(b"3");
        assert_eq!(tap.listener.texts, ["123"]);
        assert_eq!(tap.end().texts, ["123"]);
    }

    #[test]
    fn what_is_too_large_is_not_put_together_and_the_rest_is() {
        let long = vec![b'x'; MAX_TEXT_BYTES];
        assert_eq!(heard(Form::Stream, &[b"data: ", &long, b"y\n\ndata: 1\n\n"]), ["1"]);
        assert!(heard(Form::Json(None), &[&long, b"y"]).is_empty());
        let mut text = WholeText::default();
        for _ in 0..100 {
            text.push(&long);
            assert!(text.bytes.capacity() <= MAX_TEXT_BYTES);
        }
    }

    #[test]
    fn only_whole_events_are_passed_over() {
        let mut tap = Tap::new(Heard { only_x: true, ..Heard::default() }, Form::Stream);
        // The event goes on in the next piece, and there it concerns somebody.
        for piece in [b"data: 1\n\n", &b"data: 2\n"[..], b"data: x\n\n", b"data: 3\n\n"] {
            tap.push(piece);
        }
        assert_eq!(tap.end().texts, ["2\n x"]);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_tell_the_same(
            stream in "(data: ?[a-z]{0,5}(\n|\r\n|\r){1,2}|: x\n|\n|\r\n){0,8}[a-z:]{0,4}",
            cuts in proptest::collection::vec(1usize..12, 1..20),
            only_x: bool,
        ) {
            let mut tap = Tap::new(Heard { only_x, ..Heard::default() }, Form::Stream);
            let (mut rest, mut cut) = (stream.as_bytes(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                tap.push(piece);
                rest = after;
            }
            let matters = |text: &String| !only_x || text.contains('x');
            let told: Vec<String> = tap.end().texts.into_iter().filter(matters).collect();
            let expected: Vec<String> = heard(Form::Stream, &[stream.as_bytes()]).into_iter().filter(matters).collect();
            prop_assert_eq!(told, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            heard(Form::Stream, &pieces);
            heard(Form::Json(None), &pieces);
        }
    }
}
