//! Counters for each key id, found without a lock.
//!
//! Ids come from the list of keys, which can change while the gateway runs. Each gets a slot when it is first seen and
//! keeps it; the number of slots is fixed, so that nothing grows with time.

use super::counters::{CHAT_STATUSES, absorb, absorb_all};
use crate::access_log::Outcome;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// More ids on one thread are counted together.
pub(super) const MAX_IDS: usize = 1024;
/// The name of those.
const OTHERS: &str = "(others)";

/// Counters of all key ids.
#[derive(Debug)]
pub(super) struct ByKey {
    aliases: usize,
    slots: Box<[OnceLock<Box<OfKey>>]>,
    others: OfKey,
}

/// Counters of one key id, for each alias and for chats whose alias is unknown.
#[derive(Debug)]
struct OfKey {
    id: Arc<str>,
    aliases: Box<[OnceLock<Box<Chats>>]>,
}

/// Counters of one key id and alias.
#[derive(Debug, Default)]
pub(super) struct Chats {
    /// By class of status and by outcome.
    pub(super) ended: [[AtomicU64; Outcome::ALL.len()]; CHAT_STATUSES],
    /// Prompt, cached, answer, thinking.
    pub(super) tokens: [AtomicU64; 4],
    pub(super) unknown_usage: AtomicU64,
}

impl ByKey {
    /// For so many ids.
    pub(super) fn new(aliases: usize, ids: usize) -> Self {
        Self { aliases, slots: (0..ids).map(|_| OnceLock::new()).collect(), others: OfKey::new(OTHERS.into(), aliases) }
    }

    /// The counters of an id and of an alias, which is a number; one beyond the last stands for an unknown alias.
    pub(super) fn chats(&self, id: &Arc<str>, alias: usize) -> Option<&Chats> {
        let of_key = self.find(id);
        of_key.aliases.get(alias).map(|chats| &**chats.get_or_init(Box::default))
    }

    fn find(&self, id: &Arc<str>) -> &OfKey {
        if **id == *OTHERS {
            // A line that stands twice would spoil the whole page.
            return &self.others;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let start = usize::try_from(hasher.finish() % self.slots.len().max(1) as u64).unwrap_or(0);
        let (before, from) = self.slots.split_at(start);
        let slots = from.iter().chain(before);
        slots
            .map(|slot| slot.get_or_init(|| Box::new(OfKey::new(id.clone(), self.aliases))))
            .find(|of_key| of_key.id == *id)
            .map_or(&self.others, |of_key| of_key)
    }

    /// Adds what another thread has counted.
    pub(super) fn absorb(&self, other: &Self) {
        for of_key in other.slots.iter().filter_map(OnceLock::get).map(|of_key| &**of_key).chain([&other.others]) {
            for (alias, chats) in of_key.aliases.iter().enumerate() {
                let Some(others) = chats.get() else { continue };
                if let Some(own) = self.chats(&of_key.id, alias) {
                    own.absorb(others);
                }
            }
        }
    }

    /// All that was counted: id, number of the alias, counters; in the order of the ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, usize, &Chats)> {
        let mut keys: Vec<&OfKey> = self.slots.iter().filter_map(OnceLock::get).map(|of_key| &**of_key).collect();
        keys.sort_by(|one, two| one.id.cmp(&two.id));
        keys.into_iter().chain([&self.others]).flat_map(|of_key| {
            let chats = of_key.aliases.iter().enumerate();
            chats.filter_map(|(alias, chats)| Some((&*of_key.id, alias, &**chats.get()?)))
        })
    }
}

impl OfKey {
    fn new(id: Arc<str>, aliases: usize) -> Self {
        Self { id, aliases: (0..=aliases).map(|_| OnceLock::new()).collect() }
    }
}

impl Chats {
    fn absorb(&self, other: &Self) {
        absorb_all(self.ended.as_flattened(), other.ended.as_flattened());
        absorb_all(&self.tokens, &other.tokens);
        absorb(&self.unknown_usage, &other.unknown_usage);
    }

    /// The tokens counted so far: prompt, cached, answer, thinking.
    pub(super) fn read_tokens(&self) -> [u64; 4] {
        self.tokens.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_has_its_own_counters_until_there_are_too_many() {
        let by_key = ByKey::new(2, MAX_IDS);
        let ids: Vec<Arc<str>> = (0..MAX_IDS + 5).map(|number| format!("key-{number:05}").into()).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for id in &ids {
                        by_key.chats(id, 1).unwrap().unknown_usage.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counted: Vec<(String, usize, u64)> = by_key
            .iter()
            .map(|(id, alias, chats)| (id.to_owned(), alias, chats.unknown_usage.load(Ordering::Relaxed)))
            .collect();
        assert_eq!(counted.len(), MAX_IDS + 1);
        let (others, own) = counted.split_last().unwrap();
        assert_eq!(others, &(OTHERS.to_owned(), 1, 4 * 5));
        assert!(own.iter().all(|(_, alias, count)| (*alias, *count) == (1, 4)));
        assert!(own.is_sorted());
        assert!(by_key.chats(&ids[0], 2).is_some() && by_key.chats(&ids[0], 3).is_none());
    }

    #[test]
    fn threads_are_added_up_by_id_and_alias() {
        let threads = [0, 1].map(|_| ByKey::new(1, 3));
        let count = |thread: usize, id: &str, alias| {
            threads[thread].chats(&id.into(), alias).unwrap().ended[2][0].fetch_add(1, Ordering::Relaxed);
        };
        count(0, "both", 0);
        count(1, "both", 0);
        count(1, "second", 1);
        count(1, OTHERS, 0);
        for number in 0..2 {
            count(number, &format!("full-{number}"), 0);
            count(number, &format!("full-{number}-too"), 0);
        }
        let sum = ByKey::new(1, 6);
        threads.iter().for_each(|thread| sum.absorb(thread));
        let counted = sum.iter().map(|(id, alias, chats)| (id, alias, chats.ended[2][0].load(Ordering::Relaxed)));
        // One was too many for the second thread.
        let own = [("both", 0, 2), ("full-0", 0, 1), ("full-0-too", 0, 1), ("full-1", 0, 1), ("second", 1, 1)];
        assert_eq!(counted.collect::<Vec<_>>(), [&own[..], &[(OTHERS, 0, 2)]].concat());
    }
}
