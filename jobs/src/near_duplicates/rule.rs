//! Which signatures are alike: how they are cut into bands, and how many slots have to agree.

use lakebed_core::{Error, Result};
use serde_json::json;

/// How sure a pair at the threshold is to share a band.
const FOUND_MIN: f64 = 0.99;
/// Below it a band would be so short that texts share one by chance.
const THRESHOLD_MIN: f64 = 0.5;
/// Of the bytes that two slots with different smallest shingles have in common, one in so many.
const BYTE_VALUES: f64 = 256.0;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Likeness {
    /// The estimated Jaccard similarity from which on two rows are near duplicates. Without it, sharing a
    /// band is enough.
    pub threshold: Option<f64>,
    /// Bands, and slots of each. Chosen by the threshold when absent.
    pub bands: Option<(usize, usize)>,
}

/// The same for signatures of a known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) bands: usize,
    pub(crate) band_slots: usize,
    /// Slots in which two signatures have to agree.
    pub(crate) agreeing_min: Option<usize>,
}

impl Likeness {
    /// Checks what can be checked without a signature.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not fit.
    pub(crate) fn check(&self) -> Result<()> {
        match (self.threshold, self.bands) {
            (None, None) => Err(Error::invalid("field `threshold` or fields `bands` are missing")),
            (Some(threshold), _) if !(THRESHOLD_MIN..=1.0).contains(&threshold) => {
                let range = format!("{THRESHOLD_MIN} to 1 are allowed");
                Err(Error::invalid(format!("`threshold` is {threshold}; {range}")))
            }
            (_, Some((0, _) | (_, 0))) => {
                Err(Error::invalid("`bands` and `band_slots` have to be 1 or more"))
            }
            _ => Ok(()),
        }
    }

    /// The rule for signatures of `slots` bytes.
    ///
    /// # Errors
    /// `InvalidArgument` when the bands take more slots than there are.
    pub(crate) fn rule(&self, slots: usize) -> Result<Rule> {
        let (bands, band_slots) = match (self.bands, self.threshold) {
            (Some(bands), _) => bands,
            (None, Some(threshold)) => bands_for(threshold, slots),
            (None, None) => return Err(Error::invalid("field `threshold` is missing")),
        };
        if bands.checked_mul(band_slots).is_none_or(|wanted| wanted > slots) {
            return Err(Error::invalid(format!(
                "{bands} bands of {band_slots} slots are more than the {slots} of the signatures"
            )));
        }
        let agreeing_min = self.threshold.map(|threshold| {
            // Of slots that do not agree for a reason one in 256 does by chance.
            let share = threshold + (1.0 - threshold) / BYTE_VALUES;
            ((share * slots as f64) - 1e-9).ceil() as usize
        });
        Ok(Rule { bands, band_slots, agreeing_min })
    }
}

impl Rule {
    /// The rule for people.
    pub(crate) fn shown(&self) -> serde_json::Value {
        json!({ "bands": self.bands, "band_slots": self.band_slots, "agreeing_min": self.agreeing_min })
    }
}

/// The longest bands, which compare the fewest pairs in vain, with which hardly any pair at the threshold
/// is missed.
fn bands_for(threshold: f64, slots: usize) -> (usize, usize) {
    let finds = |band_slots: &usize| {
        let bands = slots / band_slots;
        let missed = (1.0 - threshold.powi(*band_slots as i32)).powi(bands as i32);
        1.0 - missed >= FOUND_MIN
    };
    let band_slots = (1..=slots).rev().find(finds).unwrap_or(1);
    (slots / band_slots, band_slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_chooses_the_bands() {
        assert_eq!(bands_for(0.5, 128), (42, 3));
        assert_eq!(bands_for(0.8, 128), (21, 6));
        assert_eq!(bands_for(0.9, 128), (12, 10));
        assert_eq!(bands_for(1.0, 128), (1, 128));
        assert_eq!(bands_for(0.5, 1), (1, 1));
        let likeness = Likeness { threshold: Some(0.8), bands: None };
        let rule = likeness.rule(128).unwrap();
        // 128 * (0.8 + 0.2 / 256) = 102.5
        assert_eq!(rule, Rule { bands: 21, band_slots: 6, agreeing_min: Some(103) });
        let same = Likeness { threshold: Some(1.0), bands: None }.rule(128).unwrap();
        assert_eq!(same.agreeing_min, Some(128));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let likeness = |threshold, bands| Likeness { threshold, bands };
        for refused in [
            likeness(None, None),
            likeness(Some(0.4), None),
            likeness(Some(1.1), None),
            likeness(Some(f64::NAN), None),
            likeness(None, Some((0, 8))),
            likeness(None, Some((8, 0))),
        ] {
            assert!(refused.check().is_err(), "{refused:?}");
        }
        assert!(likeness(None, Some((14, 8))).check().is_ok());
        assert!(likeness(None, Some((14, 8))).rule(112).is_ok());
        assert!(likeness(None, Some((14, 8))).rule(111).is_err());
        assert!(likeness(None, Some((usize::MAX, 2))).rule(128).is_err());
    }
}
