//! Figures: what was measured of each contestant in each round, and what the gateway has to reach.

use crate::contestant::Contestant;
use crate::statistics::median;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the gateway has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// At most so many times nginx's figure.
    TimesNginx(f64),
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// One figure. Smaller is better, unless a goal says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    /// By contestant, one for each round.
    pub(crate) rounds: BTreeMap<String, Vec<f64>>,
    /// By contestant.
    pub(crate) medians: BTreeMap<String, f64>,
    /// By contestant: the median of the ratios to nginx, each within one round.
    pub(crate) times_nginx: BTreeMap<String, f64>,
    pub(crate) goal: Option<Goal>,
    /// The conditions were not those that the goal is for.
    #[serde(default)]
    pub(crate) is_doubtful: bool,
    /// Whether the gateway reached it; `None` where there is no goal, or no nginx to compare with, or doubt.
    pub(crate) reached: Option<bool>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &str) -> Self {
        Self {
            name: name.into(),
            unit: unit.to_owned(),
            rounds: BTreeMap::new(),
            medians: BTreeMap::new(),
            times_nginx: BTreeMap::new(),
            goal: None,
            is_doubtful: false,
            reached: None,
        }
    }

    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// A figure of the gateway alone.
    pub(crate) fn of_gateway(name: impl Into<String>, unit: &str, value: f64) -> Self {
        let mut figure = Self::new(name, unit);
        figure.note(Contestant::Gateway, value);
        figure
    }

    /// Notes what a round showed. Rounds come in order, and each contestant takes part in each.
    pub(crate) fn note(&mut self, contestant: Contestant, value: f64) {
        // Where nothing was counted there is nothing to divide by, and no number for it in a report.
        let value = if value.is_finite() { value } else { 0.0 };
        self.rounds.entry(contestant.name().to_owned()).or_default().push(value);
    }

    /// The median of a contestant's rounds so far.
    pub(crate) fn median_of(&self, contestant: Contestant) -> Option<f64> {
        median(self.rounds.get(contestant.name())?)
    }

    /// Draws the conclusions, after the last round.
    pub(crate) fn conclude(mut self) -> Self {
        let nginx = self.rounds.get("nginx");
        for (name, values) in &self.rounds {
            self.medians.extend(median(values).map(|middle| (name.clone(), middle)));
            if let Some(nginx) = nginx.filter(|_| name != "nginx") {
                // Of what one adds to another, a round may show less than nothing: nobody is any number of times that. Where
                // that is half of the rounds, those in which nginx looked slow must not stand for all.
                let comparable = values.iter().zip(nginx).filter(|(_, nginx)| **nginx > 0.0);
                let ratios: Vec<f64> = comparable.map(|(value, nginx)| value / nginx).collect();
                let stand_for_all = ratios.len() * 2 > values.len();
                self.times_nginx.extend(median(&ratios).filter(|_| stand_for_all).map(|middle| (name.clone(), middle)));
            }
        }
        let value = self.medians.get("gateway").copied();
        let ratio = self.times_nginx.get("gateway").copied();
        self.reached = match self.goal.filter(|_| !self.is_doubtful) {
            Some(Goal::TimesNginx(most)) => ratio.map(|ratio| ratio <= most),
            Some(Goal::AtMost(most)) => value.map(|value| value <= most),
            Some(Goal::AtLeast(least)) => value.map(|value| value >= least),
            None => None,
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_rounds() {
        let mut figure = Figure::new("x", "µs").goal(Goal::TimesNginx(1.0));
        // A machine that gets slower and slower: the medians differ, the ratios do not.
        for slowness in [1.0, 2.0, 4.0] {
            figure.note(Contestant::Gateway, 9.0 * slowness);
            figure.note(Contestant::Nginx, 10.0 * slowness);
        }
        let figure = figure.conclude();
        assert_eq!(figure.times_nginx["gateway"], 0.9);
        assert_eq!(figure.medians["gateway"], 18.0);
        assert_eq!(figure.reached, Some(true));
        assert!(!figure.times_nginx.contains_key("nginx"));
    }

    #[test]
    fn no_ratio_is_one_to_nothing_or_less() {
        let figure = |nginx: &[f64]| {
            let mut figure = Figure::new("x", "µs").goal(Goal::TimesNginx(1.0));
            for value in nginx {
                figure.note(Contestant::Gateway, 8.0);
                figure.note(Contestant::Nginx, *value);
            }
            figure.conclude()
        };
        let some = figure(&[-100.0, 4.0, 4.0]);
        assert_eq!((some.times_nginx["gateway"], some.reached), (2.0, Some(false)));
        for few in [&[-100.0, 0.0][..], &[-100.0, 16.0], &[f64::NAN, 16.0]] {
            let none = figure(few);
            assert_eq!((none.times_nginx.len(), none.reached), (0, None));
        }
    }

    #[test]
    fn goals_without_what_they_need_are_open() {
        let mut doubtful = Figure::of_gateway("x", "", 1.0).goal(Goal::AtMost(2.0));
        doubtful.is_doubtful = true;
        assert_eq!(doubtful.conclude().reached, None);
        let figure = Figure::of_gateway("x", "", 3.0).goal(Goal::TimesNginx(1.0)).conclude();
        assert_eq!(figure.reached, None);
        assert_eq!(Figure::of_gateway("x", "", 3.0).goal(Goal::AtMost(2.0)).conclude().reached, Some(false));
        assert_eq!(Figure::of_gateway("x", "", 3.0).goal(Goal::AtLeast(2.0)).conclude().reached, Some(true));
    }
}
