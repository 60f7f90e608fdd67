//! An answer as an event stream: a chunk for each token, a function call whole in one, usage on the last.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::body::Step;
use super::reply::{Choice, Extra, Function, Google, Message, Reply, ToolCall, json};
use super::scenarios::{CallIndex, LineEnding, StreamQuirks, UsagePlace};
use super::tokens;

/// The steps of a stream, made as they are asked for.
pub(super) struct Stream {
    reply: Reply,
    quirks: StreamQuirks,
    pace: Duration,
    /// The deltas of one choice.
    deltas: Vec<Delta>,
    choice: usize,
    delta: usize,
    chunks: usize,
    ended: bool,
    ready: VecDeque<Step>,
    /// Events that are to be sent together.
    held: BytesMut,
    held_events: usize,
}

/// Long enough for a piece to leave by itself.
const BETWEEN_PIECES: Duration = Duration::from_micros(200);

/// What one chunk adds.
enum Delta {
    Thought(String),
    Text(String),
    Calls(Vec<ToolCall>),
    /// Nothing but the reason for the end.
    End,
}

impl Stream {
    /// Prepares a stream with `pace` between two chunks.
    pub(super) fn new(reply: Reply, quirks: StreamQuirks, pace: Duration) -> Self {
        let mut deltas = Vec::new();
        if let Some(thoughts) = &reply.thoughts {
            deltas.extend(tokens::split(thoughts).map(|token| Delta::Thought(token.to_owned())));
        }
        if let Some(text) = &reply.text {
            if quirks.one_event {
                deltas.push(Delta::Text(text.clone()));
            } else {
                deltas.extend(tokens::split(text).map(|token| Delta::Text(token.to_owned())));
            }
        }
        if quirks.fragments {
            for (at, call) in reply.calls.iter().enumerate() {
                deltas.extend(fragments(call, at, quirks.call_index).map(|fragment| Delta::Calls(vec![fragment])));
            }
        } else if !reply.calls.is_empty() {
            let calls = reply.calls.iter().enumerate();
            let mut calls = calls.map(|(at, call)| indexed(call.clone(), at, quirks.call_index));
            if quirks.calls_apart {
                deltas.extend(calls.map(|call| Delta::Calls(vec![call])));
            } else {
                deltas.push(Delta::Calls(calls.by_ref().collect()));
            }
        }
        if deltas.is_empty() || quirks.usage == UsagePlace::LastChunkApart {
            deltas.push(Delta::End);
        }
        Self {
            reply,
            quirks,
            pace,
            deltas,
            choice: 0,
            delta: 0,
            chunks: 0,
            ended: false,
            ready: VecDeque::new(),
            held: BytesMut::new(),
            held_events: 0,
        }
    }

    /// Puts bytes into `ready`, cut or put together as the quirks have it.
    fn send(&mut self, bytes: Bytes) {
        if let Some(size) = self.quirks.pieces {
            for at in (0..bytes.len()).step_by(size) {
                self.ready.push_back(Step::Send(bytes.slice(at..bytes.len().min(at + size))));
                // Without a pause they would leave together.
                self.ready.push_back(Step::Wait(BETWEEN_PIECES));
            }
        } else if let Some(together) = self.quirks.together {
            self.held.extend_from_slice(&bytes);
            self.held_events += 1;
            if self.held_events == together {
                self.flush();
            }
        } else {
            self.ready.push_back(Step::Send(bytes));
        }
    }

    /// Sends what was held back to be sent together.
    fn flush(&mut self) {
        self.held_events = 0;
        if !self.held.is_empty() {
            self.ready.push_back(Step::Send(self.held.split().freeze()));
        }
    }

    fn event(&self, data: &str) -> Bytes {
        let end = match self.quirks.line_ending {
            LineEnding::Lf => "\n\n",
            LineEnding::Crlf => "\r\n\r\n",
        };
        let blank = if self.quirks.without_blank { "" } else { " " };
        match &self.quirks.comment {
            None => Bytes::from(format!("data:{blank}{data}{end}")),
            Some(comment) => Bytes::from(format!("{comment}{}data:{blank}{data}{end}", &end[..end.len() / 2])),
        }
    }

