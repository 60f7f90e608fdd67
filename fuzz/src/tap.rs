//! What listens to an answer hears the same however it is cut, and of a stream what a plain reader of events does.
use super::{cuts, events, lines};
use ai_proxy::tap::{Form, Listener, Tap, WholeText};
use ai_proxy::tokens::Meter;

#[derive(Default)]
struct Heard {
    under_way: WholeText,
    texts: Vec<Vec<u8>>,
    only_usage: bool,
}

impl Listener for Heard {
    fn concerns(&self, events: &[u8]) -> bool {
        !self.only_usage || concerns_usage(events)
    }

    fn hear(&mut self, part: &[u8]) {
        self.under_way.push(part);
    }

    fn end_of_text(&mut self) {
        let text = self.under_way.take();
        self.texts.extend(text.filter(|text| !self.only_usage || concerns_usage(text)));
    }
}

fn concerns_usage(text: &[u8]) -> bool {
    text.windows(5).any(|window| window == b"usage")
}

fn heard(form: Form, pieces: &[&[u8]], only_usage: bool) -> Vec<Vec<u8>> {
    let mut tap = Tap::new(Heard { only_usage, ..Heard::default() }, form);
    pieces.iter().for_each(|piece| tap.push(piece));
    tap.end().texts
}

fn metered(form: Form, pieces: &[&[u8]]) -> Option<ai_proxy::tokens::Tokens> {
    let mut tap = Tap::new(Meter::new(), form);
    pieces.iter().for_each(|piece| tap.push(piece));
    tap.end().tokens()
}

/// Panics where the promise is broken.
pub fn check(input: &[u8]) {
    let (whole, open) = lines(input);
    let expected = events(whole.into_iter().chain((!open.is_empty()).then_some(open)));
    let of_usage: Vec<_> = expected.iter().filter(|text| concerns_usage(text)).cloned().collect();
    let length = Form::Json(Some(input.len() as u64));
    let stream = metered(Form::Stream, &[input]);
    let body = metered(length, &[input]);
    for pieces in cuts(input).iter().chain([&vec![input]]) {
        assert_eq!(heard(Form::Stream, pieces, false), expected);
        assert_eq!(heard(Form::Stream, pieces, true), of_usage);
        assert_eq!(metered(Form::Stream, pieces), stream);
        assert_eq!(metered(length, pieces), body);
        assert_eq!(metered(Form::Json(None), pieces), body);
    }
}
