//! Rows of a segment, one bit each.

/// A set of rows of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    rows: usize,
    count: usize,
}

impl Bits {
    /// None of so many rows.
    pub fn none(rows: usize) -> Bits {
        Bits { words: vec![0; rows.div_ceil(64)], rows, count: 0 }
    }

    /// All of so many rows.
    pub fn all(rows: usize) -> Bits {
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        if let Some(last) = words.last_mut().filter(|_| !rows.is_multiple_of(64)) {
            *last = (1 << (rows % 64)) - 1;
        }
        Bits { words, rows, count: rows }
    }

    /// Whether a row is in it.
    #[inline]
    pub fn has(&self, row: u32) -> bool {
        let word = self.words.get(row as usize / 64).copied().unwrap_or(0);
        word >> (row % 64) & 1 == 1
    }

    /// How many rows are in it.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds a row of the segment, or takes it away.
    pub fn set(&mut self, row: u32, is_in: bool) {
        if row as usize >= self.rows || self.has(row) == is_in {
            return;
        }
        if let Some(word) = self.words.get_mut(row as usize / 64) {
            *word ^= 1 << (row % 64);
            match is_in {
                true => self.count += 1,
                false => self.count -= 1,
            }
        }
    }

    /// What is in both.
    pub fn and(&self, other: &Bits) -> Bits {
        let words: Vec<u64> = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Bits { words, rows: self.rows.min(other.rows), count }
    }

    /// The rows, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                (bit < 64).then(|| {
                    left &= left - 1;
                    at as u32 * 64 + bit
                })
            })
        })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_what_is_in_it() {
        let mut bits = Bits::none(130);
        for row in [0, 63, 64, 129, 129, 130, 9_999] {
            bits.set(row, true);
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(bits.count(), 4);
        bits.set(63, false);
        assert!(!bits.has(63) && bits.has(64) && !bits.has(500));
        let all = Bits::all(130);
        assert_eq!((all.count(), all.iter().count()), (130, 130));
        assert_eq!(all.and(&bits), bits);
        assert_eq!(Bits::all(128).iter().count(), 128);
        assert_eq!(Bits::all(0).iter().count(), 0);
    }
}
