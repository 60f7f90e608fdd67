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
/// What one extra attempt costs, in parts: every request brings one in.
const PRICE: u32 = 8;
/// What the bucket holds at most: three attempts.
const BUCKET: u32 = 3 * PRICE;
/// What it holds at start, so that the first request can pay already. Since the start N requests make N/8 extra
/// attempts at most, rounded up; and N requests in a row, whatever went before, at most 3 + N/8.
const AT_START: u32 = PRICE - 1;

/// The locations of one model, in the order in which they are wanted, and how they do.
#[derive(Debug)]
pub struct Route {
    places: Vec<Place>,
    /// Paid in and not spent, in parts of [`PRICE`].
    bucket: AtomicU32,
    extra_attempts: AtomicU64,
    unpaid_attempts: AtomicU64,
    epoch: Instant,
}

/// What has become of extra attempts since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraAttempts {
    /// How many there were.
    pub made: u64,
    /// How many there were not, since the bucket was empty.
    pub unpaid: u64,
}

#[derive(Debug)]
struct Place {
    /// The index of the location among all.
    location: usize,
    /// Until when it is passed over, in microseconds since the route's epoch; zero where it did well last.
    rests_until: AtomicU64,
}

/// The way of one request through several locations.
#[derive(Debug)]
pub struct Tour<'r> {
    route: &'r Route,
    /// The place where it is.
    at: usize,
    /// Until when that place rested as it was chosen.
    rested_until: u64,
    attempts: u32,
}

impl Place {
    fn rests(&self, now: u64) -> bool {
        self.rests_until.load(Ordering::Relaxed) > now
    }

    /// Whether a request may go there, and what is to be remembered of it. After a rest only one may, to see how things
    /// are; it gets a rest's time for that, in which others pass by.
    fn enter(&self, now: u64) -> Option<u64> {
        let seen = self.rests_until.load(Ordering::Relaxed);
        if seen == 0 {
            return Some(0);
        }
        let until = now + COOL_DOWN.as_micros() as u64;
        let is_free =
            seen <= now && self.rests_until.compare_exchange(seen, until, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_free.then_some(until)
    }
}

impl Route {
    /// A route over these locations, each given by its index, of which there is one at least.
    #[must_use]
    pub fn new(locations: Vec<usize>) -> Self {
        let place = |location| Place { location, rests_until: AtomicU64::new(0) };
        Self {
            places: locations.into_iter().map(place).collect(),
            bucket: AtomicU32::new(AT_START),
            extra_attempts: AtomicU64::new(0),
            unpaid_attempts: AtomicU64::new(0),
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

    /// What has become of extra attempts; `None` where there is only one location.
    #[must_use]
    pub fn extra_attempts(&self) -> Option<ExtraAttempts> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let figures = ExtraAttempts { made: read(&self.extra_attempts), unpaid: read(&self.unpaid_attempts) };
        (self.places.len() > 1).then_some(figures)
    }

    /// Begins the way of one request; `None` where there is only one location.
    #[must_use]
    pub fn tour(&self) -> Option<Tour<'_>> {
        if self.places.len() == 1 {
            return None;
        }
        self.pay_in(1);
        // Where all of them rest, the first says how things are.
        let (at, rested_until) =
            self.enter_from(0).unwrap_or_else(|| (0, self.places[0].rests_until.load(Ordering::Relaxed)));
        Some(Tour { route: self, at, rested_until, attempts: 1 })
    }

    /// The next place that may be asked.
    fn enter_from(&self, from: usize) -> Option<(usize, u64)> {
        let now = self.now();
        (from..self.places.len()).find_map(|at| Some((at, self.places[at].enter(now)?)))
    }

    fn pay_in(&self, parts: u32) {
        let fill = |held: u32| Some((held + parts).min(BUCKET));
        let _ = self.bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill);
    }

    /// Takes the price of an attempt, if the bucket has it.
    fn pay(&self) -> bool {
        self.bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| held.checked_sub(PRICE)).is_ok()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Tour<'_> {
    /// The location where it is.
    #[must_use]
    pub fn location(&self) -> usize {
        self.route.places[self.at].location
    }

