//! How many clients' connections are open at one time, and what becomes of those beyond.
//!
//! Every connection takes a place when it is accepted. When places run short, whoever has kept one without a request
//! for the longest time is asked to leave, and when nobody has for long but many have just come and said nothing, the
//! first of these; when there is none, the newcomer is told so on one of a few lanes, which are
//! taken from nobody's places; and when these are full too it is closed at once. So refusals never pile up, and cost
//! those who are served nothing.

mod descriptors;

pub use descriptors::raise_limit;

use crate::log::{Log, Severity};
use crate::server::Service;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Descriptors that clients never get: for lanes, connections to Vertex AI (128 carry 12,800 streams, and as many more may be leaving), to metadata
/// and token servers, ports, files, the log.
const RESERVED_DESCRIPTORS: usize = 768;
/// A connection that streams holds less memory than this, buffers of the kernel included, in bytes.
const MEMORY_FOR_EACH: u64 = 32 * 1024;
/// Connections that are being refused at one time, and how many descriptors have to be kept back for each of them.
const MAX_LANES: usize = 256;
const DESCRIPTORS_FOR_LANE: usize = RESERVED_DESCRIPTORS / MAX_LANES;
/// Connections that the metrics port has for itself, so that a full gateway can still be looked at; where descriptors
/// are few, one for two lanes.
const MAX_METRICS_PLACES: usize = 16;
/// Places run short when no more than this part of them is free.
const SHORT: usize = 16;
/// How often the log says that connections are refused, or cannot be accepted, while it is so.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// All places, and who waits at the door.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    places: Arc<Semaphore>,
    lanes: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
    /// Asks connections that do nothing to leave, the one that has waited longest first.
    leave: Notify,
    /// Asks those that have never sent a whole head to leave, the one that came first.
    leave_unheard: Notify,
    /// How many of these there are.
    unheard: AtomicUsize,
    refusals: Seldom,
    failed_accepts: Seldom,
    answered: AtomicU64,
    unanswered: AtomicU64,
    asked_to_leave: AtomicU64,
}

/// What was found for a new connection. It ends when this is dropped.
#[derive(Debug)]
pub enum Place {
    /// It is served.
    Served(OwnedSemaphorePermit),
    /// It is told that there is no place.
    Refused(OwnedSemaphorePermit),
}

/// How things stand.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Places in all.
    pub limit: usize,
    /// Connections that were told that there was no place.
    pub answered: u64,
    /// Connections that were closed without a word.
    pub unanswered: u64,
    /// Idle connections that were closed to make room.
    pub asked_to_leave: u64,
}

