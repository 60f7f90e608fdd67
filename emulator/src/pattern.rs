//! Regular expressions, as far as JSON schemas commonly use them: whether a text matches, and a text that does.
//!
//! Not here: look-around, back references, Unicode classes, flags. A pattern that has them is not understood, and the
//! schema is filled as if it had no pattern.

/// Groups within groups.
const DEPTH: usize = 16;
/// Longest text made, and most repetitions of one thing.
const MOST: u32 = 256;
/// Longest text that is matched.
const MATCHED_CHARS: usize = 128;
/// Steps of matching, or of making a text, before it counts as failed.
const STEPS: u32 = 20_000;
/// Steps within steps: matching is recursive, and the stack is not endless.
const NESTED_STEPS: u32 = 400;

/// An understood pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    branches: Vec<Vec<Item>>,
}

#[derive(Debug)]
struct Item {
    node: Node,
    least: u32,
    most: u32,
}

#[derive(Debug)]
enum Node {
    Start,
    End,
    Set { ranges: Vec<(char, char)>, negated: bool },
    Group(Vec<Vec<Item>>),
}

impl Pattern {
    /// Parses a pattern; nothing if it is beyond this file.
    pub(super) fn parse(pattern: &str) -> Option<Self> {
        let mut parser = Parser { chars: pattern.chars().collect(), at: 0 };
        let branches = parser.branches(0)?;
        (parser.at == parser.chars.len()).then_some(Self { branches })
    }

    /// Whether the pattern is found in a text.
    pub(super) fn matches(&self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().take(MATCHED_CHARS + 1).collect();
        if chars.len() > MATCHED_CHARS {
            return false;
        }
        let mut matcher = Matcher { chars: &chars, steps: STEPS, nested: 0 };
        (0..=chars.len()).any(|start| self.branches.iter().any(|branch| matcher.items(branch, start, &mut |_, _| true)))
    }

    /// A short text in which the pattern is found.
    pub(super) fn example(&self) -> Option<String> {
        let (mut text, mut steps) = (String::new(), STEPS);
        write_branch(&self.branches, &mut text, &mut steps)?;
        self.matches(&text).then_some(text)
    }
}

fn write_branch(branches: &[Vec<Item>], text: &mut String, steps: &mut u32) -> Option<()> {
    for item in branches.first()? {
        for _ in 0..item.least {
            *steps = steps.checked_sub(1)?;
            if text.len() > MOST as usize {
                return None;
            }
            match &item.node {
                Node::Start | Node::End => {}
                Node::Set { ranges, negated } => text.push(member(ranges, *negated)?),
                Node::Group(branches) => write_branch(branches, text, steps)?,
            }
        }
    }
    Some(())
}

fn member(ranges: &[(char, char)], negated: bool) -> Option<char> {
    let preferred = "a0A-_. ".chars().chain('!'..='~');
    preferred
        .into_iter()
        .find(|c| contains(ranges, *c) != negated)
        .or_else(|| if negated { None } else { ranges.first().map(|(low, _)| *low) })
}

fn contains(ranges: &[(char, char)], char: char) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&char))
}

struct Matcher<'a> {
    chars: &'a [char],
    steps: u32,
    nested: u32,
}

