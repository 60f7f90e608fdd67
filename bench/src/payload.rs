//! What is asked and what is answered, and whether it arrived to the last byte.

use bytes::{BufMut, Bytes, BytesMut};

/// The key that every contestant asks for.
pub(crate) const KEY: &str = "sk_live_bench-key-0123456789abcdef0123456789";
/// A key that nobody has issued.
const WRONG_KEY: &str = "sk_live_bench-key-0123456789abcdef0123456780";
/// The clients' path.
const PATH: &str = "/v1/chat/completions";
/// The model's name as clients write it.
const ALIAS: &[u8] = b"flash";

/// In what form upstream gets a request, which shows who has passed it on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) path: &'static str,
    pub(crate) bearer: &'static str,
    model: &'static [u8],
}

/// The gateway has its bearer from the metadata server, and puts the model's whole name in.
pub(crate) const REWRITTEN: Form = Form {
    path: "/v1/projects/bench/locations/global/endpoints/openapi/chat/completions",
    bearer: "Bearer ya29.bench-token-of-a-usual-length-0123456789abcdef0123456789abcdef0123456789",
    model: b"google/gemini-2.5-flash",
};
/// The others have theirs from the benchmark, and look into no body.
pub(crate) const PASSED: Form = Form {
    path: "/v1/projects/other/locations/global/endpoints/openapi/chat/completions",
    bearer: "Bearer ya29.fixed-token-of-a-usual-length-0123456789abcdef0123456789abcdef0123456789",
    model: ALIAS,
};

impl Form {
    /// Which one it is, by its path or another sign.
    pub(crate) fn find(is_it: impl Fn(&Self) -> bool) -> Option<&'static Self> {
        [&REWRITTEN, &PASSED].into_iter().find(|form| is_it(form))
    }
}

/// What stands before the model's name.
const BEFORE_MODEL: &[u8] = b"{\"model\":\"";

/// What prompts are made of: prose with line ends, quotes, escapes and letters beyond ASCII, as chats have them.
const PROSE: &str = "She said: \\\"Every gateway is a wall with a door in it.\\\" The door was open, \u{2014} na\u{ef}vely so.\\n\
    for (let i = 0; i < n; i++) {\\n\\tsum += \\\"cost\\\".length * i; // \\u00e9t\\u00e9\\n}\\nAnd then, without a word, \
    the lights went out in the whole valley, one house after the other, until only the mill was left.\\n\\n";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A client with the key.
    Client,
    /// One with another.
    Stranger,
    /// Nobody stands in between: a client that has what upstream wants.
    Direct,
}

/// One question, as it goes over the wire and as upstream has to get it.
pub(crate) struct Question {
    /// Head and body.
    pub(crate) request: Bytes,
    /// The body from behind the model's name on.
    pub(crate) tail: Bytes,
}

impl Question {
    /// A question whose body has exactly so many bytes.
    pub(crate) fn new(body_bytes: usize, stream: bool) -> Self {
        Self::of(Asker::Client, body_bytes, stream)
    }

    /// The same of somebody else.
    pub(crate) fn of(asker: Asker, body_bytes: usize, stream: bool) -> Self {
        let begin = format!("\",\"stream\":{stream},\"messages\":[{{\"role\":\"user\",\"content\":\"");
        let end = "\"}]}";
        let fixed = BEFORE_MODEL.len() + ALIAS.len() + begin.len() + end.len();
        let mut tail = BytesMut::with_capacity(body_bytes);
        tail.put_slice(begin.as_bytes());
        let wanted = tail.len() + body_bytes.saturating_sub(fixed);
        while wanted - tail.len() >= PROSE.len() {
            tail.put_slice(PROSE.as_bytes());
        }
        tail.put_bytes(b'.', wanted - tail.len());
        tail.put_slice(end.as_bytes());
        let tail = tail.freeze();
        let length = BEFORE_MODEL.len() + ALIAS.len() + tail.len();
        let (path, key, authorization) = match asker {
            Asker::Client => (PATH, KEY, format!("Bearer {KEY}")),
            Asker::Stranger => (PATH, WRONG_KEY, format!("Bearer {WRONG_KEY}")),
            Asker::Direct => (PASSED.path, KEY, PASSED.bearer.to_owned()),
        };
        // A head as OpenAI's SDK for Python sends it.
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway.example\r\naccept: application/json\r\n\
             content-type: application/json\r\nuser-agent: OpenAI/Python 2.0.0\r\nx-stainless-lang: python\r\n\
             x-stainless-package-version: 2.0.0\r\nx-stainless-os: Linux\r\nx-stainless-arch: x64\r\n\
             x-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.12.0\r\nauthorization: {authorization}\r\n\
             x-api-key: {key}\r\ncontent-length: {length}\r\n\r\n"
        );
        let mut request = BytesMut::with_capacity(head.len() + length);
        request.put_slice(head.as_bytes());
        request.put_slice(BEFORE_MODEL);
        request.put_slice(ALIAS);
        request.put_slice(&tail);
        Self { request: request.freeze(), tail }
    }
}

