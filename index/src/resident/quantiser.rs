//! From vectors to codes of one byte a number, and how far apart codes are.
//!
//! A number becomes `round((x - offset) / scale)`, held to 0..=255. Each dimension has its own offset and all
//! share one scale, so that the squared distance of two codes, times the scale squared, is that of the
//! vectors but for the rounding: distances are compared as whole numbers, and never as floats that could be
//! negative or NaN. Cosine is the squared distance of vectors of length 1, halved.
//!
//! A code is followed by two numbers of its own that make the distance one product:
//! `|q - x|² = |q|² + (|x|² - 256 Σx) - 2 Σ x (q - 128)`, whose sum is of one unsigned and one signed byte,
//! what processors have an instruction for.

use lakebed_core::{DistanceType, Error, Result};

use super::kernel;

/// Vectors that offsets and scale are taken of.
const SAMPLE_ROWS: usize = 16_384;
/// Of the numbers of a dimension so many thousandths lie below what its codes cover, and as many above.
const CUT_THOUSANDTHS: usize = 1;
/// The two numbers behind a code.
const TAIL_BYTES: usize = 8;
/// By how many steps the distance of codes is off, hardly ever more: each number of two rows is rounded by half
/// a step at most, and of all of them only what lies in the direction from one row to the other counts, whose
/// deviation is 0.41 steps in any dimension.
const ROUNDED_STEPS: f32 = 3.0;
/// Numbers in a vector, at most: the sums of larger ones would not fit.
pub const DIMENSION_MAX: usize = 16_384;

/// How the vectors of one column become codes.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantiser {
    distance: DistanceType,
    offsets: Vec<f32>,
    scale: f32,
}

/// What is searched for, ready to be compared with codes.
#[derive(Debug, Clone)]
pub struct Query {
    /// The query's code less 128, as signed bytes, zero where a code's row has other things.
    code: Vec<u8>,
    dimension: usize,
    norm: i32,
    /// As the client gave it; of length 1 for cosine.
    vector: Vec<f32>,
}

impl Quantiser {
    /// Learns from vectors, one after the other in one slice.
    ///
    /// # Errors
    /// `InvalidArgument` for a distance that has no codes, and for vectors that are too long.
    pub fn learn(distance: DistanceType, dimension: usize, vectors: &[f32]) -> Result<Quantiser> {
        if !matches!(distance, DistanceType::L2 | DistanceType::Cosine) {
            return Err(Error::invalid(format!(
                "a resident index measures l2 or cosine, not {}",
                distance.name()
            )));
        }
        if dimension == 0 || dimension > DIMENSION_MAX {
            return Err(Error::invalid(format!(
                "a resident index is of vectors of 1 to {DIMENSION_MAX} numbers, not {dimension}"
            )));
        }
        let rows = vectors.len() / dimension;
        let step = rows.div_ceil(SAMPLE_ROWS).max(1);
        let mut columns = vec![Vec::new(); dimension];
        for vector in vectors.chunks_exact(dimension).step_by(step) {
            let Some(length) = length_of(distance, vector) else { continue };
            for (column, number) in columns.iter_mut().zip(vector) {
                column.push(number / length);
            }
        }
        let mut offsets = Vec::with_capacity(dimension);
        let mut widest = 0_f32;
        for column in &mut columns {
            column.sort_by(f32::total_cmp);
            let cut = column.len() * CUT_THOUSANDTHS / 1_000;
            let low = column.get(cut).copied().unwrap_or(0.0);
            let high = column.iter().rev().nth(cut).copied().unwrap_or(0.0);
            offsets.push(low);
            widest = widest.max(high - low);
        }
        // All alike: any scale does.
        let scale = if widest > 0.0 && widest.is_finite() { widest / 255.0 } else { 1.0 };
        Ok(Quantiser { distance, offsets, scale })
    }

    /// One that was saved.
    pub fn of_parts(distance: DistanceType, offsets: Vec<f32>, scale: f32) -> Quantiser {
        Quantiser { distance, offsets, scale }
    }

    /// Numbers in a vector.
    pub fn dimension(&self) -> usize {
        self.offsets.len()
    }

    /// How distances are measured.
    pub fn distance(&self) -> DistanceType {
        self.distance
    }

    /// What is taken off the numbers of each dimension.
    pub fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    /// What a code's step is worth.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Bytes from one code to the next.
    pub fn stride(&self) -> usize {
        stride_of(self.dimension())
    }