type Then<'f> = &'f mut dyn FnMut(&mut Matcher<'_>, usize) -> bool;

impl Matcher<'_> {
    fn items(&mut self, items: &[Item], at: usize, then: Then<'_>) -> bool {
        match items.split_first() {
            None => then(self, at),
            Some((item, rest)) => self.repeat(item, 0, at, &mut |matcher, at| matcher.items(rest, at, then)),
        }
    }

    fn repeat(&mut self, item: &Item, done: u32, at: usize, then: Then<'_>) -> bool {
        if self.steps == 0 || self.nested == NESTED_STEPS {
            return false;
        }
        self.steps -= 1;
        self.nested += 1;
        let more = done < item.most
            && self.once(&item.node, at, &mut |matcher, next| {
                // An empty repetition leads nowhere new.
                (next > at || done < item.least) && matcher.repeat(item, done + 1, next, then)
            });
        let matched = more || (done >= item.least && then(self, at));
        self.nested -= 1;
        matched
    }

    fn once(&mut self, node: &Node, at: usize, then: Then<'_>) -> bool {
        match node {
            Node::Start => at == 0 && then(self, at),
            Node::End => at == self.chars.len() && then(self, at),
            Node::Set { ranges, negated } => {
                self.chars.get(at).is_some_and(|c| contains(ranges, *c) != *negated) && then(self, at + 1)
            }
            Node::Group(branches) => branches.iter().any(|branch| self.items(branch, at, then)),
        }
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<char> {
        let char = self.chars.get(self.at).copied();
        self.at += 1;
        char
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn branches(&mut self, depth: usize) -> Option<Vec<Vec<Item>>> {
        if depth > DEPTH {
            return None;
        }
        let mut branches = vec![Vec::new()];
        while let Some(char) = self.peek() {
            if char == ')' {
                break;
            }
            self.at += 1;
            if char == '|' {
                branches.push(Vec::new());
                continue;
            }
            let node = self.node(char, depth)?;
            let (least, most) = self.times()?;
            branches.last_mut()?.push(Item { node, least, most });
        }
        Some(branches)
    }

    fn node(&mut self, char: char, depth: usize) -> Option<Node> {
        Some(match char {
            '^' => Node::Start,
            '$' => Node::End,
            '.' => set(&[('\n', '\n')], true),
            '(' => {
                if self.take('?') && !self.take(':') {
                    return None;
                }
                let branches = self.branches(depth + 1)?;
                if !self.take(')') {
                    return None;
                }
                Node::Group(branches)
            }
            '[' => self.class()?,
            '\\' => match self.next()? {
                'D' => set(&[('0', '9')], true),
                'W' => set(&WORD, true),
                'S' => set(&BLANK, true),
                escaped => Node::Set { ranges: escape(escaped)?, negated: false },
            },
            '*' | '+' | '?' | ')' => return None,
            plain => set(&[(plain, plain)], false),
        })
    }

    fn class(&mut self) -> Option<Node> {
        let negated = self.take('^');
        let mut ranges = Vec::new();
        loop {
            let low = match self.next()? {
                ']' if !ranges.is_empty() => return Some(Node::Set { ranges, negated }),
                '\\' => {
                    let escaped = escape(self.next()?)?;
                    match escaped[..] {
                        [(low, high)] if low == high => low,
                        _ => {
                            ranges.extend(escaped);
                            continue;
                        }
                    }
                }
                plain => plain,
            };
            let ranged = self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
            if !ranged {
                ranges.push((low, low));
                continue;
            }
            self.at += 1;
            let high = match self.next()? {
                '\\' => self.next()?,
                plain => plain,
            };
            if high < low {
                return None;
            }
            ranges.push((low, high));
        }
    }

    fn times(&mut self) -> Option<(u32, u32)> {
        let times = match self.peek() {
            Some('*') => (0, u32::MAX),
            Some('+') => (1, u32::MAX),
            Some('?') => (0, 1),
            Some('{') => {
                let close = self.chars[self.at..].iter().position(|c| *c == '}')? + self.at;
                let inner: String = self.chars[self.at + 1..close].iter().collect();
                let (least, most) = inner.split_once(',').unwrap_or((&inner, &inner));
                let least = least.trim().parse().ok()?;
                let most = match most.trim() {
                    "" => u32::MAX,
                    most => most.parse().ok()?,
                };
                if least > most || least > MOST {
                    return None;
                }
                self.at = close;
                (least, most)
            }
            _ => return Some((1, 1)),
        };
        self.at += 1;
        self.take('?');
        Some(times)
    }
}

const WORD: [(char, char); 4] = [('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')];
const BLANK: [(char, char); 2] = [(' ', ' '), ('\t', '\r')];

fn set(ranges: &[(char, char)], negated: bool) -> Node {
    Node::Set { ranges: ranges.to_vec(), negated }
}

fn escape(char: char) -> Option<Vec<(char, char)>> {
    Some(match char {
        'd' => vec![('0', '9')],
        'w' => WORD.to_vec(),
        's' => BLANK.to_vec(),
        'n' => vec![('\n', '\n')],
        'r' => vec![('\r', '\r')],
        't' => vec![('\t', '\t')],
        letter if letter.is_alphanumeric() => return None,
        plain => vec![(plain, plain)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_match() {
        for pattern in [
            "^[A-Z]{2}-\\d{4}$",
            "^(foo|bar)+$",
            "^\\+?[0-9]{3,5}$",
            "[^a-z]",
            "^#[0-9a-fA-F]{6}$",
            "^\\d{4}-\\d{2}-\\d{2}T?$",
            "",
            "^(?:a{2}b?){3}c*$",
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            let example = parsed.example().unwrap_or_else(|| panic!("{pattern}"));
            assert!(parsed.matches(&example), "{pattern} {example}");
        }
    }

    #[test]
    fn texts_match_or_not() {
        let matches = |pattern, text| Pattern::parse(pattern).unwrap().matches(text);
        assert!(matches("^[A-Z]{3}$", "EUR"));
        assert!(!matches("^[A-Z]{3}$", "EURO"));
        assert!(matches("b+", "abbc"));
        assert!(matches("^a|b$", "xb"));
        assert!(!matches("^.$", "\n"));
        // What would take for ever elsewhere, or fill the stack.
        assert!(!matches("((((a?){256}){256}){256}){256}b", "a"));
        assert!(Pattern::parse("((((a?){256}){256}){256}){256}b").unwrap().example().is_none());
        assert!(!matches("^(a+)+$", &format!("{}b", "a".repeat(100))));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for pattern in ["(?=a)", "\\p{L}", "\\1", "[", "(", ")", "*", "a{2", "[z-a]", &"(".repeat(100)] {
            assert!(Pattern::parse(pattern).is_none(), "{pattern}");
        }
    }
}
