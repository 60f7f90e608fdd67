//! A stream may break anywhere: the event that is appended is read as one of its own, and what came before stays.
use super::{cuts, events, lines};

use ai_proxy::relay::Tail;

fn tail_of(pieces: &[&[u8]]) -> Tail {
    let mut tail = Tail::default();
    pieces.iter().for_each(|piece| tail.push(piece));
    tail
}

/// Panics where the promise is broken.
pub fn check(sent: &[u8]) {
    let whole = tail_of(&[sent]);
    for pieces in cuts(sent) {
        let tail = tail_of(&pieces);
        assert_eq!(tail.closing_of_event(), whole.closing_of_event());
        assert_eq!(tail.ends_with_done(), whole.ends_with_done());
    }
    let read = |stream: &[u8]| {
        let (lines, open) = lines(stream);
        events(lines.into_iter().chain([open]))
    };
    let mut expected = read(sent);
    expected.push(b" error".to_vec());
    let stream = [sent, whole.closing_of_event(), b"data: error\n\n"].concat();
    assert_eq!(read(&stream), expected);
}
