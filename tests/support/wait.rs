//! Conditions to wait for: a watched value and a gate.
use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long any condition may take. Far beyond what is needed, so that only a real hang meets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A value that threads change and tests wait on.
pub(crate) struct Watched<T>(Arc<(Mutex<T>, Condvar)>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Default for Watched<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new((Mutex::new(value), Condvar::new())))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value and wakes whoever waits.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.0.1.notify_all();
        result
    }

    pub(crate) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.lock())
    }

    /// Waits until `found` gives something, or until `limit` is over.
    pub(crate) fn wait_for<R>(&self, limit: Duration, mut found: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let until = Instant::now() + limit;
        let mut guard = self.lock();
        loop {
            if let Some(result) = found(&guard) {
                return Some(result);
            }
            let left = until.checked_duration_since(Instant::now())?;
            guard = self.0.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until `found` gives something; past the deadline the test fails and says what it waited for.
    #[track_caller]
    pub(crate) fn wait<R>(&self, what: &str, found: impl FnMut(&T) -> Option<R>) -> R
    where
        T: Debug,
    {
        match self.wait_for(DEADLINE, found) {
            Some(result) => result,
            None => panic!("waited in vain for {what}; state: {:?}", self.lock()),
        }
    }
}

/// Opens once; threads and tasks wait for it.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Watched<bool>,
    tasks: Arc<tokio::sync::watch::Sender<bool>>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { open: Watched::new(false), tasks: Arc::new(tokio::sync::watch::Sender::new(false)) }
    }

    pub(crate) fn open(&self) {
        self.open.change(|open| *open = true);
        self.tasks.send_replace(true);
    }

    /// For threads.
    #[track_caller]
    pub(crate) fn wait(&self) {
        self.open.wait("a gate to open", |open| open.then_some(()));
    }

    /// For tasks.
    pub(crate) async fn opened(&self) {
        let mut tasks = self.tasks.subscribe();
        tasks.wait_for(|open| *open).await.expect("the gate holds the sender");
    }
}
