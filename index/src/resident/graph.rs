//! A graph of neighbours over the rows of a segment, begun by `hnsw_rs`, then laid flat and refined.
//!
//! `hnsw_rs` keeps every row, every list and every neighbour in an allocation of its own, some two kilobytes
//! a row, which is good to grow a graph and bad to search it. Once a rough graph is built it is copied into a
//! few arrays, the neighbours of all rows in one, and where each row's begin in another, and becomes a good one
//! there. `hnsw_rs` cannot delete either; a segment's graph never changes, and rows that are gone are masked.

use hnsw_rs::prelude::{Distance, Hnsw};

use super::quantiser::code_distance;
use super::refine::{Round, refined};
use super::search::Codes;

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphParams {
    /// Neighbours of a row above the lowest layer, and half of those on it.
    pub m: usize,
    /// Candidates that are kept while a row's neighbours are looked for, in all rounds together.
    pub ef_construction: usize,
}

impl Default for GraphParams {
    fn default() -> Self {
        GraphParams { m: 16, ef_construction: 200 }
    }
}

/// Of the candidates of a whole construction, how many `hnsw_rs` keeps while it makes the rough graph.
const ROUGH: usize = 6;
/// The same of each round that refines it, and the slack of each, in hundredths. Measured over 100 and 784
/// numbers: more of either finds hardly more, and takes longer to build.
const ROUNDS: [(usize, usize, u64); 2] = [(1, 3, 0), (2, 3, 5)];

/// Layers above the lowest, at most; `hnsw_rs` has 16 in all.
const LAYERS_MAX: usize = 16;

/// Lists of neighbours, one behind the other.
#[derive(Debug, Default, PartialEq)]
pub struct Lists {
    /// Where the list of each node begins, and where the last one ends.
    pub starts: Vec<u32>,
    /// Nodes of this layer.
    pub neighbours: Vec<u32>,
}

impl Lists {
    fn of(lists: &[Vec<u32>]) -> Lists {
        let mut found = Lists::default();
        found.starts.reserve_exact(lists.len() + 1);
        found.neighbours.reserve_exact(lists.iter().map(Vec::len).sum());
        found.starts.push(0);
        for list in lists {
            found.neighbours.extend_from_slice(list);
            found.starts.push(found.neighbours.len() as u32);
        }
        found
    }

    /// The neighbours of a node.
    #[inline]
    pub fn of_node(&self, node: u32) -> &[u32] {
        let node = node as usize;
        let bounds = self.starts.get(node).zip(self.starts.get(node + 1));
        let range = bounds.map(|(start, end)| *start as usize..*end as usize);
        range.and_then(|range| self.neighbours.get(range)).unwrap_or_default()
    }

    fn bytes(&self) -> usize {
        (self.starts.capacity() + self.neighbours.capacity()) * size_of::<u32>()
    }
}

/// A layer above the lowest. Its nodes are numbered by themselves.
#[derive(Debug, Default, PartialEq)]
pub struct Layer {
    /// The row of each node.
    pub rows: Vec<u32>,
    /// The node of the layer below; of the lowest, the row.
    pub below: Vec<u32>,
    /// Neighbours in this layer.
    pub lists: Lists,
}

/// The graph of a segment.
#[derive(Debug, Default, PartialEq)]
pub struct Graph {
    /// The lowest layer; its nodes are the rows.
    pub rows: Lists,
    /// Those above, the lowest of them first.
    pub layers: Vec<Layer>,
    /// Where a search begins: a node of the highest layer.
    pub entry: u32,
}

/// The distance of two codes for `hnsw_rs`, which asks for floats that are not negative.
#[derive(Clone, Copy)]
struct CodeDistance {
    dimension: usize,
}

impl Distance<u8> for CodeDistance {
    fn eval(&self, one: &[u8], other: &[u8]) -> f32 {
        code_distance(one, other, self.dimension) as f32
    }
}

impl Graph {
    /// Builds the graph of codes' rows, on `rayon`'s current threads.
    pub fn build(codes: &[u8], stride: usize, dimension: usize, params: GraphParams) -> Graph {
        let rows: Vec<(&[u8], usize)> =
            codes.chunks_exact(stride).enumerate().map(|(row, code)| (code, row)).collect();
        if rows.len() < 2 {
            return Graph { rows: Lists::of(&vec![Vec::new(); rows.len()]), ..Graph::default() };
        }
        let rough = (params.ef_construction / ROUGH).max(params.m);
        let mut hnsw = Hnsw::<u8, CodeDistance>::new(
            params.m,
            rows.len(),
            LAYERS_MAX,
            rough,
            CodeDistance { dimension },
        );
        hnsw.set_keeping_pruned(false);
        hnsw.parallel_insert_slice(&rows);
        let mut graph = flat(&hnsw, rows.len());
        drop(hnsw);
        let first = graph.layers.last().and_then(|layer| layer.rows.first()).copied().unwrap_or(0);
        for (share, of, slack) in ROUNDS {
            let round = Round {
                candidates: (params.ef_construction * share / of).max(params.m),
                slack,
                most: 2 * params.m,
                least: params.m / 2,
            };
            let mut lists = refined(&graph, Codes { bytes: codes, stride }, dimension, round);
            join_islands(&mut lists, first);
            graph.rows = Lists::of(&lists);
        }
        graph
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let layer = |layer: &Layer| {
            layer.lists.bytes()
                + (layer.rows.capacity() + layer.below.capacity()) * size_of::<u32>()
        };
        self.rows.bytes() + self.layers.iter().map(layer).sum::<usize>()
    }

    /// The row that a search begins with, where there are no layers above.
    pub fn row_count(&self) -> usize {
        self.rows.starts.len().saturating_sub(1)
    }