    fn chunk(&self) -> String {
        let reply = &self.reply;
        let last = self.delta + 1 == self.deltas.len();
        let last_of_all = last && self.choice + 1 == reply.candidates;
        let message = |content, extra_content, tool_calls| Message {
            content,
            extra_content,
            refusal: None,
            role: "assistant",
            tool_calls,
        };
        let delta = match &self.deltas[self.delta] {
            Delta::Thought(token) => {
                let google = Google { thought: Some(true), ..Google::default() };
                message(Some(token.as_str()), Some(Extra { google }), &[][..])
            }
            Delta::Text(token) => message(Some(token.as_str()), None, &[]),
            Delta::Calls(calls) => message(None, None, calls.as_slice()),
            Delta::End => {
                Message { refusal: reply.refusal.as_deref(), ..message(reply.has_message.then_some(""), None, &[]) }
            }
        };
        let choice = Choice {
            delta: Some(delta),
            finish_reason: last.then_some(reply.finish_reason.as_str()),
            index: self.choice,
            logprobs: (),
            message: None,
        };
        let usage = match self.quirks.usage {
            UsagePlace::LastChunk | UsagePlace::LastChunkApart => last_of_all,
            UsagePlace::EveryChunk => true,
            UsagePlace::ExtraChunk | UsagePlace::Nowhere => false,
        };
        json(&reply.envelope("chat.completion.chunk", vec![choice], usage.then_some(&reply.usage)))
    }

    /// Puts the steps of the next chunk, or of the end, into `ready`.
    fn advance(&mut self) {
        if self.ended {
            return;
        }
        let is_over = self.choice == self.reply.candidates;
        // One that is too short for it breaks where it would end.
        if self.quirks.cut_after.is_some_and(|after| after == self.chunks || is_over) {
            self.ended = true;
            self.flush();
            match self.quirks.tail.clone() {
                Some(tail) => self.ready.push_back(Step::Send(tail.into())),
                None => self.ready.push_back(Step::Cut),
            }
            return;
        }
        if is_over {
            self.ended = true;
            if self.quirks.usage == UsagePlace::ExtraChunk {
                let reply = &self.reply;
                let chunk = json(&reply.envelope("chat.completion.chunk", Vec::new(), Some(&reply.usage)));
                self.send(self.event(&chunk));
            }
            match self.quirks.tail.clone() {
                Some(tail) => self.send(tail.into()),
                None => self.send(self.event("[DONE]")),
            }
            self.flush();
            return;
        }
        if self.chunks > 0 {
            let stall = Duration::from_millis(if self.chunks == 1 { self.quirks.stall_ms } else { 0 });
            self.ready.push_back(Step::Wait(self.pace + stall));
        }
        let chunk = self.chunk();
        self.send(self.event(&chunk));
        self.chunks += 1;
        self.delta += 1;
        if self.delta == self.deltas.len() {
            self.delta = 0;
            self.choice += 1;
        }
    }
}

fn indexed(mut call: ToolCall, at: usize, index: CallIndex) -> ToolCall {
    call.index = match index {
        CallIndex::Present => Some(at),
        CallIndex::Absent => None,
        CallIndex::Zero => Some(0),
    };
    call
}

/// A call as Google streams its arguments: id, name and type are in every fragment, and the opening one has the index
/// of its neighbour.
fn fragments(call: &ToolCall, at: usize, index: CallIndex) -> impl Iterator<Item = ToolCall> {
    let with = |arguments: &str, extra_content| ToolCall {
        extra_content,
        function: Function { arguments: arguments.to_owned(), name: call.function.name.clone() },
        ..call.clone()
    };
    let opening = indexed(with("", call.extra_content.clone()), at ^ 1, index);
    let rest: Vec<ToolCall> =
        tokens::split(&call.function.arguments).map(|fragment| indexed(with(fragment, None), at, index)).collect();
    std::iter::once(opening).chain(rest)
}

impl Iterator for Stream {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        while self.ready.is_empty() && !self.ended {
            self.advance();
        }
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Usage;

