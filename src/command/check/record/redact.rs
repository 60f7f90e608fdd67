//! Takes out of an answer what says whose it is: project, accounts, tokens, signatures; and prompts that it repeats. What
//! stays is the form.

use super::questions::PROMPTS;

/// Numbers of so many digits may be a project's or an account's; Unix times in seconds have ten.
const LONG_NUMBER: usize = 11;

/// What must not be written down.
#[derive(Debug)]
pub(in super::super) struct Redaction {
    /// Names that are known, and what stands in their place.
    known: Vec<(Vec<u8>, &'static str)>,
}

/// A part of the text that is replaced.
struct Found {
    length: usize,
    put: Vec<u8>,
}

impl Redaction {
    /// Knows these names beside what can be told by its form.
    pub(in super::super) fn new(project: &str, account: Option<&str>) -> Self {
        let named = [(Some(project), "PROJECT"), (account, "ACCOUNT")];
        let prompts = PROMPTS.map(|prompt| (Some(prompt), "PROMPT"));
        let known = named.into_iter().chain(prompts).filter_map(|(name, put)| {
            let name = name.filter(|name| !name.is_empty())?;
            Some((name.as_bytes().to_vec(), put))
        });
        Self { known: known.collect() }
    }

    /// The same for a text.
    pub(super) fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.apply(text.as_bytes(), &[]).0).into_owned()
    }

    /// The bytes without it, and where the places `at`, in their order, are then. A place within what is replaced by as
    /// many bytes stays; else it moves behind that.
    pub(super) fn apply(&self, bytes: &[u8], at: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut out, mut places) = (Vec::with_capacity(bytes.len()), Vec::with_capacity(at.len()));
        let mut wanted = at.iter().copied().peekable();
        let mut read = 0;
        while read < bytes.len() {
            let (length, put) = match self.find(bytes, read) {
                Some(found) => (found.length, found.put),
                None => (1, vec![bytes[read]]),
            };
            while let Some(place) = wanted.next_if(|place| *place < read + length) {
                let within = place - read;
                let moved = if within == 0 || put.len() == length { within } else { put.len() };
                places.push(out.len() + moved);
            }
            out.extend_from_slice(&put);
            read += length;
        }
        places.extend(wanted.map(|_| out.len()));
        (out, places)
    }

    /// What begins here and has to go.
    fn find(&self, bytes: &[u8], at: usize) -> Option<Found> {
        let rest = &bytes[at..];
        for before in [&b"projects/"[..], b"project=", br"project\u003d", b"project: "] {
            let value = run(rest, |byte| is_name(byte) || b".:".contains(&byte));
            if value > 0 && bytes[..at].ends_with(before) {
                return Some(Found { length: value, put: b"PROJECT".to_vec() });
            }
        }
        if is_begin_of_word(&bytes[..at]) {
            for (name, put) in &self.known {
                if rest.starts_with(name) && rest.get(name.len()).is_none_or(|next| !is_name(*next)) {
                    return Some(Found { length: name.len(), put: put.as_bytes().to_vec() });
                }
            }
            let token = run(rest, |byte| is_name(byte) || b".~+/=".contains(&byte));
            if rest.starts_with(b"ya29.") || rest.starts_with(b"eyJ") && rest[..token].contains(&b'.') {
                return Some(Found { length: token, put: b"TOKEN".to_vec() });
            }
            let account = run(rest, |byte| is_name(byte) || b".%+".contains(&byte));
            if account > 0 && rest.get(account) == Some(&b'@') {
                let host = run(&rest[account + 1..], |byte| is_name(byte) || byte == b'.');
                return (host > 0).then(|| Found { length: account + 1 + host, put: b"ACCOUNT".to_vec() });
            }
            let digits = run(rest, |byte| byte.is_ascii_digit());
            if digits >= LONG_NUMBER && rest.get(digits).is_none_or(|next| !is_name(*next) && *next != b'.') {
                return Some(Found { length: digits, put: vec![b'1'; digits] });
            }
        }
        for before in [&br#""thought_signature":""#[..], br#""thought_signature": ""#] {
            if bytes[..at].ends_with(before) {
                // As long as it was, which is worth knowing.
                let value = run(rest, |byte| byte != b'"');
                let put = rest[..value].iter().map(|byte| if *byte == b'=' { b'=' } else { b'A' }).collect();
                return Some(Found { length: value, put }).filter(|found| found.length > 0);
            }
        }
        None
    }
}

