//! The keys in use: one lookup by digest for each request, in a table that a reload replaces as a whole.
//!
//! Requests take hold of the key that they were let in by. Therefore each thread has copies of its own: threads that
//! count who holds one and the same would take its cache line from each other with every request.

use super::digest::KeyDigest;
use super::entry::{KeyList, MIN_KEY_BYTES};
use super::limits::{Account, Admission, Limits, Now};
use crate::error::ApiError;
use crate::models::{Models, Offer};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The issued keys, for all threads. Only digests are held, so nothing here can leak a key.
#[derive(Debug)]
pub struct Keys {
    table: ArcSwap<Table>,
    /// What ids with limits have done. They outlive reloads.
    accounts: Mutex<HashMap<Arc<str>, Arc<Account>>>,
    pub(super) reloads_ok: AtomicU64,
    pub(super) reloads_failed: AtomicU64,
    pub(super) file_is_broken: AtomicBool,
}

type Table = HashMap<KeyDigest, Key>;

/// The issued keys, as one thread looks them up.
#[derive(Debug)]
pub struct KeysOfThread {
    keys: Arc<Keys>,
    copy: Mutex<TableCopy>,
}

/// A thread's copy of a table.
#[derive(Debug)]
struct TableCopy {
    of: Arc<Table>,
    keys: HashMap<KeyDigest, Arc<Key>>,
}

/// One key and what it may do.
#[derive(Debug)]
pub struct Key {
    /// Whose it is.
    pub id: Arc<str>,
    enabled: bool,
    expires_at: Option<Timestamp>,
    /// What it may use, unless that is everything.
    own_offer: Option<Arc<Offer>>,
    /// Whether it may also read the metrics.
    pub reads_metrics: bool,
    limits: Limits,
    /// Where its id has limits, by this key or by another one.
    account: Option<Arc<Account>>,
}

/// What has become of changes of the keys file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Changes that were taken up.
    pub ok: u64,
    /// Changes that could not be, so that the keys stayed as they were.
    pub failed: u64,
    /// Whether the file, as it is now, is not what is in use.
    pub file_is_broken: bool,
}

impl Keys {
    /// The keys of a list.
    #[must_use]
    pub fn new(list: &KeyList, models: &Models) -> Self {
        let accounts = Mutex::default();
        Self {
            table: ArcSwap::from_pointee(build(list, models, &accounts)),
            accounts,
            reloads_ok: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            file_is_broken: AtomicBool::new(false),
        }
    }

    /// Uses another list from now on. Requests that were admitted go on.
    pub fn replace(&self, list: &KeyList, models: &Models) {
        self.table.store(Arc::new(build(list, models, &self.accounts)));
    }

    /// What has become of changes of the file.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        Reloads {
            ok: self.reloads_ok.load(Ordering::Relaxed),
            failed: self.reloads_failed.load(Ordering::Relaxed),
            file_is_broken: self.file_is_broken.load(Ordering::Relaxed),
        }
    }
}

/// A table, with the accounts of ids that are known already.
fn build(list: &KeyList, models: &Models, accounts: &Mutex<HashMap<Arc<str>, Arc<Account>>>) -> Table {
    let mut accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ids: HashMap<&str, Arc<str>> = HashMap::new();
    // The largest `rpm` of each id that has any limit.
    let mut limited: HashMap<&str, u32> = HashMap::new();
    for entry in list.entries() {
        ids.entry(&entry.id).or_insert_with(|| entry.id.as_str().into());
        if !entry.limits.is_none() {
            let largest = limited.entry(&entry.id).or_default();
            *largest = (*largest).max(entry.limits.rpm.unwrap_or_default());
        }
    }
    for (id, rpm) in &limited {
        let account = accounts.entry(ids[id].clone()).or_insert_with(|| Arc::new(Account::new()));
        account.keep(*rpm);
    }
    let now = Now::read();
    accounts.retain(|id, account| limited.contains_key(&**id) || !account.is_idle(now));
    let keys = list.entries().iter().map(|entry| {
        let key = Key {
            id: ids[&*entry.id].clone(),
            enabled: entry.enabled,
            expires_at: entry.expires_at,
            own_offer: entry
                .models
                .as_ref()
                .map(|aliases| models.offer(|alias| aliases.iter().any(|own| own == alias)).into()),
            reads_metrics: entry.metrics,
            limits: entry.limits,
            account: accounts.get(&*entry.id).filter(|_| limited.contains_key(&*entry.id)).cloned(),
        };
        (entry.digest, key)
    });
    keys.collect()
}

