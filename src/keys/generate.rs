//! New keys: the only key text that the program ever shows.

use super::digest::KeyDigest;
use super::entry::{MIN_KEY_BYTES, Secret};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use zeroize::Zeroizing;

/// What every generated key begins with, so that scanners know it.
const PREFIX: &str = "sk_live_";
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
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut random = Zeroizing::new([0; NEW_KEY_BYTES]);
        rand::fill(&mut *random)?;
        // Room for all of it, so that no copy is left behind in memory by growing.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 4 * NEW_KEY_BYTES.div_ceil(3)));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(*random, &mut text);
        Ok(Self(text))
    }

    /// Whether a text that should be something else may be a key.
    #[must_use]
    pub fn is_like(text: &str) -> bool {
        text.starts_with(PREFIX) && text.len() >= MIN_KEY_BYTES
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
