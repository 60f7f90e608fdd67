//! Bytes that nobody can guess.

use ring::rand::{SecureRandom as _, SystemRandom};

/// Fills `bytes` from the system's random source.
///
/// # Errors
/// When the system gives no random bytes.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), ring::error::Unspecified> {
    SystemRandom::new().fill(bytes)
}
