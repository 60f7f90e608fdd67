//! A list of keys is read or refused without a word of it, and each change of one leaves a list, changed in that alone.
//!
//! Input: the text of a list, in which `~` stands for a secret.
use ai_proxy::keys::{Document, KeyList};
use zeroize::Zeroizing;

const SECRET: &str = "sk_live_c4n4ry-0123456789";

/// Panics where the promise is broken.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let text = text.replace('~', SECRET);
    let list = KeyList::parse(&text);
    let document = Document::parse(Zeroizing::new(text.clone()));
    match (&list, &document) {
        (Err(problems), Err(error)) => {
            assert!(problems.iter().all(|problem| !problem.contains(SECRET)), "{problems:?}");
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
        (Ok(list), Ok(document)) => assert_eq!(list.entries(), document.entries()),
        (list, _) => panic!("the two readers disagree: {}", list.is_ok()),
    }
    let (Ok(list), Ok(mut document)) = (list, document) else { return };
    assert_eq!(document.text(), text);
    for index in 0..list.entries().len().min(4) {
        document.set(index, "enabled", "false").expect("an entry can be disabled");
        let digest = list.entries()[index].digest;
        let hashed = document.hash(|entry| entry.digest == digest).expect("a key can be hashed");
        assert_eq!(hashed, usize::from(!list.entries()[index].is_hashed));
        let read = KeyList::parse(document.text()).expect("it is still a list");
        assert_eq!(read.entries(), document.entries());
        for (at, (before, after)) in list.entries().iter().zip(read.entries()).enumerate() {
            assert_eq!(before.digest, after.digest);
            if at <= index {
                let mut expected = before.clone();
                (expected.enabled, expected.is_hashed) = (false, true);
                assert_eq!(*after, expected);
            } else {
                assert_eq!(after, before);
            }
        }
    }
    let added = format!(r#"{{"id":"added","key_sha256":"{}"}}"#, "ab".repeat(32));
    if document.push(&added).is_ok() {
        let read = KeyList::parse(document.text()).expect("it is still a list");
        assert_eq!(read.entries().len(), list.entries().len() + 1);
        document.remove(|entry| entry.id != "added").expect("one stays");
        KeyList::parse(document.text()).expect("it is still a list");
    }
}
