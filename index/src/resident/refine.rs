//! Better neighbours for a graph that is there: every row looks for its own once more, through the graph
//! itself, and is named by those that it names.
//!
//! `hnsw_rs` keeps of the rows that name a row only the nearest, so that many paths lead into a crowd and few
//! out of it. Refined twice, a rough graph of it leads to more: of 331,479 word vectors to 0.95 of the ten
//! nearest with some 200 candidates, where one of `hnsw_rs` alone, made with 64, needed 640. What it does is
//! what Vamana does (Subramanya et al., DiskANN, NeurIPS 2019), but all rows at once and none waits for another.

use rayon::prelude::*;

use super::graph::{Graph, Lists};
use super::quantiser::{Query, code_distance};
use super::search::{Beam, Candidate, Codes, through_graph};

/// One round over all rows.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Candidates among which a row's neighbours are looked for.
    pub candidates: usize,
    /// A candidate is left out that is nearer to a neighbour than to the row, by so many hundredths more than
    /// equal.
    pub slack: u64,
    /// Neighbours of a row, at most.
    pub most: usize,
    /// Neighbours of a row that are taken as they come where fewer are chosen: of rows that are equal to one
    /// another only one would be.
    pub least: usize,
}

/// The neighbours of all rows after a round, on `rayon`'s current threads.
pub fn refined(graph: &Graph, codes: Codes<'_>, dimension: usize, round: Round) -> Vec<Vec<u32>> {
    let rows = 0..graph.row_count() as u32;
    let far = |one: u32, other: u32| Candidate {
        distance: code_distance(codes.of(one), codes.of(other), dimension),
        row: other,
    };
    let chosen: Vec<Vec<u32>> = rows
        .clone()
        .into_par_iter()
        .map(|row| {
            let query = Query::of_code(codes.of(row), dimension);
            let beam = Beam::of(round.candidates);
            let mut found = through_graph(graph, codes, &query, beam);
            found.extend(graph.rows.of_node(row).iter().map(|other| far(row, *other)));
            neighbours(row, found, codes, dimension, round)
        })
        .collect();
    let namers = named_by(&chosen);
    rows.into_par_iter()
        .map(|row| {
            let own = chosen.get(row as usize).into_iter().flatten();
            let found: Vec<Candidate> =
                own.chain(namers.of_node(row)).map(|other| far(row, *other)).collect();
            neighbours(row, found, codes, dimension, round)
        })
        .collect()
}

/// Of candidates, those in whose direction no nearer one lies.
fn neighbours(
    row: u32,
    mut found: Vec<Candidate>,
    codes: Codes<'_>,
    dimension: usize,
    round: Round,
) -> Vec<u32> {
    found.retain(|candidate| candidate.row != row);
    found.sort_unstable();
    found.dedup();
    let mut chosen: Vec<u32> = Vec::with_capacity(round.most);
    for candidate in &found {
        if chosen.len() >= round.most {
            break;
        }
        let code = codes.of(candidate.row);
        let is_behind = |other: &u32| {
            let between = u64::from(code_distance(code, codes.of(*other), dimension));
            between * (100 + round.slack) <= u64::from(candidate.distance) * 100
        };
        if !chosen.iter().any(is_behind) {
            chosen.push(candidate.row);
        }
    }
    for candidate in &found {
        if chosen.len() >= round.least {
            break;
        }
        if !chosen.contains(&candidate.row) {
            chosen.push(candidate.row);
        }
    }
    chosen
}

/// The rows that name each row.
fn named_by(lists: &[Vec<u32>]) -> Lists {
    let mut starts = vec![0_u32; lists.len() + 1];
    for row in lists.iter().flatten() {
        if let Some(count) = starts.get_mut(*row as usize + 1) {
            *count += 1;
        }
    }
    let mut before = 0;
    for start in &mut starts {
        before += *start;
        *start = before;
    }
    let mut next = starts.clone();
    let mut neighbours = vec![0; before as usize];
    for (namer, list) in lists.iter().enumerate() {
        for row in list {
            let Some(place) = next.get_mut(*row as usize) else { continue };
            if let Some(slot) = neighbours.get_mut(*place as usize) {
                *slot = namer as u32;
            }
            *place += 1;
        }
    }
    Lists { starts, neighbours }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_whom_is_turned_round() {
        let found = named_by(&[vec![1, 2], vec![], vec![1]]);
        let of = |row| found.of_node(row).to_vec();
        assert_eq!((of(0), of(1), of(2)), (vec![], vec![0, 2], vec![0]));
    }
}
