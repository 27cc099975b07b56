//! The sum of products of bytes: what every distance is made of, by the widest instruction that the
//! processor has.
//!
//! The instruction is chosen when a sum is first asked for. All give the same whole number.

/// `Σ row[i] * (code[i] as i8)` over the first `dimension` bytes. `code` has at least as many bytes as the
/// next multiple of 64, zero from `dimension` on.
#[inline]
pub fn product(row: &[u8], code: &[u8], dimension: usize) -> i32 {
    if row.len() < dimension || code.len() < dimension.next_multiple_of(64) {
        return 0;
    }
    #[cfg(target_arch = "x86_64")]
    if x86::has_vnni() {
        // SAFETY: the processor has the instructions, and the lengths were checked.
        return unsafe { x86::product(row.as_ptr(), code.as_ptr(), dimension) };
    }
    plain(row, code, dimension, 0)
}

/// `Σ row[i] * (other[i] - 128)` over the first `dimension` bytes of two codes.
#[inline]
pub fn product_of_codes(row: &[u8], other: &[u8], dimension: usize) -> i32 {
    if row.len() < dimension || other.len() < dimension {
        return 0;
    }
    #[cfg(target_arch = "x86_64")]
    if x86::has_vnni() {
        // SAFETY: as above.
        return unsafe { x86::product_of_codes(row.as_ptr(), other.as_ptr(), dimension) };
    }
    plain(row, other, dimension, 0x80)
}

/// Without special instructions; the compiler widens it as far as the target allows.
fn plain(row: &[u8], other: &[u8], dimension: usize, flip: u8) -> i32 {
    let pairs = row.iter().zip(other).take(dimension);
    pairs.map(|(one, other)| i32::from(*one) * i32::from((other ^ flip) as i8)).sum()
}

/// Lines that are asked for; what follows them comes by itself.
const LINES_AHEAD: usize = 4;

/// Asks for the things at a place to be brought near, before they are needed.
#[inline]
pub fn prefetch<T>(things: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let size = size_of::<T>().max(1);
        let ahead = things.get(..LINES_AHEAD * 64 / size).unwrap_or(things);
        // The last one may lie in a line that no other begins.
        for thing in ahead.iter().step_by((64 / size).max(1)).chain(ahead.last()) {
            // SAFETY: a hint; it reads nothing.
            unsafe { _mm_prefetch(std::ptr::from_ref(thing).cast(), _MM_HINT_T0) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = things;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __mmask64, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_maskz_loadu_epi8,
        _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_xor_si512,
    };

    /// Looked up once by std, then a load.
    #[inline]
    pub(super) fn has_vnni() -> bool {
        is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw")
    }

    /// # Safety
    /// The processor has AVX-512 BW and VNNI; `row` has `dimension` bytes, `code` the next multiple of 64.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn product(row: *const u8, code: *const u8, dimension: usize) -> i32 {
        let whole = dimension / 64 * 64;
        let (mut one, mut other) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        let mut at = 0;
        // SAFETY: all loads lie before `dimension`, the last one by its mask.
        unsafe {
            while at + 128 <= whole {
                let row = (row.add(at), row.add(at + 64));
                let code = (code.add(at), code.add(at + 64));
                one = _mm512_dpbusd_epi32(
                    one,
                    _mm512_loadu_si512(row.0.cast()),
                    _mm512_loadu_si512(code.0.cast()),
                );
                other = _mm512_dpbusd_epi32(
                    other,
                    _mm512_loadu_si512(row.1.cast()),
                    _mm512_loadu_si512(code.1.cast()),
                );
                at += 128;
            }
            if at < whole {
                one = _mm512_dpbusd_epi32(
                    one,
                    _mm512_loadu_si512(row.add(at).cast()),
                    _mm512_loadu_si512(code.add(at).cast()),
                );
                at += 64;
            }
            if at < dimension {
                let mask = mask_of(dimension - at);
                other = _mm512_dpbusd_epi32(
                    other,
                    _mm512_maskz_loadu_epi8(mask, row.add(at).cast()),
                    _mm512_loadu_si512(code.add(at).cast()),
                );
            }
        }
        _mm512_reduce_add_epi32(one) + _mm512_reduce_add_epi32(other)
    }

    /// # Safety
    /// The processor has AVX-512 BW and VNNI; both have `dimension` bytes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn product_of_codes(
        one: *const u8,
        other: *const u8,
        dimension: usize,
    ) -> i32 {
        let flip = _mm512_set1_epi8(-128);
        let mut sum = _mm512_setzero_si512();
        let mut at = 0;
        while at < dimension {
            let mask = if dimension - at >= 64 { !0 } else { mask_of(dimension - at) };
            // SAFETY: masked to lie before `dimension`. What `flip` makes of masked bytes of `other` is
            // multiplied with zeros.
            unsafe {
                let left = _mm512_maskz_loadu_epi8(mask, one.add(at).cast());
                let right = _mm512_maskz_loadu_epi8(mask, other.add(at).cast());
                sum = _mm512_dpbusd_epi32(sum, left, _mm512_xor_si512(right, flip));
            }
            at += 64;
        }
        _mm512_reduce_add_epi32(sum)
    }

    /// The first `bytes` of 64, which are fewer than 64.
    #[inline]
    fn mask_of(bytes: usize) -> __mmask64 {
        (1 << bytes) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_gives_the_plain_sum() {
        for dimension in 0..300 {
            let row: Vec<u8> = (0..dimension).map(|i| (i * 37 % 256) as u8).collect();
            let mut code: Vec<u8> = (0..dimension).map(|i| (i * 91 % 256) as u8).collect();
            let told = product_of_codes(&row, &code, dimension);
            assert_eq!(told, plain(&row, &code, dimension, 0x80));
            code.resize(dimension.next_multiple_of(64), 0);
            assert_eq!(product(&row, &code, dimension), plain(&row, &code, dimension, 0));
        }
        assert_eq!(product(&[1], &[], 1), 0, "too short");
    }
}