impl KeysOfThread {
    /// The keys for a thread that has none yet.
    #[must_use]
    pub fn new(keys: Arc<Keys>) -> Self {
        let copy = Mutex::new(TableCopy::of(keys.table.load_full()));
        Self { keys, copy }
    }

    /// Those of all threads.
    #[must_use]
    pub fn of_all_threads(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The enabled and unexpired key that a client presented, if there is one.
    #[must_use]
    pub fn authenticate(&self, presented: &[u8]) -> Option<Arc<Key>> {
        // No key is so short, whatever digest the list may have.
        if presented.len() < MIN_KEY_BYTES {
            return None;
        }
        let digest = KeyDigest::of(presented);
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.keys.table.load();
        if !Arc::ptr_eq(&copy.of, &table) {
            *copy = TableCopy::of(Arc::clone(&table));
        }
        let key = copy.keys.get(&digest)?;
        let expired = key.expires_at.is_some_and(|end| end <= Timestamp::now());
        (key.enabled && !expired).then(|| key.clone())
    }
}

impl TableCopy {
    fn of(table: Arc<Table>) -> Self {
        let keys = table.iter().map(|(digest, key)| (*digest, Arc::new(key.copy()))).collect();
        Self { of: table, keys }
    }
}

impl Key {
    /// The same with an id that nobody else holds.
    fn copy(&self) -> Self {
        Self { id: Arc::from(&*self.id), own_offer: self.own_offer.clone(), account: self.account.clone(), ..*self }
    }

    /// The aliases that it may use.
    #[must_use]
    pub fn offer<'a>(&'a self, models: &'a Models) -> &'a Offer {
        self.own_offer.as_deref().unwrap_or(models.all())
    }