    /// Whether every number in it names something that is there: what comes from a file may be anything.
    pub fn is_sound(&self) -> bool {
        let lists = |lists: &Lists, nodes: usize| {
            lists.starts.len() == nodes + 1
                && lists.starts.is_sorted()
                && lists.starts.last().copied().unwrap_or(0) as usize == lists.neighbours.len()
                && lists.neighbours.iter().all(|node| (*node as usize) < nodes)
        };
        let rows = self.row_count();
        let mut below = rows;
        for layer in &self.layers {
            let nodes = layer.rows.len();
            let is_sound = layer.below.len() == nodes
                && layer.below.iter().all(|node| (*node as usize) < below)
                && layer.rows.iter().all(|row| (*row as usize) < rows)
                && lists(&layer.lists, nodes);
            if !is_sound {
                return false;
            }
            below = nodes;
        }
        lists(&self.rows, rows) && (below == 0 || (self.entry as usize) < below)
    }
}

/// Neighbours of every row at every layer it is in, by their rows.
fn flat(hnsw: &Hnsw<'_, u8, CodeDistance>, count: usize) -> Graph {
    let points = hnsw.get_point_indexation();
    let highest = usize::from(points.get_max_level_observed());
    // Of each layer: its rows, and their neighbours.
    let mut layers: Vec<Vec<(u32, Vec<u32>)>> = vec![Vec::new(); highest + 1];
    let mut level_of = vec![0_u8; count];
    for own in 0..=highest {
        for point in points.get_layer_iterator(own) {
            if let Some(level) = level_of.get_mut(point.get_origin_id()) {
                *level = own as u8;
            }
        }
    }
    for own in 0..=highest {
        for point in points.get_layer_iterator(own) {
            let row = point.get_origin_id() as u32;
            let lists = point.get_neighborhood_id();
            for (at, (layer, list)) in layers.iter_mut().zip(lists).enumerate().take(own + 1) {
                let is_in =
                    |row: &usize| level_of.get(*row).is_some_and(|level| usize::from(*level) >= at);
                let list = list.iter().map(|neighbour| neighbour.d_id);
                let list = list.filter(|other| is_in(other) && *other != row as usize);
                layer.push((row, list.map(|other| other as u32).collect()));
            }
        }
    }
    let mut layers = layers.into_iter();
    let mut lowest = vec![Vec::new(); count];
    for (row, list) in layers.next().unwrap_or_default() {
        if let Some(place) = lowest.get_mut(row as usize) {
            *place = list;
        }
    }
    let mut found = Graph::default();
    // The node of each row in the layer that was made last.
    let mut node_of: Vec<u32> = (0..count as u32).collect();
    for mut layer in layers {
        layer.sort_unstable_by_key(|(row, _)| *row);
        let below: Vec<u32> = layer.iter().map(|(row, _)| at(&node_of, *row)).collect();
        for (node, (row, _)) in layer.iter().enumerate() {
            if let Some(place) = node_of.get_mut(*row as usize) {
                *place = node as u32;
            }
        }
        let named = |list: &Vec<u32>| list.iter().map(|row| at(&node_of, *row)).collect();
        let lists: Vec<Vec<u32>> = layer.iter().map(|(_, list)| named(list)).collect();
        let rows = layer.iter().map(|(row, _)| *row).collect();
        found.layers.push(Layer { rows, below, lists: Lists::of(&lists) });
    }
    let first = found.layers.last().and_then(|layer| layer.rows.first()).copied().unwrap_or(0);
    join_islands(&mut lowest, first);
    found.rows = Lists::of(&lowest);
    found
}

fn at(nodes: &[u32], row: u32) -> u32 {
    nodes.get(row as usize).copied().unwrap_or(0)
}

/// Makes every row reachable. A row may have been dropped from the lists of all its neighbours, as equal rows
/// often are; one that it names itself, and that is reachable, then names it as well.
fn join_islands(lists: &mut [Vec<u32>], first: u32) {
    let mut is_reached = vec![false; lists.len()];
    let mut stack = vec![first];
    let mut waiting: Vec<u32> = (0..lists.len() as u32).collect();
    loop {
        while let Some(row) = stack.pop() {
            match is_reached.get_mut(row as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            stack.extend(lists.get(row as usize).into_iter().flatten());
        }
        waiting.retain(|row| !is_reached.get(*row as usize).copied().unwrap_or(true));
        let mut joined = Vec::new();
        for row in &waiting {
            let own = lists.get(*row as usize).into_iter().flatten().copied();
            let mut own =
                own.filter(|other| is_reached.get(*other as usize).copied().unwrap_or(false));
            if let Some(from) = own.next() {
                joined.push((from, *row));
            }
        }
        if joined.is_empty() {
            // An island that names nothing of the rest.
            match waiting.first() {
                Some(row) => joined.push((first, *row)),
                None => return,
            }
        }
        for (from, row) in joined {
            if let Some(list) = lists.get_mut(from as usize) {
                list.push(row);
            }
            stack.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn islands_are_joined() {
        let mut lists = vec![vec![1], vec![0], vec![0], vec![4], vec![3]];
        join_islands(&mut lists, 0);
        assert!(lists[0].contains(&2), "it named 0, nobody named it");
        assert!(lists[0].contains(&3), "an island of two");
        assert_eq!(lists.iter().map(Vec::len).sum::<usize>(), 5 + 2);
    }

    #[test]
    fn equal_rows_and_few_rows_make_graphs() {
        for count in [0_usize, 1, 2, 3, 500] {
            let codes = vec![0; 64 * count];
            let graph = Graph::build(&codes, 64, 8, GraphParams { m: 4, ef_construction: 16 });
            assert_eq!(graph.row_count(), count);
            assert!(graph.is_sound(), "{count}");
        }
    }
}
