//! HPACK (RFC 7541): heads of requests are read in every form that it has, as each contestant has its own; heads of
//! answers are written in the one way that Google's front ends do.

mod decoder;
mod encoder;
mod huffman;
mod table;

pub(super) use decoder::Decoder;
pub(super) use encoder::{Encoder, Field};

/// What both dynamic tables may take, in bytes, as long as nobody says otherwise.
const TABLE_BYTES: usize = 4096;

/// A head that cannot be read; nothing behind it on the connection can be, either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;