    /// How many locations it has been at, this one among them.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Notes that this location is well.
    pub fn arrive(&self) {
        if self.rested_until != 0 {
            // Unless somebody has found otherwise since.
            let rests_until = &self.route.places[self.at].rests_until;
            let _ = rests_until.compare_exchange(self.rested_until, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes that this location failed, and goes on to a later one, if the request may be tried there.
    #[must_use]
    pub fn go_on(&mut self) -> bool {
        let now = self.route.now();
        self.route.places[self.at].rests_until.fetch_max(now + COOL_DOWN.as_micros() as u64, Ordering::Relaxed);
        let all_rest = self.route.places.iter().skip(self.at + 1).all(|place| place.rests(now));
        if self.attempts > MAX_EXTRA_ATTEMPTS || all_rest {
            return false;
        }
        if !self.route.pay() {
            self.route.unpaid_attempts.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let Some((at, rested_until)) = self.route.enter_from(self.at + 1) else {
            // Others came first.
            self.route.pay_in(PRICE);
            return false;
        };
        self.route.extra_attempts.fetch_add(1, Ordering::Relaxed);
        (self.at, self.rested_until) = (at, rested_until);
        self.attempts += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lets the time of rest pass, and no more.
    fn wake(route: &Route) {
        for place in &route.places {
            place.rests_until.fetch_min(1, Ordering::Relaxed);
        }
        // What fails from here on does so later than what failed before.
        let now = route.now();
        while route.now() == now {}
    }

    /// A route with three attempts in hand.
    fn full(locations: Vec<usize>) -> Route {
        let route = Route::new(locations);
        route.pay_in(BUCKET);
        route
    }

    #[test]
    fn one_location_has_no_tour() {
        let route = Route::new(vec![7]);
        assert_eq!((route.first(), route.tour().is_none(), route.extra_attempts()), (7, true, None));
    }

    #[test]
    fn later_ones_follow_and_those_that_failed_rest() {
        let route = full(vec![4, 2, 9]);
        let mut tour = route.tour().unwrap();
        assert_eq!((tour.location(), tour.attempts()), (4, 1));
        assert!(tour.go_on());
        assert_eq!((tour.location(), tour.attempts()), (2, 2));
        // The next request does not even ask the first.
        let mut second = route.tour().unwrap();
        assert_eq!((second.location(), second.attempts()), (2, 1));
        assert!(second.go_on() && second.location() == 9);
        assert!(!second.go_on(), "there are no more");
        assert_eq!(route.tour().unwrap().location(), 4, "all rest");
        assert!(!route.tour().unwrap().go_on());
        assert_eq!(route.extra_attempts(), Some(ExtraAttempts { made: 2, unpaid: 0 }));
        wake(&route);
        assert_eq!(route.tour().unwrap().location(), 4);
    }

    #[test]
    fn after_a_rest_one_request_tries_it_and_the_others_wait_for_how_it_does() {
        let route = full(vec![4, 2]);
        assert!(route.tour().unwrap().go_on());
        wake(&route);
        let trial = route.tour().unwrap();
        assert_eq!(trial.location(), 4);
        assert_eq!(route.tour().unwrap().location(), 2);
        trial.arrive();
        assert_eq!((route.tour().unwrap().location(), route.tour().unwrap().location()), (4, 4));
        // A trial of which nobody hears ends with its time.
        assert!(route.tour().unwrap().go_on());
        wake(&route);
        assert_eq!(route.tour().unwrap().location(), 4);
        assert_eq!(route.tour().unwrap().location(), 2);
        wake(&route);
        assert_eq!(route.tour().unwrap().location(), 4);
    }

    #[test]
    fn a_rest_and_a_trial_take_five_seconds() {
        let route = full(vec![4, 2]);
        let rest_left = || Duration::from_micros(route.places[0].rests_until.load(Ordering::Relaxed) - route.now());
        let five_seconds = Duration::from_secs(1)..=Duration::from_secs(5);
        assert!(route.tour().unwrap().go_on());
        assert!(five_seconds.contains(&rest_left()), "{:?}", rest_left());
        wake(&route);
        assert_eq!(route.tour().unwrap().location(), 4);
        assert!(five_seconds.contains(&rest_left()), "{:?}", rest_left());
    }

    #[test]
    fn who_arrives_does_not_end_a_rest_that_came_later() {
        let route = full(vec![4, 2]);
        let (early, mut failing) = (route.tour().unwrap(), route.tour().unwrap());
        assert!(failing.go_on());
        early.arrive();
        assert_eq!(route.tour().unwrap().location(), 2);
        wake(&route);
        let trial = route.tour().unwrap();
        wake(&route);
        assert!(route.tour().unwrap().go_on());
        trial.arrive();
        assert_eq!(route.tour().unwrap().location(), 2);
    }

    /// All rest, the first is asked nevertheless and is well: then everybody may go there.
    #[test]
    fn who_is_asked_in_its_rest_and_does_well_rests_no_longer() {
        let route = full(vec![4, 2]);
        let mut tour = route.tour().unwrap();
        assert!(tour.go_on() && !tour.go_on());
        let asked = route.tour().unwrap();
        assert_eq!(asked.location(), 4);
        asked.arrive();
        assert_eq!(route.tour().unwrap().location(), 4);
        assert!(!route.tour().unwrap().go_on());
    }

    #[test]
    fn one_request_makes_two_extra_attempts() {
        let route = full(vec![0, 1, 2, 3, 4]);
        let mut tour = route.tour().unwrap();
        assert!(tour.go_on() && tour.go_on());
        assert!(!tour.go_on());
        assert_eq!((tour.location(), tour.attempts()), (2, 3));
        assert_eq!(route.extra_attempts(), Some(ExtraAttempts { made: 2, unpaid: 0 }));
    }

    #[test]
    fn the_first_request_can_be_tried_elsewhere_and_then_every_eighth() {
        let route = Route::new(vec![0, 1]);
        let paid: Vec<usize> = (1..=25)
            .filter(|_| {
                wake(&route);
                let paid = route.tour().unwrap().go_on();
                wake(&route);
                paid
            })
            .collect();
        assert_eq!(paid, [1, 9, 17, 25]);
        assert_eq!(route.extra_attempts(), Some(ExtraAttempts { made: 4, unpaid: 21 }));
    }

    #[test]
    fn calm_saves_three_attempts_and_no_more() {
        let route = Route::new(vec![0, 1]);
        for _ in 0..1000 {
            route.tour().unwrap().arrive();
        }
        let tours: Vec<_> = (0..10).map(|_| route.tour().unwrap()).collect();
        let paid = tours.into_iter().filter_map(|mut tour| {
            wake(&route);
            tour.go_on().then_some(())
        });
        assert_eq!(paid.count(), 3);
    }

    proptest! {
        /// Whatever fails and does well, in any order, and however often the cool-down ends meanwhile: since the start
        /// at most 1.2 attempts for a request, rounded up; and from any moment on three more than N/8 at most.
        #[test]
        fn load_stays_within_its_budget(
            places in 2_usize..6,
            steps in proptest::collection::vec((0_u8..8, any::<prop::sample::Index>()), 1..800),
        ) {
            let route = Route::new((0..places).collect());
            let mut under_way: Vec<Tour<'_>> = Vec::new();
            let (mut requests, mut extra) = (0_i64, 0_i64);
            let mut least = 0;
            for (step, which) in steps {
                match step {
                    0..3 => {
                        under_way.push(route.tour().unwrap());
                        requests += 1;
                    }
                    3 => wake(&route),
                    _ if under_way.is_empty() => {}
                    4 => under_way.swap_remove(which.index(under_way.len())).arrive(),
                    _ => {
                        let at = which.index(under_way.len());
                        if under_way[at].go_on() {
                            extra += 1;
                            prop_assert!(under_way[at].attempts() <= 3);
                        } else {
                            under_way.swap_remove(at);
                        }
                    }
                }
                let attempts = requests + extra;
                prop_assert!(extra <= (requests + 7) / 8, "{extra} extra ones for {requests}");
                prop_assert!(attempts <= (requests * 6 + 4) / 5, "{attempts} for {requests}");
                let spent = extra * 8 - requests;
                least = least.min(spent);
                prop_assert!(spent - least <= 24, "of some last requests");
            }
        }

        /// One after the other, each fails wherever it is tried.
        #[test]
        fn the_budget_is_used(requests in 1_u64..600, places in 2_usize..6) {
            let route = Route::new((0..places).collect());
            for _ in 0..requests {
                let mut tour = route.tour().unwrap();
                while tour.go_on() {
                    wake(&route);
                }
                wake(&route);
            }
            prop_assert_eq!(route.extra_attempts().unwrap().made, requests.div_ceil(8));
        }
    }
}
