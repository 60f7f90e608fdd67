//! The end of what has gone to a client of an event stream: where it stands, so that what the gateway adds alters no event.

use bytes::BytesMut;
use memchr::{memchr2, memmem};
use std::sync::LazyLock;

/// The last bytes that went to the client: enough to know whether an event is open and whether `[DONE]` was said.
/// A copy, since a slice would keep a whole read buffer alive.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: BytesMut,
    /// A line said `[DONE]`, and ended.
    said_done: bool,
    /// A comment went out before the stream's first byte.
    began_with_comment: bool,
}

/// `data: [DONE]` fits with its line ends and a short comment behind it, in bytes.
const TAIL_BYTES: usize = 96;
/// What ends a stream of completions.
const DONE: &[u8] = b"[DONE]";
/// At the start of a stream, and only there, readers skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

static FIND_DONE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(DONE));

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn says_done(line: &[u8]) -> bool {
    line.strip_prefix(b"data:").is_some_and(|data| data.trim_ascii() == DONE)
}

impl Tail {
    /// Notes a piece that goes out.
    pub fn push(&mut self, piece: &[u8]) {
        self.said_done = self.said_done || self.ends_line_with_done(piece);
        if let Some(end) = piece.last_chunk::<TAIL_BYTES>() {
            self.bytes.clear();
            self.bytes.extend_from_slice(end);
        } else {
            self.bytes.extend_from_slice(piece);
            let excess = self.bytes.len().saturating_sub(TAIL_BYTES);
            self.bytes.copy_within(excess.., 0);
            self.bytes.truncate(TAIL_BYTES);
        }
    }

    /// Whether a line that says `[DONE]` ends within the piece that follows.
    fn ends_line_with_done(&self, piece: &[u8]) -> bool {
        let begun = self.bytes.rsplit(|byte| is_line_end(*byte)).next().unwrap_or_default();
        if !begun.is_empty()
            && let Some(at) = memchr2(b'\n', b'\r', &piece[..piece.len().min(TAIL_BYTES)])
            && says_done(&[begun, &piece[..at]].concat())
        {
            return true;
        }
        FIND_DONE.find_iter(piece).any(|at| {
            let begin = piece[..at].iter().rposition(|byte| is_line_end(*byte)).map_or(0, |end| end + 1);
            let is_whole = begin > 0 || begun.is_empty();
            let end = memchr2(b'\n', b'\r', &piece[at..]);
            is_whole && end.is_some_and(|end| says_done(&piece[begin..at + end]))
        })
    }

    /// Whether the last data of the stream was `[DONE]`.
    #[must_use]
    pub fn ends_with_done(&self) -> bool {
        let mut lines = self.bytes.rsplit(|byte| is_line_end(*byte));
        lines.find(|line| line.starts_with(b"data:")).is_some_and(says_done)
    }

