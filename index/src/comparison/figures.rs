//! The numbers of a comparison, from what was found.

/// How far two columns agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Queries that were compared.
    pub queries: usize,
    /// The mean share of rows that both columns found.
    pub overlap: f64,
    /// A tenth of the queries have less.
    pub overlap_p10: f64,
    /// Queries by how many rows both found, from none to `k`.
    pub histogram: Vec<usize>,
    /// Spearman's rank correlation of the rows that both found, the mean over queries where they are two at
    /// least; nothing where no query has two.
    pub rank_correlation: Option<f64>,
}

/// How far two columns agree on one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryOverlap {
    /// The query's place.
    pub at: usize,
    /// Rows that both found.
    pub common: usize,
    /// Their share.
    pub share: f64,
}

/// What both lists of each query have in common.
pub(super) fn overlaps(from: &[Vec<u64>], to: &[Vec<u64>]) -> Vec<QueryOverlap> {
    let pairs = from.iter().zip(to).enumerate();
    let overlap = pairs.map(|(at, (from, to))| {
        let common = from.iter().filter(|id| to.contains(id)).count();
        // Of a small table fewer rows than `k` are found.
        let of = from.len().max(to.len());
        let share = if of == 0 { 1.0 } else { common as f64 / of as f64 };
        QueryOverlap { at, common, share }
    });
    overlap.collect()
}

pub(super) fn figures(from: &[Vec<u64>], to: &[Vec<u64>], k: usize) -> Figures {
    let overlaps = overlaps(from, to);
    let shares: Vec<f64> = overlaps.iter().map(|overlap| overlap.share).collect();
    let mut histogram = vec![0; k + 1];
    for overlap in &overlaps {
        if let Some(count) = histogram.get_mut(overlap.common) {
            *count += 1;
        }
    }
    let ranks: Vec<f64> = from.iter().zip(to).filter_map(|(a, b)| correlation(a, b)).collect();
    Figures {
        queries: overlaps.len(),
        overlap: mean(&shares).unwrap_or_default(),
        overlap_p10: percentile(&shares, 0.1).unwrap_or_default(),
        histogram,
        rank_correlation: mean(&ranks),
    }
}

/// The share of the rows of each exact answer that are in the other one.
pub(super) fn recalls(exact: &[Vec<u64>], found: &[Vec<u64>]) -> Vec<f64> {
    let recall = |(exact, found): (&Vec<u64>, &Vec<u64>)| match exact.len() {
        0 => 1.0,
        all => exact.iter().filter(|id| found.contains(id)).count() as f64 / all as f64,
    };
    exact.iter().zip(found).map(recall).collect()
}

pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which the share `p` of the values lies.
pub(super) fn percentile(values: &[f64], p: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (p * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(place).copied()
}

/// Spearman's rho over the rows that are in both lists, by their order in each.
fn correlation(from: &[u64], to: &[u64]) -> Option<f64> {
    let common: Vec<u64> = from.iter().copied().filter(|id| to.contains(id)).collect();
    let order: Vec<u64> = to.iter().copied().filter(|id| common.contains(id)).collect();
    let count = common.len();
    if count < 2 {
        return None;
    }
    let squares: f64 = common
        .iter()
        .enumerate()
        .filter_map(|(at, id)| Some((at, order.iter().position(|other| other == id)?)))
        .map(|(at, other)| (at as f64 - other as f64).powi(2))
        .sum();
    let n = count as f64;
    Some(1.0 - 6.0 * squares / (n * (n * n - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_find_is_counted() {
        let from = [vec![1, 2, 3, 4], vec![1, 2, 3, 4], vec![]];
        let to = [vec![1, 2, 3, 4], vec![9, 3, 2, 8], vec![]];
        let found = figures(&from, &to, 4);
        assert_eq!(found.histogram, [1, 0, 1, 0, 1]);
        assert!((found.overlap - 2.5 / 3.0).abs() < 1e-9);
        assert_eq!(found.overlap_p10, 0.5);
        // The first agrees wholly, the second has its two in the other order.
        assert_eq!(found.rank_correlation, Some(0.0));
        assert_eq!(correlation(&[1, 2, 3], &[1, 2, 3]), Some(1.0));
        assert_eq!(correlation(&[1, 2, 3], &[3, 2, 1]), Some(-1.0));
        assert_eq!(correlation(&[1, 2], &[2, 7]), None);
    }

    #[test]
    fn recall_is_the_share_of_the_exact_answer() {
        let exact = [vec![1, 2], vec![3, 4], vec![]];
        assert_eq!(recalls(&exact, &[vec![2, 9], vec![4, 3], vec![]]), [0.5, 1.0, 1.0]);
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
