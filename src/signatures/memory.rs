//! Which signature belongs to which tool call: bounded, expiring, and apart for each key.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// All that is remembered, in bytes; a quarter of it at most for one key.
const MAX_BYTES: usize = 16 * 1024 * 1024;
const MAX_BYTES_OF_KEY: usize = MAX_BYTES / 4;
/// A longer signature or id is not remembered, in bytes.
const MAX_SIGNATURE_BYTES: usize = 64 * 1024;
const MAX_ID_BYTES: usize = 256;
/// What an entry takes besides its texts, in bytes: map, queue and allocations, roughly.
const ENTRY_BYTES: usize = 200;
/// How long a turn may rest before its signatures are forgotten: a person may go for lunch.
const LIFETIME: Duration = Duration::from_secs(4 * 60 * 60);

/// The signatures that passed by.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_key: HashMap<Arc<str>, OfKey>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct OfKey {
    signatures: HashMap<Arc<str>, Arc<str>>,
    /// Oldest first.
    order: VecDeque<(Instant, Arc<str>)>,
    bytes: usize,
}

impl Memory {
    /// Remembers a call's signature for a key.
    pub(super) fn put(&self, key: &Arc<str>, call: &str, signature: &str, now: Instant) {
        if call.is_empty() || call.len() > MAX_ID_BYTES || signature.len() > MAX_SIGNATURE_BYTES {
            return;
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.forget_expired(now);
        let of_key = inner.by_key.entry(key.clone()).or_default();
        // An id that comes again stands for another call from now on.
        let mut removed = of_key.forget(call);
        let call: Arc<str> = call.into();
        let size = ENTRY_BYTES + call.len() + signature.len();
        of_key.signatures.insert(call.clone(), signature.into());
        of_key.order.push_back((now, call));
        of_key.bytes += size;
        while of_key.bytes > MAX_BYTES_OF_KEY {
            removed += of_key.forget_oldest();
        }
        inner.bytes = inner.bytes + size - removed;
        while inner.bytes > MAX_BYTES {
            inner.forget_oldest();
        }
    }

    /// The signature of a call that this key made.
    pub(super) fn get(&self, key: &str, call: &str, now: Instant) -> Option<Arc<str>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.forget_expired(now);
        inner.by_key.get(key)?.signatures.get(call).cloned()
    }
}

impl Inner {
    fn forget_expired(&mut self, now: Instant) {
        let mut removed = 0;
        self.by_key.retain(|_, of_key| {
            while of_key.order.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > LIFETIME) {
                removed += of_key.forget_oldest();
            }
            !of_key.order.is_empty()
        });
        self.bytes -= removed;
    }

    /// Forgets the oldest entry of all keys.
    fn forget_oldest(&mut self) {
        let oldest = self.by_key.values_mut().min_by_key(|of_key| of_key.order.front().map(|(since, _)| *since));
        match oldest.map(OfKey::forget_oldest) {
            Some(removed @ 1..) => self.bytes -= removed,
            _ => self.bytes = 0,
        }
    }
}

impl OfKey {
    /// Forgets a call, if it is known, and tells its size.
    fn forget(&mut self, call: &str) -> usize {
        let Some(signature) = self.signatures.remove(call) else { return 0 };
        self.order.retain(|(_, known)| **known != *call);
        let size = ENTRY_BYTES + call.len() + signature.len();
        self.bytes -= size;
        size
    }

    /// Forgets the oldest entry and tells its size.
    fn forget_oldest(&mut self) -> usize {
        let Some((_, call)) = self.order.pop_front() else { return 0 };
        let signature = self.signatures.remove(&call).map_or(0, |signature| signature.len());
        let size = ENTRY_BYTES + call.len() + signature;
        self.bytes -= size;
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_never_gets_anothers() {
        let (memory, now) = (Memory::default(), Instant::now());
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        memory.put(&one, "call-1", "SIG", now);
        memory.put(&two, "call-2", "OTHER", now);
        assert_eq!(memory.get("one", "call-1", now).as_deref(), Some("SIG"));
        assert_eq!(memory.get("two", "call-1", now), None);
        assert_eq!(memory.get("one", "call-2", now), None);
        assert_eq!(memory.get("", "call-1", now), None);
    }

    #[test]
    fn an_id_that_comes_again_has_its_newest_signature() {
        let (memory, now) = (Memory::default(), Instant::now());
        for signature in ["one", "two", "two"] {
            memory.put(&"k".into(), "call_0", signature, now);
        }
        memory.put(&"k".into(), "", "nobody's", now);
        assert_eq!(memory.get("k", "call_0", now).as_deref(), Some("two"));
        assert_eq!(memory.get("k", "", now), None);
        let inner = memory.0.lock().unwrap();
        assert_eq!(inner.bytes, ENTRY_BYTES + "call_0".len() + "two".len());
        assert_eq!(inner.by_key["k"].order.len(), 1);
    }

    #[test]
    fn entries_expire() {
        let (memory, now) = (Memory::default(), Instant::now());
        memory.put(&"k".into(), "c", "s", now);
        let later = now + LIFETIME + Duration::from_secs(1);
        assert_eq!(memory.get("k", "c", later), None);
        assert_eq!(memory.0.lock().unwrap().bytes, 0);
        assert!(memory.0.lock().unwrap().by_key.is_empty());
    }

    #[test]
    fn the_bound_holds_and_the_newest_stay() {
        let (memory, now) = (Memory::default(), Instant::now());
        let signature = "s".repeat(10_000);
        for key in 0..8 {
            let key: Arc<str> = format!("key-{key}").into();
            for call in 0..1000 {
                memory.put(&key, &format!("call-{call}"), &signature, now + Duration::from_millis(call));
            }
        }
        let inner = memory.0.lock().unwrap();
        assert!(inner.bytes <= MAX_BYTES, "{}", inner.bytes);
        assert_eq!(inner.bytes, inner.by_key.values().map(|of_key| of_key.bytes).sum::<usize>());
        assert!(inner.by_key.values().all(|of_key| of_key.bytes <= MAX_BYTES_OF_KEY));
        assert!(inner.by_key.values().all(|of_key| of_key.order.len() == of_key.signatures.len()));
        drop(inner);
        assert!(memory.get("key-7", "call-999", now).is_some());
        assert!(memory.get("key-7", "call-0", now).is_none());
        memory.put(&"k".into(), "c", &"s".repeat(MAX_SIGNATURE_BYTES + 1), now);
        assert!(memory.get("k", "c", now).is_none());
    }
}
