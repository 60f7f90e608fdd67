//! Tokens, roughly as a model counts them: one rule that counts a prompt, cuts an answer at `max_tokens` and paces a
//! stream, so that the three always agree.

/// Letters and digits of one token; with the space before it, English comes to about four characters a token.
const WORD_CHARS: usize = 6;
/// Other scripts have fewer characters a token.
const WIDE_CHARS: usize = 2;
/// A run of blanks is one token up to here.
const BLANK_CHARS: usize = 16;

/// The tokens of a text, in order; joined they are the text.
pub(super) fn split(text: &str) -> Tokens<'_> {
    Tokens { rest: text }
}

/// How many tokens a text has.
pub(super) fn count(text: &str) -> u64 {
    split(text).count() as u64
}

/// The first `limit` tokens of a text, and whether anything was left out.
pub(super) fn truncate(text: &str, limit: u64) -> (&str, bool) {
    let kept: usize = split(text).take(usize::try_from(limit).unwrap_or(usize::MAX)).map(str::len).sum();
    (&text[..kept], kept < text.len())
}

/// Iterator over the tokens of a text.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let mut end = 0;
        let (mut blanks, mut narrow, mut wide) = (0, 0, 0);
        for (at, char) in self.rest.char_indices() {
            let taken = if char.is_whitespace() {
                blanks += 1;
                narrow + wide == 0 && blanks <= BLANK_CHARS
            } else if char.is_ascii_alphanumeric() {
                narrow += 1;
                wide == 0 && narrow <= WORD_CHARS
            } else if char.is_ascii() {
                // Punctuation stands alone, but for the blank before it.
                if narrow + wide == 0 {
                    end = at + 1;
                }
                break;
            } else {
                wide += 1;
                narrow == 0 && wide <= WIDE_CHARS
            };
            if !taken {
                break;
            }
            end = at + char.len_utf8();
        }
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_join_to_the_text() {
        for text in [
            "",
            " ",
            "The sum is 3800.",
            "Grüße, 世界! 🎉🎉🎉",
            "a\n\n\n   b",
            "internationalisation",
            "...",
            &" ".repeat(100),
        ] {
            assert_eq!(split(text).collect::<String>(), text);
            assert!(split(text).all(|token| !token.is_empty()));
            assert_eq!(truncate(text, u64::MAX), (text, false));
        }
        assert_eq!(split("The sum is 3800.").collect::<Vec<_>>(), ["The", " sum", " is", " 3800", "."]);
        assert_eq!(truncate("The sum is 3800.", 2), ("The sum", true));
    }
}
