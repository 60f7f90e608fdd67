//! New keys: the only key text that the program ever shows.

use super::digest::KeyDigest;
use super::entry::{MIN_KEY_BYTES, Secret};
use crate::random;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memmem;
use std::fmt;
use zeroize::Zeroizing;

/// What every generated key begins with, so that scanners know it.
const PREFIX: &str = "sk_live_";
/// What Google's access tokens begin with.
const BEARER_PREFIX: &[u8] = b"ya29.";
/// Random bytes in a generated key.
const NEW_KEY_BYTES: usize = 32;

/// A key that was just made. Its text comes out only through [`reveal`](Self::reveal), and its memory is cleared when
/// this is dropped.
pub struct NewKey(Zeroizing<String>);

impl NewKey {
    /// A new key: `sk_live_` and 32 random bytes in URL-safe base64.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, ring::error::Unspecified> {
        let mut bytes = Zeroizing::new([0; NEW_KEY_BYTES]);
        random::fill(&mut *bytes)?;
        // Room for all of it, so that no copy is left behind in memory by growing.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 4 * NEW_KEY_BYTES.div_ceil(3)));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(*bytes, &mut text);
        Ok(Self(text))
    }

    /// Whether a text that should be something else has in it what may be a key, or a bearer of Google's.
    #[must_use]
    pub fn may_be_in(text: &[u8]) -> bool {
        let text = text.to_ascii_lowercase();
        let is_of_key = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let may_begin = |at: usize| text[at..].iter().take_while(is_of_key).count() >= MIN_KEY_BYTES;
        memmem::find(&text, BEARER_PREFIX).is_some() || memmem::find_iter(&text, PREFIX).any(may_begin)
    }

    /// The key's text, for its owner's eyes.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What an entry says of it: the digest, or the key itself where the list is to hold it.
    #[must_use]
    pub fn secret(&self, hashed: bool) -> Secret {
        if hashed { Secret::Hashed(KeyDigest::of(self.0.as_bytes())) } else { Secret::Plain(self.0.to_string()) }
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_key_is_known_wherever_it_stands() {
        let made = NewKey::generate().unwrap();
        let key = made.reveal();
        for text in [
            key,
            &format!("--file=/tmp/{key}.json"),
            &key.to_uppercase(),
            "sk_live_0123456789ab",
            "sk_live_ sk_live_0123456789ab",
            "Bearer ya29.x",
        ] {
            assert!(NewKey::may_be_in(text.as_bytes()), "{text}");
        }
        let digest = KeyDigest::of(key.as_bytes()).to_hex();
        for text in ["", "sk_live_", "sk_live_0123456789a", "/etc/sk_live_keys.json", "my-laptop", "ya29", &digest] {
            assert!(!NewKey::may_be_in(text.as_bytes()), "{text}");
        }
    }
}