/// Compares a question that arrives in pieces with the one that was asked.
pub(crate) struct QuestionCheck {
    /// `None` is wrong whatever comes.
    form: Option<&'static Form>,
    tail: Bytes,
    /// What came until the model's name was whole.
    start: Vec<u8>,
    /// How much of the tail has come; `None` before the name's end.
    seen: Option<usize>,
    wrong: bool,
}

impl QuestionCheck {
    /// The model's name has to be that of the form.
    pub(crate) fn new(form: Option<&'static Form>, tail: Bytes) -> Self {
        Self { form, tail, start: Vec::with_capacity(64), seen: None, wrong: false }
    }

    pub(crate) fn push(&mut self, mut piece: &[u8]) {
        if self.seen.is_none() {
            // The name ends at the third quote.
            while let Some((&byte, rest)) = piece.split_first() {
                if byte == b'"' && self.start.len() >= BEFORE_MODEL.len() {
                    let model = self.start.strip_prefix(BEFORE_MODEL);
                    self.wrong |= model.is_none() || model != self.form.map(|form| form.model);
                    self.seen = Some(0);
                    break;
                }
                self.start.push(byte);
                piece = rest;
                if self.start.len() > 60 {
                    self.wrong = true;
                    return;
                }
            }
        }
        if let Some(seen) = self.seen.filter(|_| !piece.is_empty()) {
            self.wrong |= self.tail.get(seen..seen + piece.len()) != Some(piece);
            self.seen = Some(seen + piece.len());
        }
    }

    /// Whether all came, and nothing else.
    pub(crate) fn is_right(&self) -> bool {
        !self.wrong && self.seen == Some(self.tail.len())
    }
}

/// The one answer without a stream: a kilobyte, as Vertex AI writes a short one.
pub(crate) fn answer() -> Bytes {
    let start = "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"logprobs\":null,\"message\":{\"content\":\"";
    let end = "\",\"role\":\"assistant\"}}],\"created\":1750000000,\"id\":\"bench\",\"model\":\"google/gemini-2.5-flash\",\
        \"object\":\"chat.completion\",\"system_fingerprint\":\"\",\"usage\":{\"completion_tokens\":90,\
        \"completion_tokens_details\":{\"reasoning_tokens\":504},\"extra_properties\":{\"google\":{\"traffic_type\":\
        \"ON_DEMAND\"}},\"prompt_tokens\":200,\"total_tokens\":794}}";
    let text = 1024 - start.len() - end.len();
    let prose = &PROSE[..PROSE.len().min(text)];
    Bytes::from(format!("{start}{prose}{}{end}", ".".repeat(text - prose.len())))
}

/// Bytes of one event, its blank line included: what Vertex AI sends for a handful of tokens.
pub(crate) const EVENT_BYTES: usize = 210;
/// How a stream ends.
pub(crate) const DONE: &[u8] = b"data: [DONE]\n\n";
/// What an event begins with; its number follows, then its time.
const EVENT_START: &[u8] = b"data: {\"id\":\"bench\",\"created\":\"";
const NUMBER_AT: usize = EVENT_START.len();
const TIME_AT: usize = NUMBER_AT + DIGITS;
const DIGITS: usize = 16;

/// Events all of the same length, with their number and the nanosecond at which they left in them.
pub(crate) struct Events {
    template: [u8; EVENT_BYTES],
}

impl Events {
    pub(crate) fn new() -> Self {
        let mut template = [b'.'; EVENT_BYTES];
        template[..NUMBER_AT].copy_from_slice(EVENT_START);
        template[NUMBER_AT..TIME_AT + DIGITS].fill(b'0');
        let end = b"\"}}]}\n\n";
        let middle = b"\",\"model\":\"google/gemini-2.5-flash\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"";
        template[TIME_AT + DIGITS..][..middle.len()].copy_from_slice(middle);
        template[EVENT_BYTES - end.len()..].copy_from_slice(end);
        Self { template }
    }