    /// Whether `[DONE]` was said: the stream is over, whatever else comes.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.said_done || self.ends_with_done()
    }

    /// A comment with its blank line, in the line ends of the stream, that goes out now; nothing unless the stream is
    /// certainly between two events, and not over.
    ///
    /// A CR may be half of a CRLF whose LF has not come. Where the stream has ended its lines by bare CRs so far, a
    /// blank line by CR is an end all the same: the comment ends in a CR too, to which such an LF would belong then, so
    /// that readers see a blank line either way.
    #[must_use]
    pub fn take_comment(&mut self) -> Option<&'static [u8]> {
        if self.is_done() {
            return None;
        }
        let comment: &[u8] = match &self.bytes[..] {
            [] | [b'\n'] | [.., b'\n', b'\n'] => b": keep-alive\n\n",
            [b'\r', b'\n'] | [.., b'\n' | b'\r', b'\r', b'\n'] => b": keep-alive\r\n\r\n",
            [.., b'\r', b'\r'] if !self.bytes.contains(&b'\n') => b": keep-alive\r\r",
            _ => return None,
        };
        self.began_with_comment |= self.bytes.is_empty();
        Some(comment)
    }

    /// Where in the next piece a byte order mark ends that comes behind a comment. It is not at the stream's start any
    /// more, and would become part of the first line's name: a line end behind it makes it a line of its own, which
    /// readers skip.
    #[must_use]
    pub fn late_mark(&self, piece: &[u8]) -> Option<usize> {
        if !self.began_with_comment {
            return None;
        }
        let rest = BYTE_ORDER_MARK.strip_prefix(&self.bytes[..]).filter(|rest| !rest.is_empty())?;
        piece.starts_with(rest).then_some(rest.len())
    }

    /// What has to be sent before a new event: nothing on an event boundary, else the end of the line and a blank one.
    #[must_use]
    pub fn closing_of_event(&self) -> &'static [u8] {
        match &self.bytes[..] {
            [] | [.., b'\n', b'\n'] | [.., b'\n', b'\r', b'\n'] | [b'\n'] | [b'\r', b'\n'] => b"",
            // A CR that ends a blank line ends the event; the LF that may belong to it is made up for.
            [.., b'\r', b'\r'] | [.., b'\n', b'\r'] => b"\n",
            // The LF makes the line end whole, the second one is the blank line.
            [.., b'\r'] => b"\n\n",
            [.., b'\n'] => b"\n",
            _ => b"\n\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tail(pieces: &[&str]) -> Tail {
        let mut tail = Tail::default();
        pieces.iter().for_each(|piece| tail.push(piece.as_bytes()));
        tail
    }

    #[test]
    fn done_is_seen_however_it_is_cut() {
        assert!(tail(&["data: {}\n\ndata: [DONE]\n\n"]).ends_with_done());
        assert!(tail(&["data: [DO", "NE]", "\r\n", "\r\n"]).ends_with_done());
        assert!(tail(&["data:[DONE]\n\n: bye\n\n"]).ends_with_done());
        assert!(!tail(&["data: {\"t\":\"[DONE]\"}\n\n"]).ends_with_done());
        assert!(!tail(&["data: [DONE]\n\n", "data: {}\n\n"]).ends_with_done());
        assert!(!tail(&[]).ends_with_done());
    }

    #[test]
    fn half_events_are_closed_and_whole_ones_left_alone() {
        for (sent, closing) in [
            ("", ""),
            ("data: 1\n\n", ""),
            ("data: 1\r\n\r\n", ""),
            ("data: 1\n", "\n"),
            ("data: 1\r\n", "\n"),
            ("data: 1", "\n\n"),
            ("data: 1\r", "\n\n"),
            ("data: 1\r\n\r", "\n"),
            ("data: 1\r\r", "\n"),
        ] {
            assert_eq!(tail(&[sent]).closing_of_event(), closing.as_bytes(), "{sent:?}");
        }
    }

    #[test]
    fn done_is_remembered_whatever_comes_behind_it() {
        let long = format!(": {}\n\n", "x".repeat(2 * TAIL_BYTES));
        for done in [
            &["data: [DONE]\n\n"][..],
            &["data:[DONE]\r\r"],
            &["data: {}\n\nda", "ta: [DO", "NE] ", "\n"],
            &["data: [DONE]", "\n"],
            &["data: [DONE]"],
            &["data: \"[DONE]\"\n\ndata: [DONE]\n\n", "data: {}\n\n"],
        ] {
            assert!(tail(done).is_done(), "{done:?}");
            let all = [done, &["\n\n", &long]].concat();
            assert!(tail(&all).is_done() && tail(&[&all.concat()]).is_done(), "{done:?}");
            assert_eq!(tail(&all).take_comment(), None, "{done:?}");
        }
        for open in [
            &["data: {\"t\":\"[DONE]\"}\n\n"][..],
            &["data: x", "data: [DONE]\n\n"],
            &["data: [DONE]", "x\n\n"],
            &[": data: [DONE]\n\n"],
            &[],
        ] {
            assert!(!tail(open).is_done(), "{open:?}");
        }
    }

    #[test]
    fn comments_stand_between_events_only() {
        let sent =
            |sent: &str| tail(&[sent]).take_comment().map(|comment| String::from_utf8_lossy(comment).into_owned());
        for start in ["", "data: 1\n\n", "data: 1\r\n\n", ": x\n\n", "\n"] {
            assert_eq!(sent(start).as_deref(), Some(": keep-alive\n\n"), "{start:?}");
        }
        for start in ["data: 1\r\n\r\n", "data: 1\r\r\n"] {
            assert_eq!(sent(start).as_deref(), Some(": keep-alive\r\n\r\n"), "{start:?}");
        }
        assert_eq!(sent("data: 1\r\r").as_deref(), Some(": keep-alive\r\r"));
        for within in
            ["data: 1", "data: 1\n", "data: 1\r\n", "data: 1\r", "data: 1\r\n\r", "data: 1\n\r\r", "\r", ": x\n", "d"]
        {
            assert_eq!(sent(within), None, "{within:?}");
        }
    }

    /// What a reader makes of a stream, by the WHATWG rules: type and data of each event, the last id, the time to wait.
    fn read(stream: &[u8]) -> (Vec<(String, String)>, String, Option<u64>) {
        let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let (mut events, mut id, mut retry) = (Vec::new(), String::new(), None);
        let (mut kind, mut data) = (String::new(), String::new());
        let mut lines: Vec<&str> = text.split('\n').collect();
        lines.pop(); // what no line end has ended is no line
        for line in lines {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push((std::mem::take(&mut kind), std::mem::take(&mut data)));
                }
                kind.clear();
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "data" => data = format!("{data}{value}\n"),
                "event" => kind = value.to_owned(),
                "id" if !value.contains('\0') => id = value.to_owned(),
                "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => retry = value.parse().ok().or(retry),
                _ => {}
            }
        }
        (events, id, retry)
    }

    /// The stream as a client gets it whose upstream is silent behind every piece, and then for long once more.
    fn with_comments(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut tail, mut out) = (Tail::default(), Vec::new());
        let silence = |tail: &mut Tail, out: &mut Vec<u8>| {
            for _ in 0..2 {
                out.extend_from_slice(tail.take_comment().unwrap_or_default());
            }
        };
        silence(&mut tail, &mut out);
        for piece in pieces {
            let (mark, rest) = piece.split_at(tail.late_mark(piece).unwrap_or(0));
            out.extend_from_slice(mark);
            out.extend_from_slice(if mark.is_empty() { b"" } else { b"\n" });
            out.extend_from_slice(rest);
            tail.push(piece);
            silence(&mut tail, &mut out);
        }
        out
    }

    /// Texts in which lines end in every way and often.
    fn stream() -> impl Strategy<Value = String> {
        let lines =
            "(data: ?[a-c]?|data: \\[DONE\\]|event: x|: x|id: 1|retry: 5|x|\u{feff}|)(\n|\r\n|\r|\r\r|\n\n|\r\n\r\n|)";
        ("\u{feff}?", proptest::collection::vec(lines, 0..12))
            .prop_map(|(mark, lines)| format!("{mark}{}", lines.concat()))
    }

    proptest! {
        #[test]
        fn comments_change_no_event_wherever_pieces_end(stream in stream(), cuts in proptest::collection::vec(0..60_usize, 0..8)) {
            let bytes = stream.as_bytes();
            let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            ends.sort_unstable();
            let pieces: Vec<&[u8]> = ends.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            prop_assert_eq!(read(&with_comments(&pieces)), read(bytes), "{:?}", stream);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(read(&with_comments(&single)), read(bytes), "{:?}", stream);
        }

        #[test]
        fn done_does_not_depend_on_where_pieces_end(stream in stream(), cut in 0..60_usize) {
            let (first, second) = stream.as_bytes().split_at(cut.min(stream.len()));
            let mut pieces = Tail::default();
            pieces.push(first);
            pieces.push(second);
            let mut whole = Tail::default();
            whole.push(stream.as_bytes());
            prop_assert_eq!(pieces.is_done(), whole.is_done());
            // Nothing comes behind it.
            if whole.is_done() {
                prop_assert_eq!(whole.take_comment(), None);
            }
        }

        #[test]
        fn pieces_of_any_size_leave_the_same_tail(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8)) {
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.push(piece));
            let all = pieces.concat();
            prop_assert_eq!(&tail.bytes[..], &all[all.len().saturating_sub(TAIL_BYTES)..]);
        }
    }
}