    /// Writes the code of a vector into a row of [`Quantiser::stride`] bytes. False for a vector that has no
    /// code: one with a NaN or an infinity, and for cosine one of length 0. Its row is left as it was.
    pub fn encode(&self, vector: &[f32], row: &mut [u8]) -> bool {
        let Some(length) = length_of(self.distance, vector) else { return false };
        if vector.len() != self.dimension() || row.len() < self.stride() {
            return false;
        }
        let (mut norm, mut sum) = (0_i32, 0_i32);
        let numbers = vector.iter().zip(&self.offsets);
        for (byte, (number, offset)) in row.iter_mut().zip(numbers) {
            // `as` holds it to 0..=255.
            let code = ((number / length - offset) / self.scale).round() as u8;
            *byte = code;
            norm += i32::from(code) * i32::from(code);
            sum += i32::from(code);
        }
        if let Some(tail) = row.get_mut(self.dimension()..self.dimension() + TAIL_BYTES) {
            let (one, other) = tail.split_at_mut(4);
            one.copy_from_slice(&(norm - 256 * sum).to_le_bytes());
            other.copy_from_slice(&norm.to_le_bytes());
        }
        true
    }

    /// A vector to search by.
    ///
    /// # Errors
    /// `InvalidArgument` for one of another length or without a direction.
    pub fn query(&self, vector: &[f32]) -> Result<Query> {
        let dimension = self.dimension();
        if vector.len() != dimension {
            return Err(Error::invalid(format!(
                "`vector` has {} numbers, and the column's have {dimension}",
                vector.len()
            )));
        }
        let mut row = vec![0; self.stride()];
        if !self.encode(vector, &mut row) {
            return Err(Error::invalid("`vector` has a NaN or an infinity, or no direction"));
        }
        let query = Query::of_code(&row, dimension);
        let length = match self.distance {
            DistanceType::Cosine => length_of(self.distance, vector).unwrap_or(1.0),
            _ => 1.0,
        };
        let vector = vector.iter().map(|number| number / length).collect();
        Ok(Query { vector, ..query })
    }

    /// How far the code may be of a row that is truly no farther than this, in steps of the scale, squared.
    /// Numbers outside of what codes cover make codes nearer than rows are, never farther.
    pub fn reach(&self, distance: f32) -> u32 {
        let square = match self.distance {
            DistanceType::Cosine => 2.0 * distance,
            _ => distance,
        };
        let steps = square.sqrt() / self.scale + ROUNDED_STEPS;
        // `as` holds it to what there is; a NaN is no bound.
        if steps.is_nan() { u32::MAX } else { (steps * steps).ceil() as u32 }
    }

    /// The true distance of a row's vector, as Lance says it.
    pub fn true_distance(&self, query: &Query, vector: &[f32]) -> f32 {
        match self.distance {
            DistanceType::Cosine => {
                let product = summed(&query.vector, vector, |one, other| one * other);
                let square = summed(vector, vector, |one, other| one * other);
                (1.0 - product / square.sqrt()).max(0.0)
            }
            _ => summed(&query.vector, vector, |one, other| (one - other) * (one - other)),
        }
    }
}

/// Bytes from one code of so many numbers to the next: whole cache lines where that wastes little. A row across
/// one line more than it needs costs a fifth of the rate of searches.
pub fn stride_of(dimension: usize) -> usize {
    let bytes = dimension + TAIL_BYTES;
    let lines = bytes.next_multiple_of(64);
    if lines - bytes <= bytes / 4 { lines } else { bytes.next_multiple_of(16) }
}

impl Query {
    /// A row to search by its code; it has no true distances.
    pub fn of_code(row: &[u8], dimension: usize) -> Query {
        let mut code: Vec<u8> = row.iter().take(dimension).map(|byte| byte ^ 0x80).collect();
        code.resize(dimension.next_multiple_of(64), 0);
        Query { code, dimension, norm: norm_of(row, dimension), vector: Vec::new() }
    }

    /// How far a code's row is; in steps of the scale, squared.
    #[inline]
    pub fn distance(&self, row: &[u8]) -> u32 {
        let product = kernel::product(row, &self.code, self.dimension);
        let own = tail(row, self.dimension);
        // Whole numbers: never below 0 but for a row that is not a code.
        self.norm.wrapping_add(own).wrapping_sub(product.wrapping_mul(2)).max(0) as u32
    }
}

