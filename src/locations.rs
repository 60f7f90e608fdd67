//! Which of a model's locations a request goes to, where there are several.
//!
//! The first that did not fail lately; if it fails there, a later one. Extra attempts are paid for from a bucket that
//! requests fill, so that a storm of failures is never answered by a storm of attempts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a location is passed over after it failed. Shared capacity comes and goes within seconds.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// Attempts of one request beside its first.
const MAX_EXTRA_ATTEMPTS: u32 = 2;
/// What one extra attempt costs, in parts: every request brings one in. With three attempts in hand, N requests make at
/// most 3 + N/8 more of them, which is less than N/5 from 40 requests on.
const PRICE: u32 = 8;
/// What the bucket holds at most, and at start.
const BUCKET: u32 = 3 * PRICE;

/// The locations of one model, in the order in which they are wanted, and how they do.
#[derive(Debug)]
pub struct Route {
    places: Vec<Place>,
    /// Paid in and not spent, in parts of [`PRICE`].
    bucket: AtomicU32,
    epoch: Instant,
}

#[derive(Debug)]
struct Place {
    /// The index of the location among all.
    location: usize,
    /// Until when it is passed over, in milliseconds since the route's epoch.
    rests_until: AtomicU64,
}

/// The way of one request through several locations.
#[derive(Debug)]
pub struct Tour<'r> {
    route: &'r Route,
    /// The place where it is.
    at: usize,
    extra_left: u32,
}

impl Route {
    /// A route over these locations, each given by its index, of which there is one at least.
    #[must_use]
    pub fn new(locations: Vec<usize>) -> Self {
        let place = |location| Place { location, rests_until: AtomicU64::new(0) };
        Self {
            places: locations.into_iter().map(place).collect(),
            bucket: AtomicU32::new(BUCKET),
            epoch: Instant::now(),
        }
    }

    /// The location that is wanted most.
    #[must_use]
    pub fn first(&self) -> usize {
        self.places[0].location
    }

    /// All locations, in the order in which they are wanted.
    pub fn locations(&self) -> impl Iterator<Item = usize> {
        self.places.iter().map(|place| place.location)
    }

    /// Begins the way of one request; `None` where there is only one location.
    #[must_use]
    pub fn tour(&self) -> Option<Tour<'_>> {
        if self.places.len() == 1 {
            return None;
        }
        let fill = |held: u32| Some((held + 1).min(BUCKET));
        let _ = self.bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill);
        // Where all of them rest, the first says how things are.
        let at = self.awake_from(0).unwrap_or(0);
        Some(Tour { route: self, at, extra_left: MAX_EXTRA_ATTEMPTS })
    }

    /// The next place that does not rest.
    fn awake_from(&self, from: usize) -> Option<usize> {
        let now = self.now();
        (from..self.places.len()).find(|place| self.places[*place].rests_until.load(Ordering::Relaxed) <= now)
    }

    /// Takes the price of an attempt, if the bucket has it.
    fn pay(&self) -> bool {
        self.bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| held.checked_sub(PRICE)).is_ok()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Tour<'_> {
    /// The location where it is.
    #[must_use]
    pub fn location(&self) -> usize {
        self.route.places[self.at].location
    }

    /// Notes that this location failed, and goes on to a later one, if the request may be tried there.
    #[must_use]
    pub fn go_on(&mut self) -> bool {
        let until = self.route.now() + COOL_DOWN.as_millis() as u64;
        self.route.places[self.at].rests_until.fetch_max(until, Ordering::Relaxed);
        let Some(next) = self.route.awake_from(self.at + 1) else { return false };
        if self.extra_left == 0 || !self.route.pay() {
            return false;
        }
        self.extra_left -= 1;
        self.at = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rests(route: &Route, place: usize) -> bool {
        route.awake_from(place) != Some(place)
    }

    /// Lets the time of rest pass.
    fn wake(route: &Route) {
        for place in &route.places {
            place.rests_until.store(0, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_location_has_no_tour() {
        let route = Route::new(vec![7]);
        assert_eq!((route.first(), route.tour().is_none()), (7, true));
    }

    #[test]
    fn later_ones_follow_and_those_that_failed_rest() {
        let route = Route::new(vec![4, 2, 9]);
        let mut tour = route.tour().unwrap();
        assert_eq!(tour.location(), 4);
        assert!(tour.go_on());
        assert_eq!(tour.location(), 2);
        // The next request does not even ask the first.
        let mut second = route.tour().unwrap();
        assert_eq!(second.location(), 2);
        assert!(second.go_on() && second.location() == 9);
        assert!(!second.go_on(), "there are no more");
        assert_eq!(route.tour().unwrap().location(), 4, "all rest");
        assert!(!route.tour().unwrap().go_on());
        wake(&route);
        assert!(!rests(&route, 0) && route.tour().unwrap().location() == 4);
    }

    #[test]
    fn one_request_makes_two_extra_attempts() {
        let route = Route::new(vec![0, 1, 2, 3, 4]);
        let mut tour = route.tour().unwrap();
        assert!(tour.go_on() && tour.go_on());
        assert!(!tour.go_on());
        assert_eq!(tour.location(), 2);
    }

    proptest! {
        /// Whatever fails and however often the cool-down ends meanwhile.
        #[test]
        fn load_stays_within_a_fifth(requests in 40_usize..600, places in 2_usize..6, waking in any::<u64>()) {
            let route = Route::new((0..places).collect());
            let mut attempts = 0;
            // All are under way before the first fails: the worst that can be.
            let tours: Vec<_> = (0..requests).map(|_| route.tour().unwrap()).collect();
            for (number, mut tour) in tours.into_iter().enumerate() {
                attempts += 1;
                while tour.go_on() {
                    attempts += 1;
                    if waking >> (number % 64) & 1 == 1 {
                        wake(&route);
                    }
                }
                wake(&route);
            }
            prop_assert!(attempts * 5 <= requests * 6, "{attempts} for {requests}");
            // And one after the other.
            let mut attempts = 0;
            let route = Route::new((0..places).collect());
            for _ in 0..requests {
                let mut tour = route.tour().unwrap();
                attempts += 1;
                while tour.go_on() {
                    attempts += 1;
                    wake(&route);
                }
                wake(&route);
            }
            prop_assert!(attempts * 5 <= requests * 6, "{attempts} for {requests}");
            prop_assert!(attempts * 9 >= requests * 10, "it is used: {attempts} for {requests}");
        }
    }
}
