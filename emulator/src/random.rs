//! Identifiers in the shapes that Google's have.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Bytes from the system's random source.
pub(super) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system's random source does not fail after start");
    bytes
}

/// The id of an answer: 22 or 23 characters of URL-safe base64.
pub(super) fn response_id() -> String {
    let bytes = bytes::<17>();
    let length = 16 + usize::from(bytes[0] & 1);
    URL_SAFE_NO_PAD.encode(&bytes[..length])
}

/// The id of a function call: `function-call-` and a random UUID.
pub(super) fn call_id() -> String {
    let mut uuid = u128::from_be_bytes(bytes());
    uuid = uuid & !(0xf << 76) | (0x4 << 76);
    uuid = uuid & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{uuid:032x}");
    format!("function-call-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// An access token as the metadata server hands out.
pub(super) fn access_token() -> String {
    format!("ya29.c.{}", URL_SAFE_NO_PAD.encode(bytes::<96>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_googles_shape() {
        for _ in 0..50 {
            let id = response_id();
            assert!(id.len() == 22 || id.len() == 23, "{id}");
            let call = call_id();
            assert_eq!(call.len(), "function-call-".len() + 36);
            assert_eq!(&call[28..29], "4", "{call}");
        }
    }
}
