//! Where a head of HTTP/1.1 ends.

use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Made once: to make one takes longer than to search a head.
static BLANK_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// How many bytes the head has that stands at the front; `None` while it is not whole.
pub(crate) fn length(input: &[u8]) -> Option<usize> {
    BLANK_LINE.find(input).map(|end| end + 4)
}
