//! Thought signatures: issued without keeping any, and recognised again.
//!
//! A signature is filler of a size that varies as the real ones do, and a digest over it, so that every byte must come
//! back as it was sent.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;

use super::random;

/// What clients put where the history came from another model; Vertex accepts it raw and, in the wild, in base64.
const DUMMY: &str = "skip_thought_signature_validator";
/// Begins every signature; also what makes it differ from any other SHA-256 over the same bytes.
const PREFIX: &[u8] = b"\x12emulated thought\x0a";
/// Sizes in bytes before base64: from 100 characters to a little over 10 kB.
const SIZES: [usize; 8] = [75, 150, 300, 600, 1_200, 2_400, 4_800, 7_700];

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Which spellings of the dummy are taken; which the real endpoint takes is not publicly known.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Dummy {
    #[default]
    Either,
    Raw,
    Base64,
    Neither,
}

/// A new signature, of so many characters or of any size that real ones have.
pub(super) fn issue(characters: Option<usize>) -> String {
    let seed: [u8; 32] = random::bytes();
    issue_from(&seed, characters)
}

/// One that looks like any other and is not accepted: for a model or a key that has changed within a conversation.
pub(super) fn corrupted() -> String {
    STANDARD.encode([PREFIX, &random::bytes::<96>()].concat())
}

fn issue_from(seed: &[u8], characters: Option<usize>) -> String {
    let pick = digest(&SHA256, seed).as_ref()[0];
    let least = PREFIX.len() + SHA256_OUTPUT_LEN;
    let size = characters.map_or(SIZES[usize::from(pick) % SIZES.len()], |characters| (characters / 4 * 3).max(least));
    let mut bytes = PREFIX.to_vec();
    let mut block = digest(&SHA256, seed);
    while bytes.len() < size - SHA256_OUTPUT_LEN {
        bytes.extend_from_slice(block.as_ref());
        block = digest(&SHA256, block.as_ref());
    }
    bytes.truncate(size - SHA256_OUTPUT_LEN);
    let seal = digest(&SHA256, &bytes);
    bytes.extend_from_slice(seal.as_ref());
    STANDARD.encode(bytes)
}

/// Whether a signature is one of ours, unchanged, or the dummy.
pub(super) fn accepts(signature: &str, dummy: Dummy) -> bool {
    if signature == DUMMY {
        return matches!(dummy, Dummy::Either | Dummy::Raw);
    }
    let Ok(bytes) = STANDARD.decode(signature).or_else(|_| URL_SAFE.decode(signature)) else {
        return false;
    };
    if bytes == DUMMY.as_bytes() {
        return matches!(dummy, Dummy::Either | Dummy::Base64);
    }
    let Some((filler, seal)) = bytes.len().checked_sub(SHA256_OUTPUT_LEN).map(|at| bytes.split_at(at)) else {
        return false;
    };
    filler.starts_with(PREFIX) && digest(&SHA256, filler).as_ref() == seal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_come_back_unchanged_or_not_at_all() {
        let mut sizes = Vec::new();
        for seed in 0..200_u8 {
            let signature = issue_from(&[seed], None);
            assert!(accepts(&signature, Dummy::Neither));
            sizes.push(signature.len());
            let mut changed = signature.into_bytes();
            changed[40] = if changed[40] == b'A' { b'B' } else { b'A' };
            assert!(!accepts(&String::from_utf8(changed).unwrap(), Dummy::Either));
        }
        assert_eq!(sizes.iter().min(), Some(&100));
        assert!(sizes.iter().max() > Some(&10_000));
        assert_ne!(issue(None), issue(None));
        for characters in [0, 100, 1000, 10_680, 100_000] {
            let signature = issue(Some(characters));
            assert!(accepts(&signature, Dummy::Neither));
            assert!(signature.len().abs_diff(characters.max(68)) < 4, "{}", signature.len());
        }
        assert!(!accepts(&corrupted(), Dummy::Either));
    }

    #[test]
    fn the_dummy_is_accepted_in_both_spellings() {
        assert!(accepts(DUMMY, Dummy::Either));
        assert!(accepts(&STANDARD.encode(DUMMY), Dummy::Either));
        for other in ["", "nonsense", "c2tpcA==", "\u{1F600}"] {
            assert!(!accepts(other, Dummy::Either), "{other}");
        }
    }
}
