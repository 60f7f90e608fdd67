//! Frames of HTTP/2 (RFC 9113): their head of nine bytes, and the numbers that stand in them.

/// What a client says before its first frame.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const HEAD_BYTES: usize = 9;
/// The largest payload, and the window, of who has said nothing else of them.
pub(super) const PAYLOAD_BYTES: usize = 16 * 1024;
pub(super) const WINDOW: u32 = 65_535;
/// No window may grow beyond this.
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;

pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const PRIORITY: u8 = 2;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PUSH_PROMISE: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    /// Of SETTINGS and PING.
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

pub(super) mod setting {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 5;
}

/// Why a connection or a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Compression = 9,
}

/// What stands before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// Reads the one that stands at the front; `None` while it is not whole.
    pub(super) fn read(input: &[u8]) -> Option<Self> {
        let &[l0, l1, l2, kind, flags, s0, s1, s2, s3] = input.first_chunk::<HEAD_BYTES>()?;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) })
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        let [_, l0, l1, l2] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        out.extend_from_slice(&[l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]);
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding, and without the priority that HEADERS may begin with.
    pub(super) fn content(self, mut payload: &[u8]) -> Result<&[u8], Code> {
        let mut padding = 0;
        if self.has(flag::PADDED) {
            let (&length, rest) = payload.split_first().ok_or(Code::FrameSize)?;
            (padding, payload) = (usize::from(length), rest);
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            payload = payload.get(5..).ok_or(Code::FrameSize)?;
        }
        payload.len().checked_sub(padding).map(|end| &payload[..end]).ok_or(Code::Protocol)
    }
}

/// Sets the payload's length in a head that stands at the front.
pub(super) fn set_length(frame: &mut [u8], length: usize) {
    frame[..3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
}

/// The only number of a payload, all of whose bits but the first count.
pub(super) fn number(payload: &[u8]) -> Result<u32, Code> {
    let bytes = payload.try_into().map_err(|_| Code::FrameSize)?;
    Ok(u32::from_be_bytes(bytes) & 0x7fff_ffff)
}

/// Appends a frame whose payload is one number.
pub(super) fn write_number(kind: u8, stream: u32, number: u32, out: &mut Vec<u8>) {
    Head { length: 4, kind, flags: 0, stream }.write(out);
    out.extend_from_slice(&number.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back() {
        let head = Head { length: 0x01_02_03, kind: 9, flags: 0x2d, stream: 0x7f00_0001 };
        let mut wire = Vec::new();
        head.write(&mut wire);
        assert_eq!(Head::read(&wire), Some(head));
        assert_eq!(Head::read(&wire[..8]), None);
        wire[5] |= 0x80;
        assert_eq!(Head::read(&wire), Some(head), "the reserved bit counts for nothing");
    }

    #[test]
    fn padding_and_priority_go() {
        let content = |kind, flags, payload| Head { length: 0, kind, flags, stream: 1 }.content(payload);
        assert_eq!(content(kind::DATA, 0, b"abc"), Ok(&b"abc"[..]));
        assert_eq!(content(kind::DATA, flag::PADDED, b"\x02abc"), Ok(&b"a"[..]));
        assert_eq!(content(kind::DATA, flag::PADDED, b"\x03abc"), Ok(&b""[..]));
        assert_eq!(content(kind::DATA, flag::PADDED, b"\x04abc"), Err(Code::Protocol));
        assert_eq!(content(kind::DATA, flag::PADDED, b""), Err(Code::FrameSize));
        assert_eq!(content(kind::HEADERS, flag::PADDED | flag::PRIORITY, b"\x01.....abc"), Ok(&b"ab"[..]));
        assert_eq!(content(kind::HEADERS, flag::PRIORITY, b"...."), Err(Code::FrameSize));
    }

    #[test]
    fn a_number_has_four_bytes() {
        assert_eq!(number(&[0x80, 0, 0, 1]), Ok(1));
        assert_eq!(number(&[0, 0, 1]), Err(Code::FrameSize));
    }
}