    fn reply(text: Option<&str>, calls: usize) -> Reply {
        let call = ToolCall {
            extra_content: None,
            function: Function { arguments: "{}".to_owned(), name: "f".to_owned() },
            id: "1".to_owned(),
            index: None,
            kind: "function",
        };
        Reply {
            id: "i".to_owned(),
            created: 1,
            model: "google/m".to_owned(),
            candidates: 1,
            thoughts: None,
            text: text.map(str::to_owned),
            refusal: None,
            calls: vec![call; calls],
            finish_reason: "stop".to_owned(),
            has_message: true,
            usage: Usage::new(1, 2, 0, 0, "ON_DEMAND"),
        }
    }

    fn sent(reply: Reply, quirks: StreamQuirks) -> String {
        Stream::new(reply, quirks, Duration::ZERO)
            .filter_map(|step| match step {
                Step::Send(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
                Step::Wait(_) => None,
                _ => Some("CUT".to_owned()),
            })
            .collect()
    }

    #[test]
    fn text_comes_token_by_token() {
        assert_eq!(
            sent(reply(Some("Hi there"), 0), StreamQuirks::default()),
            concat!(
                r#"data: {"choices":[{"delta":{"content":"Hi","role":"assistant"},"index":0,"logprobs":null}],"created":1,"id":"i","model":"google/m","object":"chat.completion.chunk","system_fingerprint":""}"#,
                "\n\n",
                r#"data: {"choices":[{"delta":{"content":" there","role":"assistant"},"finish_reason":"stop","index":0,"logprobs":null}],"created":1,"id":"i","model":"google/m","object":"chat.completion.chunk","system_fingerprint":"","usage":{"completion_tokens":2,"extra_properties":{"google":{"traffic_type":"ON_DEMAND"}},"prompt_tokens":1,"total_tokens":3}}"#,
                "\n\ndata: [DONE]\n\n"
            )
        );
    }

    #[test]
    fn calls_come_whole_with_their_indexes() {
        let stream = sent(reply(None, 2), StreamQuirks::default());
        assert!(stream.contains(
            r#""delta":{"role":"assistant","tool_calls":[{"function":{"arguments":"{}","name":"f"},"id":"1","index":0,"type":"function"},{"function":{"arguments":"{}","name":"f"},"id":"1","index":1,"type":"function"}]}"#
        ));
        assert_eq!(stream.matches("data: ").count(), 2);
    }

    #[test]
    fn arguments_come_in_fragments_where_asked_for() {
        let quirks = StreamQuirks { fragments: true, ..StreamQuirks::default() };
        let stream = sent(reply(None, 2), quirks);
        let parts: Vec<(&str, &str)> = stream
            .split(r#""arguments":""#)
            .skip(1)
            .map(|part| (part.split('"').next().unwrap(), part.split(r#""index":"#).nth(1).unwrap().get(..1).unwrap()))
            .collect();
        assert_eq!(parts, [("", "1"), ("{", "0"), ("}", "0"), ("", "0"), ("{", "1"), ("}", "1")]);
        assert_eq!(stream.matches(r#""id":"1""#).count(), 6);
        assert_eq!(stream.matches("finish_reason").count(), 1);
    }

    #[test]
    fn quirks_change_the_framing() {
        let quirks = |change: fn(&mut StreamQuirks)| {
            let mut quirks = StreamQuirks::default();
            change(&mut quirks);
            sent(reply(Some("Hi there"), 0), quirks)
        };
        assert!(quirks(|q| q.line_ending = LineEnding::Crlf).ends_with("\r\n\r\ndata: [DONE]\r\n\r\n"));
        assert!(quirks(|q| q.cut_after = Some(1)).ends_with("\n\nCUT"));
        let short = quirks(|q| q.cut_after = Some(100));
        assert!(short.ends_with("}\n\nCUT"), "{short}");
        assert!(quirks(|q| q.tail = Some("{}".to_owned())).ends_with("\n\n{}"));
        assert_eq!(quirks(|q| q.usage = UsagePlace::EveryChunk).matches("usage").count(), 2);
        assert_eq!(quirks(|q| q.usage = UsagePlace::Nowhere).matches("usage").count(), 0);
        assert!(quirks(|q| q.usage = UsagePlace::ExtraChunk).contains(r#""choices":[],"#));
        assert_eq!(quirks(|q| q.usage = UsagePlace::LastChunkApart).matches("data: ").count(), 4);
    }
}