/// How far two codes' rows are from one another; in steps of the scale, squared.
#[inline]
pub fn code_distance(one: &[u8], other: &[u8], dimension: usize) -> u32 {
    let product = kernel::product_of_codes(one, other, dimension);
    let norms = norm_of(other, dimension).wrapping_add(tail(one, dimension));
    norms.wrapping_sub(product.wrapping_mul(2)).max(0) as u32
}

#[inline]
fn tail(row: &[u8], dimension: usize) -> i32 {
    row.get(dimension..)
        .and_then(|tail| tail.first_chunk())
        .map_or(0, |four| i32::from_le_bytes(*four))
}

#[inline]
fn norm_of(row: &[u8], dimension: usize) -> i32 {
    tail(row, dimension + 4)
}

/// What a vector's numbers are divided by; nothing for a vector without a code.
fn length_of(distance: DistanceType, vector: &[f32]) -> Option<f32> {
    let square: f32 = vector.iter().map(|number| number * number).sum();
    match distance {
        _ if !square.is_finite() => None,
        DistanceType::Cosine => (square > 0.0).then(|| square.sqrt()),
        _ => Some(1.0),
    }
}

/// The sum over pairs of numbers.
fn summed(one: &[f32], other: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    // Sums of their own, which the compiler keeps in one register.
    let mut sums = [0_f32; 16];
    let (ones, others) = (one.chunks_exact(16), other.chunks_exact(16));
    let rest = ones.remainder().iter().zip(others.remainder());
    let rest: f32 = rest.map(|(a, b)| of(*a, *b)).sum();
    for (a, b) in ones.zip(others) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += of(*a, *b);
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(rows: usize, dimension: usize) -> Vec<f32> {
        let mut seed = 7_u32;
        let mut next = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..rows * dimension).map(|_| next()).collect()
    }

    #[test]
    fn whole_numbers_keep_their_distances() {
        for dimension in [1, 7, 63, 64, 65, 100, 130, 784] {
            let numbers: Vec<f32> =
                vectors(300, dimension).iter().map(|x| ((x + 0.5) * 255.0).round()).collect();
            let quantiser = Quantiser::of_parts(DistanceType::L2, vec![0.0; dimension], 1.0);
            let stride = quantiser.stride();
            let mut codes = vec![0xAB; stride * 300];
            for (vector, row) in numbers.chunks(dimension).zip(codes.chunks_mut(stride)) {
                assert!(quantiser.encode(vector, row));
            }
            let query = quantiser.query(&numbers[..dimension]).unwrap();
            for (vector, row) in numbers.chunks(dimension).zip(codes.chunks(stride)) {
                let expected = quantiser.true_distance(&query, vector);
                assert_eq!(query.distance(row) as f32, expected, "{dimension}");
                assert_eq!(code_distance(&codes[..stride], row, dimension) as f32, expected);
                assert_eq!(code_distance(row, &codes[..stride], dimension) as f32, expected);
            }
        }
    }

    #[test]
    fn codes_are_near_the_vectors() {
        for distance in [DistanceType::L2, DistanceType::Cosine] {
            let numbers = vectors(2_000, 48);
            let quantiser = Quantiser::learn(distance, 48, &numbers).unwrap();
            let query = quantiser.query(&numbers[..48]).unwrap();
            let mut row = vec![0; quantiser.stride()];
            for vector in numbers.chunks(48) {
                assert!(quantiser.encode(vector, &mut row));
                let told = query.distance(&row) as f32 * quantiser.scale() * quantiser.scale();
                let told = if distance == DistanceType::Cosine { told / 2.0 } else { told };
                let truth = quantiser.true_distance(&query, vector);
                assert!((told - truth).abs() < 0.02 * truth.max(0.5), "{told} {truth}");
            }
        }
    }

    #[test]
    fn what_has_no_code_is_said() {
        let quantiser = Quantiser::of_parts(DistanceType::Cosine, vec![0.0; 3], 1.0);
        let mut row = vec![0; quantiser.stride()];
        for vector in [[0.0, 0.0, 0.0], [f32::NAN, 1.0, 1.0], [f32::INFINITY, 0.0, 0.0]] {
            assert!(!quantiser.encode(&vector, &mut row));
            assert!(quantiser.query(&vector).is_err());
        }
        assert!(!quantiser.encode(&[1.0; 4], &mut row));
        assert!(quantiser.query(&[1.0; 4]).is_err());
        assert!(Quantiser::learn(DistanceType::Dot, 3, &[]).is_err());
        assert!(Quantiser::learn(DistanceType::L2, 0, &[]).is_err());
        assert!(Quantiser::learn(DistanceType::L2, 4, &[]).is_ok());
    }
}