/// Whether a word may begin behind this. The last letter of an escape in JSON is none of a word, nor is its first one.
fn is_begin_of_word(before: &[u8]) -> bool {
    let Some(last) = before.last() else { return true };
    let backslashes = |before: &[u8]| before.iter().rev().take_while(|byte| **byte == b'\\').count();
    if *last == b'\\' {
        return backslashes(before) % 2 == 0;
    }
    let escapes = |letters: usize, first: &[u8]| {
        let Some(start) = before.len().checked_sub(letters) else { return false };
        first.contains(&before[start])
            && before[start + 1..].iter().all(u8::is_ascii_hexdigit)
            && backslashes(&before[..start]) % 2 == 1
    };
    !is_name(*last) || escapes(1, b"bfnrt") || escapes(5, b"u")
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn run(bytes: &[u8], fits: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| fits(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redaction() -> Redaction {
        Redaction::new("canary-project", Some("sa@canary-project.iam.gserviceaccount.com"))
    }

    #[test]
    fn what_says_whose_it_is_goes_and_the_rest_stays() {
        for (before, after) in [
            (
                "resource '//x/projects/canary-project/locations/global'",
                "resource '//x/projects/PROJECT/locations/global'",
            ),
            ("projects/123456789012/x", "projects/PROJECT/x"),
            ("in project 123456789012 before", "in project 111111111111 before"),
            ("?project=other-project&x", "?project=PROJECT&x"),
            ("sa@canary-project.iam.gserviceaccount.com lacks", "ACCOUNT lacks"),
            ("for somebody.else@example.com.", "for ACCOUNT"),
            ("Bearer ya29.c.b0_Az-x", "Bearer TOKEN"),
            ("eyJhbGciOi.eyJpc3MiOi.c2ln", "TOKEN"),
            (r#""thought_signature":"Cq9abc==","x":1"#, r#""thought_signature":"AAAAAA==","x":1"#),
            (r#"{"created":1770852204,"total_tokens":1155}"#, r#"{"created":1770852204,"total_tokens":1155}"#),
            // Google's servers escape some signs that JSON would not have to.
            (r"x\u003dcanary-project\u0027 \ncanary-project\t", r"x\u003dPROJECT\u0027 \nPROJECT\t"),
            (r"?project\u003dother-project\u0026x", r"?project\u003dPROJECT\u0026x"),
            (r"\u003cya29.c.b0\u003e", r"\u003cTOKEN\u003e"),
            (r"account\u003djane@example.com\n", r"account\u003dACCOUNT\n"),
            (r"C:\\canary-project", r"C:\\PROJECT"),
            (r"\\ncanary-project", r"\\ncanary-project"),
            ("my-canary-project-2", "my-canary-project-2"),
            ("data: {}\r\n\r\n", "data: {}\r\n\r\n"),
        ] {
            assert_eq!(redaction().text(before), after);
        }
    }

    #[test]
    fn pieces_stay_pieces() {
        let text = br#"a canary-project b "thought_signature":"QUJD" c"#;
        let all: Vec<usize> = (0..=text.len()).collect();
        let (out, places) = redaction().apply(text, &all);
        assert!(places.is_sorted());
        assert_eq!((places[0], *places.last().unwrap()), (0, out.len()));
        // Before, within, and behind the name.
        assert_eq!((places[2], places[5], places[16]), (2, 9, 9));
        // Within the signature nothing moves.
        assert!(places[out.len() - 4] < out.len());
    }

    proptest! {
        #[test]
        fn no_canary_survives(before in "[a-z \"{}:/]{0,20}", after in "[ \"{}:/,]{0,20}", at in proptest::collection::vec(0..200_usize, 0..6)) {
            let mut at = at;
            at.sort_unstable();
            for (canary, gap) in ["canary-project", "ya29.canary", "eyJcanary.x", "canary@example.com"]
                .into_iter()
                .flat_map(|canary| [" ", r"\n", r"\u003d", "\""].map(|gap| (canary, gap)))
            {
                let text = format!("{before}{gap}{canary}{after}");
                let (out, places) = redaction().apply(text.as_bytes(), &at);
                prop_assert!(!String::from_utf8_lossy(&out).contains("canary"), "{:?}", String::from_utf8_lossy(&out));
                prop_assert_eq!(places.len(), at.len());
                prop_assert!(places.is_sorted() && places.iter().all(|place| *place <= out.len()));
            }
        }

        #[test]
        fn what_tells_nothing_is_left_as_it_is(bytes in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'{'), Just(b'\n'), Just(0xe9), Just(b'q')], 0..100)) {
            prop_assert_eq!(redaction().apply(&bytes, &[]).0, bytes);
        }
    }
}