impl Connections {
    /// So many places, where so many files may be open.
    #[must_use]
    pub fn new(limit: usize, descriptors: usize) -> Arc<Self> {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let reserve = reserved_of(descriptors);
        let lanes_of = |descriptors: usize| (descriptors / DESCRIPTORS_FOR_LANE).clamp(1, MAX_LANES);
        // MAX_CONNECTIONS may ask for more than leaves the reserve whole.
        let lanes = lanes_of(reserve.min(descriptors.saturating_sub(limit)));
        let metrics = lanes_of(reserve).div_ceil(2).min(MAX_METRICS_PLACES);
        Arc::new(Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            lanes: Arc::new(Semaphore::new(lanes)),
            metrics: Arc::new(Semaphore::new(metrics)),
            leave: Notify::new(),
            leave_unheard: Notify::new(),
            unheard: AtomicUsize::new(0),
            refusals: Seldom::default(),
            failed_accepts: Seldom::default(),
            answered: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            asked_to_leave: AtomicU64::new(0),
        })
    }

    /// A place for a connection that was just accepted; `None` when it is to be closed at once.
    pub fn find_place(&self, service: Service, log: &Log) -> Option<Place> {
        if service == Service::Metrics {
            return self.metrics.clone().try_acquire_owned().ok().map(Place::Served);
        }
        let place = self.places.clone().try_acquire_owned();
        if self.are_short() {
            self.ask_one_to_leave();
        }
        if let Ok(place) = place {
            return Some(Place::Served(place));
        }
        self.tell_refusal(log);
        match self.lanes.clone().try_acquire_owned() {
            Ok(lane) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                Some(Place::Refused(lane))
            }
            Err(_) => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Whether idle connections should make room.
    fn are_short(&self) -> bool {
        self.places.available_permits() <= self.part()
    }

    fn part(&self) -> usize {
        self.limit / SHORT
    }

    /// Whoever has done nothing for a while goes first. Clients that are about to send their first request are no crowd:
    /// of those that have said nothing yet one goes only where there are many.
    fn ask_one_to_leave(&self) {
        let is_heard =
            heard(&self.leave) || (self.unheard.load(Ordering::Relaxed) > self.part() && heard(&self.leave_unheard));
        if !is_heard {
            // For the next one that has done nothing for a while.
            self.leave.notify_one();
        }
    }

    /// Returns when a connection that does nothing should leave; of all that wait here, the one that came first.
    pub async fn room_is_needed(&self) {
        loop {
            self.leave.notified().await;
            // It may have been asked for a while ago, when nobody was here to hear it.
            if self.are_short() {
                self.asked_to_leave.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Returns when a connection that has not sent a whole head yet should leave, in its handshake or behind it; of all
    /// that wait here, the one that came first.
    pub async fn unheard_should_leave(&self) {
        let _counted = Counted::among(&self.unheard);
        loop {
            self.leave_unheard.notified().await;
            if self.are_short() {
                self.asked_to_leave.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    fn tell_refusal(&self, log: &Log) {
        if self.refusals.is_due() {
            let message =
                format!("{} connections are open, as many as MAX_CONNECTIONS allows: more are refused", self.limit);
            log.event(Severity::Warning, &message);
        }
    }

    /// Says that a connection could not be accepted.
    pub fn tell_failed_accept(&self, error: &io::Error, log: &Log) {
        if self.failed_accepts.is_due() {
            log.event(Severity::Error, &format!("cannot accept connections at the moment: {error}"));
        }
    }

    /// How things stand.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            limit: self.limit,
            answered: self.answered.load(Ordering::Relaxed),
            unanswered: self.unanswered.load(Ordering::Relaxed),
            asked_to_leave: self.asked_to_leave.load(Ordering::Relaxed),
        }
    }
}

/// Wakes the first that waits there, if any does. Nobody who comes later hears it.
fn heard(call: &Notify) -> bool {
    call.notify_one();
    !pin!(call.notified()).enable()
}

/// One of a number, as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn among(number: &'a AtomicUsize) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is told again only after [`TELL_AGAIN_AFTER`], however often it happens.
#[derive(Debug, Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    fn is_due(&self) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| told.elapsed() >= TELL_AGAIN_AFTER);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }
}

/// Of so many descriptors, those that clients never get.
fn reserved_of(descriptors: usize) -> usize {
    RESERVED_DESCRIPTORS.min(descriptors / 2)
}

/// As many connections as descriptors and memory are good for. An upstream without HTTP/2 needs a connection of its own
/// for each request.
#[must_use]
pub fn default_limit(descriptors: usize, memory: u64, upstream_is_http1: bool) -> usize {
    let left = descriptors - reserved_of(descriptors);
    let by_descriptors = if upstream_is_http1 { left / 2 } else { left };
    let by_memory = usize::try_from(memory / MEMORY_FOR_EACH).unwrap_or(usize::MAX);
    by_descriptors.min(by_memory).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Style;

    fn log() -> Log {
        Log::start(Style::Json, io::sink())
    }

    #[test]
    fn the_default_follows_from_descriptors_and_memory() {
        const GIB: u64 = 1 << 30;
        assert_eq!(default_limit(20_000, 16 * GIB, false), 19_232);
        assert_eq!(default_limit(20_000, 16 * GIB, true), 9616);
        assert_eq!(default_limit(1024, 16 * GIB, false), 512);
        assert_eq!(default_limit(1_048_576, GIB / 2, false), 16_384);
        assert_eq!(default_limit(1, 1, true), 1);
    }

    #[test]
    fn one_too_many_gets_a_lane_and_then_nothing() {
        let connections = Connections::new(2, 10_000);
        let find = || connections.find_place(Service::Gateway, &log());
        let places: Vec<_> = (0..2).map(|_| find()).collect();
        assert!(places.iter().all(|place| matches!(place, Some(Place::Served(_)))));
        let lanes: Vec<_> = (0..MAX_LANES).map(|_| find()).collect();
        assert!(lanes.iter().all(|lane| matches!(lane, Some(Place::Refused(_)))));
        assert!(find().is_none());
        let figures = connections.figures();
        assert_eq!((figures.answered, figures.unanswered), (MAX_LANES as u64, 1));
        // The metrics port has places of its own.
        assert!(matches!(connections.find_place(Service::Metrics, &log()), Some(Place::Served(_))));
        drop(places);
        assert!(matches!(find(), Some(Place::Served(_))));
    }

    #[test]
    fn where_descriptors_are_few_so_are_lanes() {
        for (limit, descriptors, lanes, metrics) in
            [(19_232, 20_000, 256, 16), (512, 1024, 170, 16), (32, 64, 10, 5), (1000, 1024, 8, 16), (5000, 100, 1, 8)]
        {
            let connections = Connections::new(limit, descriptors);
            let found = (connections.lanes.available_permits(), connections.metrics.available_permits());
            assert_eq!(found, (lanes, metrics), "{limit} of {descriptors}");
        }
    }

    #[tokio::test]
    async fn who_has_waited_longest_leaves_first() {
        let connections = Connections::new(2, 10_000);
        let mut waiting = [0, 1].map(|_| Box::pin(connections.room_is_needed()));
        for waiting in &mut waiting {
            assert!(futures_are_pending(waiting.as_mut()).await);
        }
        let _place = connections.find_place(Service::Gateway, &log());
        assert!(futures_are_pending(waiting[0].as_mut()).await, "half of the places are free");
        let _last = connections.find_place(Service::Gateway, &log());
        assert!(futures_are_pending(waiting[1].as_mut()).await);
        waiting[0].as_mut().await;
        assert_eq!(connections.figures().asked_to_leave, 1);
    }

    #[tokio::test]
    async fn of_a_crowd_that_says_nothing_the_first_leaves_and_few_are_left_alone() {
        let connections = Connections::new(16, 10_000);
        let _places: Vec<_> = (0..14).map(|_| connections.find_place(Service::Gateway, &log())).collect();
        let mut first = Box::pin(connections.unheard_should_leave());
        assert!(futures_are_pending(first.as_mut()).await);
        let _short = connections.find_place(Service::Gateway, &log());
        assert!(futures_are_pending(first.as_mut()).await, "one is no crowd");
        let mut second = Box::pin(connections.unheard_should_leave());
        // It has heard nothing of what was before, but whoever has rested has.
        assert!(futures_are_pending(second.as_mut()).await);
        connections.room_is_needed().await;
        let _full = connections.find_place(Service::Gateway, &log());
        assert!(futures_are_pending(second.as_mut()).await);
        first.await;
        // Whoever has rested goes before a crowd.
        let mut rested = Box::pin(connections.room_is_needed());
        let mut third = Box::pin(connections.unheard_should_leave());
        assert!(futures_are_pending(rested.as_mut()).await && futures_are_pending(third.as_mut()).await);
        let _refused = connections.find_place(Service::Gateway, &log());
        assert!(futures_are_pending(second.as_mut()).await);
        rested.await;
        drop((second, third));
        assert_eq!(connections.unheard.load(Ordering::Relaxed), 0);
    }

    async fn futures_are_pending<F: Future<Output = ()>>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }
}
