//! When segments are joined: which, and into what. Pure.
//!
//! New rows are compared one by one until they are many; then they become a segment with a graph. Every
//! segment costs a search of its own, so there are few: small ones are joined to a larger, and once the
//! small ones together are a share of the largest, or many of its rows are masked, all become one.

/// What is known of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartFacts {
    /// Rows, masked ones included.
    pub rows: usize,
    /// Visible rows.
    pub visible: usize,
    /// Whether it has a graph.
    pub has_graph: bool,
}

/// Bytes of codes that are compared one by one in about the time that a graph takes.
const FRESH_BYTES: usize = 1 << 20;
/// Parts without a graph, at most, each of which is a few rows of some write.
const FRESH_PARTS_MAX: usize = 24;
/// Segments with a graph, at most.
const GRAPHS_MAX: usize = 3;
/// All are joined once the smaller ones have so large a share of the largest,
const SMALL_PERCENT: usize = 25;
/// or so large a share of the rows is masked.
const MASKED_PERCENT: usize = 20;

/// What to do with parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    /// Nothing.
    Nothing,
    /// To put these parts into one without a graph: cheap, done at once.
    Gather(Vec<usize>),
    /// To make one segment with a graph of these parts: done beside the searches.
    Join(Vec<usize>),
}

/// What the parts of an index need.
pub fn upkeep(parts: &[PartFacts], stride: usize) -> Upkeep {
    let all = || (0..parts.len()).collect::<Vec<usize>>();
    let of = |has_graph: bool| {
        let own = parts.iter().enumerate().filter(move |(_, part)| part.has_graph == has_graph);
        own.map(|(at, _)| at).collect::<Vec<usize>>()
    };
    let visible = |at: &[usize]| -> usize {
        at.iter().filter_map(|at| parts.get(*at)).map(|part| part.visible).sum()
    };
    let rows: usize = parts.iter().map(|part| part.rows).sum();
    let masked = rows - parts.iter().map(|part| part.visible).sum::<usize>();
    let (fresh, mut graphs) = (of(false), of(true));
    if !graphs.is_empty() && masked * 100 > rows * MASKED_PERCENT && masked * stride > FRESH_BYTES {
        return Upkeep::Join(all());
    }
    if visible(&fresh) * stride > FRESH_BYTES {
        graphs.sort_by_key(|at| std::cmp::Reverse(parts.get(*at).map(|part| part.visible)));
        let Some((largest, small)) = graphs.split_first() else { return Upkeep::Join(all()) };
        let others = visible(small) + visible(&fresh);
        if others * 100 > visible(&[*largest]) * SMALL_PERCENT {
            return Upkeep::Join(all());
        }
        // The smallest graphs are joined to what is new, so that there is room for one more.
        let kept = small.len().min(GRAPHS_MAX - 2);
        let joined = fresh.into_iter().chain(small.iter().skip(kept).copied());
        return Upkeep::Join(joined.collect());
    }
    match fresh.len() > FRESH_PARTS_MAX {
        true => Upkeep::Gather(fresh),
        false => Upkeep::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rows: usize, visible: usize, has_graph: bool) -> PartFacts {
        PartFacts { rows, visible, has_graph }
    }

    #[test]
    fn few_new_rows_are_left_alone() {
        let base = part(100_000, 100_000, true);
        assert_eq!(upkeep(&[base, part(500, 500, false)], 112), Upkeep::Nothing);
        assert_eq!(upkeep(&[], 112), Upkeep::Nothing);
        let many = [&[base][..], &vec![part(1, 1, false); 25]].concat();
        assert_eq!(upkeep(&many, 112), Upkeep::Gather((1..26).collect()));
    }

    #[test]
    fn many_new_rows_become_a_segment() {
        let base = part(100_000, 100_000, true);
        let fresh = part(10_000, 10_000, false);
        assert_eq!(upkeep(&[base, fresh], 112), Upkeep::Join(vec![1]));
        let small = part(10_000, 10_000, true);
        assert_eq!(upkeep(&[base, small, fresh], 112), Upkeep::Join(vec![2]));
        let smaller = part(2_000, 2_000, true);
        assert_eq!(upkeep(&[base, smaller, small, fresh], 112), Upkeep::Join(vec![3, 1]));
        let large = part(30_000, 30_000, false);
        assert_eq!(upkeep(&[base, large], 112), Upkeep::Join(vec![0, 1]));
        assert_eq!(upkeep(&[large], 112), Upkeep::Join(vec![0]));
    }

    #[test]
    fn masked_rows_are_left_behind() {
        assert_eq!(upkeep(&[part(100_000, 79_000, true)], 112), Upkeep::Join(vec![0]));
        assert_eq!(upkeep(&[part(100_000, 81_000, true)], 112), Upkeep::Nothing);
        assert_eq!(upkeep(&[part(2_000, 10, true)], 112), Upkeep::Nothing, "not worth it");
    }
}