    /// Judges one more request. `None` where nothing is counted for its id.
    #[must_use]
    pub fn admit(&self) -> Option<(Admission, Result<(), ApiError>)> {
        self.account.as_ref().map(|account| account.admit(self.limits, Now::read()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ModelConfig;
    use std::collections::BTreeMap;

    const KEY: &str = "sk_live_0123456789abcdef";

    fn models() -> Models {
        let model = |id: &str| ModelConfig { vertex_id: id.into(), locations: None };
        let configured =
            BTreeMap::from([("flash".to_owned(), model("google/a")), ("pro".to_owned(), model("google/b"))]);
        Models::new(&configured, &["global".to_owned()])
    }

    fn keys(json: &str) -> KeysOfThread {
        KeysOfThread::new(Arc::new(Keys::new(&KeyList::parse(json).unwrap(), &models())))
    }

    #[test]
    fn enabled_and_unexpired_keys_admit() {
        let keys = keys(&format!(
            r#"[{{"id":"a","key":"{KEY}"}},{{"id":"a","key":"{KEY}2","enabled":false}},
                {{"id":"a","key":"{KEY}3","expires_at":"2020-01-01T00:00:00Z"}},
                {{"id":"b","key":"{KEY}4","expires_at":"2920-01-01T00:00:00Z"}}]"#
        ));
        assert_eq!(keys.authenticate(KEY.as_bytes()).unwrap().id.as_ref(), "a");
        assert_eq!(keys.authenticate(format!("{KEY}4").as_bytes()).unwrap().id.as_ref(), "b");
        for bad in [format!("{KEY}2"), format!("{KEY}3"), KEY.to_uppercase(), String::new()] {
            assert!(keys.authenticate(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(!format!("{keys:?}").contains(KEY));
    }

    #[test]
    fn metrics_are_for_keys_that_say_so() {
        let keys = keys(&format!(r#"[{{"id":"a","key":"{KEY}","metrics":true}},{{"id":"b","key":"{KEY}2"}}]"#));
        assert!(keys.authenticate(KEY.as_bytes()).unwrap().reads_metrics);
        assert!(!keys.authenticate(format!("{KEY}2").as_bytes()).unwrap().reads_metrics);
    }

    #[test]
    fn a_digest_is_no_key_and_nothing_short_is() {
        let digest = KeyDigest::of(b"short").to_hex();
        let keys = keys(&format!(r#"[{{"id":"a","key_sha256":"{digest}"}}]"#));
        assert!(keys.authenticate(digest.as_bytes()).is_none());
        assert!(keys.authenticate(b"short").is_none());
    }

    #[test]
    fn the_shortest_key_that_a_list_may_have_admits() {
        let shortest = "k".repeat(MIN_KEY_BYTES);
        assert!(keys(&format!(r#"[{{"id":"a","key":"{shortest}"}}]"#)).authenticate(shortest.as_bytes()).is_some());
    }

    #[test]
    fn a_key_offers_its_own_models_only() {
        let keys = keys(&format!(r#"[{{"id":"a","key":"{KEY}","models":["pro"]}},{{"id":"b","key":"{KEY}2"}}]"#));
        let models = models();
        let own = keys.authenticate(KEY.as_bytes()).unwrap();
        assert!(own.offer(&models).has("pro") && !own.offer(&models).has("flash"));
        assert_eq!(own.offer(&models).names(), "pro");
        let all = keys.authenticate(format!("{KEY}2").as_bytes()).unwrap();
        assert_eq!(all.offer(&models).names(), "flash, pro");
    }

    #[test]
    fn a_key_that_is_gone_admits_on_no_thread() {
        let first = keys(&format!(r#"[{{"id":"a","key":"{KEY}"}}]"#));
        let second = KeysOfThread::new(first.of_all_threads().clone());
        let held = [&first, &second].map(|keys| keys.authenticate(KEY.as_bytes()).unwrap());
        assert!(!Arc::ptr_eq(&held[0], &held[1]) && !Arc::ptr_eq(&held[0].id, &held[1].id));
        let other = KeyList::parse(&format!(r#"[{{"id":"b","key":"{KEY}2"}}]"#)).unwrap();
        first.of_all_threads().replace(&other, &models());
        for keys in [&first, &second] {
            assert!(keys.authenticate(KEY.as_bytes()).is_none());
            assert_eq!(&*keys.authenticate(format!("{KEY}2").as_bytes()).unwrap().id, "b");
        }
    }

    #[test]
    fn what_an_id_did_outlives_a_reload_and_is_forgotten_with_the_id() {
        let limited = format!(r#"[{{"id":"a","key":"{KEY}","rpm":1}},{{"id":"a","key":"{KEY}2"}}]"#);
        let keys = keys(&limited);
        let admit =
            |text: &str| keys.authenticate(text.as_bytes()).unwrap().admit().map(|(_, verdict)| verdict.is_ok());
        assert_eq!(admit(KEY), Some(true));
        assert_eq!(admit(KEY), Some(false));
        assert_eq!(admit(&format!("{KEY}2")), Some(true), "counted, but judged by an entry without limits");
        let reload = |json: &str| keys.of_all_threads().replace(&KeyList::parse(json).unwrap(), &models());
        reload(&format!(r#"[{{"id":"b","key":"{KEY}"}}]"#));
        assert_eq!(admit(KEY), None);
        assert_eq!(keys.of_all_threads().accounts.lock().unwrap().len(), 1, "its last minute is not over");
        reload(&limited);
        assert_eq!(admit(KEY), Some(false));
        // An id that has done nothing leaves nothing behind.
        reload(&format!(r#"[{{"id":"c","key":"{KEY}","rpm":1}}]"#));
        reload(&limited);
        assert_eq!(keys.of_all_threads().accounts.lock().unwrap().len(), 1);
    }
}
