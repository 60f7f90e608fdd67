//! What the gateway knows of a key: its SHA-256, and nothing that could be turned back into it.

use ring::digest;
use serde::{Serialize, Serializer};
use std::fmt;

/// The SHA-256 of a key. Looking keys up by it tells nobody, by its duration, how much of a key was right.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; digest::SHA256_OUTPUT_LEN]);

impl KeyDigest {
    /// The digest of a key's text.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let mut out = [0; digest::SHA256_OUTPUT_LEN];
        out.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
        Self(out)
    }

    /// Reads 64 lower-case hexadecimal digits. The digest of nothing is refused: it is what a script makes of a
    /// variable that was not set.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * digest::SHA256_OUTPUT_LEN {
            return None;
        }
        let mut out = [0; digest::SHA256_OUTPUT_LEN];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        let digest = Self(out);
        (digest != Self::of(b"")).then_some(digest)
    }

    /// All 64 digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first eight digits: enough to tell an owner's keys apart.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.0.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}…", self.prefix())
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_digests_of_something_are_read() {
        let digest = KeyDigest::of(b"sk_live_0123456789abcdef");
        assert_eq!(KeyDigest::from_hex(&digest.to_hex()), Some(digest));
        assert!(digest.to_hex().starts_with(&digest.prefix()));
        assert!(!format!("{digest:?}").contains(&digest.to_hex()));
        let hex = digest.to_hex();
        for bad in [
            "",
            &hex[1..],
            &format!("{hex}0"),
            &hex.to_uppercase(),
            &format!("{}g", &hex[1..]),
            &format!("{} ", &hex[1..]),
            &"ä".repeat(32),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert_eq!(KeyDigest::from_hex(bad), None, "{bad}");
        }
    }
}