    /// The event with this number that leaves at this time, appended.
    pub(crate) fn write(&self, number: u64, nanoseconds: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.template);
        write_digits(number, &mut out[start + NUMBER_AT..][..DIGITS]);
        write_digits(nanoseconds, &mut out[start + TIME_AT..][..DIGITS]);
    }

    /// When the event left, if it is the one with this number to the last byte.
    pub(crate) fn check(&self, event: &[u8], number: u64) -> Option<u64> {
        let (front, back) = (NUMBER_AT, TIME_AT + DIGITS);
        let same = event.len() == EVENT_BYTES
            && event[..front] == self.template[..front]
            && event[back..] == self.template[back..]
            && read_digits(&event[NUMBER_AT..][..DIGITS]) == Some(number);
        if same { read_digits(&event[TIME_AT..][..DIGITS]) } else { None }
    }
}

fn write_digits(mut number: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn read_digits(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_have_the_size_asked_for_and_are_json() {
        for bytes in [1024, 100_000] {
            let question = Question::new(bytes, true);
            let end = memchr::memmem::find(&question.request, b"\r\n\r\n").unwrap() + 4;
            let body = &question.request[end..];
            assert_eq!(body.len(), bytes);
            let value: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!((&value["model"], &value["stream"]), (&"flash".into(), &true.into()));
        }
        assert_eq!(answer().len(), 1024);
        assert!(serde_json::from_slice::<serde_json::Value>(&answer()).is_ok());
    }

    #[test]
    fn only_who_stands_in_between_has_what_upstream_wants() {
        let has = |asker, text: &str| {
            let request = Question::of(asker, 1024, false).request;
            memchr::memmem::find(&request, text.as_bytes()).is_some()
        };
        for (asker, has_key, has_bearer) in
            [(Asker::Client, true, false), (Asker::Stranger, false, false), (Asker::Direct, true, true)]
        {
            assert_eq!((has(asker, KEY), has(asker, PASSED.bearer)), (has_key, has_bearer), "{asker:?}");
            assert!(!has(asker, REWRITTEN.bearer));
        }
        let lengths = |form: &Form| (form.path.len(), form.bearer.len());
        assert_eq!((lengths(&REWRITTEN), WRONG_KEY.len()), (lengths(&PASSED), KEY.len()), "nobody has less to do");
    }

    #[test]
    fn a_changed_question_is_noticed() {
        let question = Question::new(1024, false);
        let right_in = |form, body: &[u8], cut: usize| {
            let mut check = QuestionCheck::new(form, question.tail.clone());
            body.chunks(cut).for_each(|piece| check.push(piece));
            check.is_right()
        };
        let right = |body: &[u8], cut| right_in(Some(&PASSED), body, cut);
        let body = [b"{\"model\":\"flash" as &[u8], &question.tail].concat();
        let sent_on = [b"{\"model\":\"google/gemini-2.5-flash" as &[u8], &question.tail].concat();
        for cut in [1, 7, 2000] {
            assert!(right(&body, cut) && right_in(Some(&REWRITTEN), &sent_on, cut));
            assert!(!right_in(None, &body, cut));
            assert!(!right_in(Some(&REWRITTEN), &body, cut), "the gateway has not put the name in");
            assert!(!right(&sent_on, cut), "who looks into no body has changed it");
            assert!(!right(&body[..1023], cut), "one byte short");
            assert!(!right(&[&body[..], b" "].concat(), cut), "one byte more");
            assert!(!right(&[b"{\"model\":\"other" as &[u8], &question.tail].concat(), cut));
            let mut flipped = body.clone();
            flipped[500] ^= 1;
            assert!(!right(&flipped, cut));
        }
    }

    #[test]
    fn a_changed_event_is_noticed() {
        let (events, mut event) = (Events::new(), Vec::new());
        events.write(7, 12345, &mut event);
        assert_eq!(events.check(&event, 7), Some(12345));
        assert_eq!(events.check(&event, 8), None);
        let json = &event["data: ".len()..];
        assert!(serde_json::from_slice::<serde_json::Value>(json).is_ok(), "{}", String::from_utf8_lossy(json));
        for at in [0, 20, 100, 209] {
            let mut changed = event.clone();
            changed[at] ^= 1;
            assert_eq!(events.check(&changed, 7), None, "byte {at}");
        }
    }
}
