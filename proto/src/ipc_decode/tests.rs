use std::alloc::{GlobalAlloc, Layout as AllocLayout, System};
use std::cell::Cell;
use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{DictionaryArray, Int8Array, StringArray, UnionArray};
use arrow_ipc::CompressionType;
use arrow_schema::{Field, UnionFields};
use lakebed_core::ErrorKind;

use super::*;
use crate::test_messages::{Encoded, encode, every_shape, integers, limits};

const LZ4_FRAME: CompressionType = CompressionType::LZ4_FRAME;
const ZSTD: CompressionType = CompressionType::ZSTD;

thread_local! {
    /// Panics of arrow's reader on this thread.
    pub static PANICS: Cell<u64> = const { Cell::new(0) };
    /// The largest allocation of this thread so far.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, remembering the largest request of each thread.
struct Watched;

// SAFETY: every call is handed on unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: AllocLayout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: AllocLayout) {
        unsafe { System.dealloc(place, layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: AllocLayout, size: usize) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn decode_all(messages: &[Encoded], limits: &Limits) -> Result<Vec<RecordBatch>> {
    let mut decoder = IpcDecoder::new(limits);
    let mut batches = Vec::new();
    for message in messages {
        if let Decoded::Batch(batch) =
            decoder.decode(&message.header, Bytes::copy_from_slice(&message.body))?
        {
            batches.push(batch);
        }
    }
    Ok(batches)
}

#[test]
fn honest_streams_come_out_as_they_went_in() {
    for batch in [integers(0), integers(5_000), every_shape(), every_shape().slice(3, 9)] {
        for compression in [None, Some(LZ4_FRAME), Some(ZSTD)] {
            let decoded = decode_all(&encode(&batch, compression), &limits()).unwrap();
            assert_eq!(decoded, std::slice::from_ref(&batch));
        }
    }
}

#[test]
fn order_is_kept() {
    let messages = encode(&every_shape(), None);
    let text = |messages: &[Encoded]| {
        let error = decode_all(messages, &limits()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.message().to_owned()
    };
    assert!(text(&messages[1..]).contains("begin with a schema"));
    assert!(text(&messages[2..]).contains("begin with a schema"));
    let twice = [messages[0].clone(), messages[0].clone()];
    assert!(text(&twice).contains("second schema"));
    let of_others = [encode(&integers(3), None)[0].clone(), messages[2].clone()];
    assert!(text(&of_others).contains("schema needs"));
}

#[test]
fn a_long_value_behind_many_keys_is_a_bomb() {
    let keys = Int8Array::from(vec![0; 60_000]);
    let values = StringArray::from(vec!["x".repeat(1_000)]);
    let bomb: DictionaryArray<Int8Type> = DictionaryArray::new(keys, Arc::new(values));
    let batch = RecordBatch::try_from_iter([("d", Arc::new(bomb) as ArrayRef)]).unwrap();
    let error = decode_all(&encode(&batch, None), &limits()).unwrap_err();
    assert!(error.message().contains("stands for 60000000 bytes"), "{error}");
    let wide = Limits { batch_bytes_max: 64 << 20, ..limits() };
    decode_all(&encode(&batch, None), &wide).unwrap();
}

#[test]
fn a_long_value_that_a_union_repeats_is_a_bomb() {
    let fields = UnionFields::from_fields(vec![Field::new("text", DataType::Utf8, true)]);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(1_000)]));
    let rows = 60_000;
    let union =
        UnionArray::try_new(fields, vec![0; rows].into(), Some(vec![0; rows].into()), vec![text]);
    let union: ArrayRef = Arc::new(union.unwrap());
    let batch = RecordBatch::try_from_iter([("u", union)]).unwrap();
    let error = decode_all(&encode(&batch, None), &limits()).unwrap_err();
    assert!(error.message().contains("stands for"), "{error}");
    let few = batch.slice(0, 10);
    assert_eq!(decode_all(&encode(&few, None), &limits()).unwrap(), [few]);
}

#[test]
fn nulls_stand_for_nothing() {
    let keys = Int8Array::from_iter((0..60_000).map(|n| (n == 0).then_some(0)));
    let values = StringArray::from(vec!["x".repeat(1_000)]);
    let sparse: DictionaryArray<Int8Type> = DictionaryArray::new(keys, Arc::new(values));
    let batch = RecordBatch::try_from_iter([("d", Arc::new(sparse) as ArrayRef)]).unwrap();
    decode_all(&encode(&batch, None), &limits()).unwrap();
}

#[test]
fn dictionaries_of_one_stream_are_bounded_together() {
    let messages = encode(&every_shape(), None);
    let bytes = messages[1].body.len();
    let tight = Limits { batch_bytes_max: bytes - 1, ..limits() };
    assert!(decode_all(&messages[..2], &tight).is_err());
    // A dictionary that is sent again replaces the old one.
    let mut again = messages[..2].to_vec();
    again.extend(vec![messages[1].clone(); 10_000]);
    decode_all(&again, &Limits { batch_bytes_max: bytes, ..limits() }).unwrap();
}

/// A small generator whose whole state is the seed that is printed.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Damages up to four places of `bytes`.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        const WORDS: [i64; 10] =
            [0, 1, -1, -2, i64::MAX, i64::MIN, 4 << 40, 1 << 31, 255, i32::MAX as i64];
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 | 1 if at < bytes.len() => bytes[at] = self.next() as u8,
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 if at / 8 * 8 + 8 <= bytes.len() => {
                    let word = WORDS[self.below(WORDS.len())].to_le_bytes();
                    bytes[at / 8 * 8..at / 8 * 8 + 8].copy_from_slice(&word);
                }
                4 if self.below(8) == 0 => bytes.truncate(at),
                _ => {}
            }
        }
    }
}

#[test]
fn damaged_streams_neither_panic_nor_allocate_wildly() {
    const ROUNDS: u64 = 40_000;
    let streams: Vec<Vec<Encoded>> = [None, Some(LZ4_FRAME), Some(ZSTD)]
        .into_iter()
        .flat_map(|compression| {
            [encode(&every_shape(), compression), encode(&integers(300), compression)]
        })
        .collect();
    let (mut refused, mut taken) = (0, 0);
    LARGEST.set(0);
    for seed in 1..=ROUNDS {
        let mut random = Seeded(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut messages = streams[random.below(streams.len())].clone();
        let victim = random.below(messages.len());
        if random.below(2) == 0 {
            random.damage(&mut messages[victim].header);
        } else {
            random.damage(&mut messages[victim].body);
        }
        match decode_all(&messages, &limits()) {
            Ok(_) => taken += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "seed {seed}");
                refused += 1;
            }
        }
        // Twice the limit for a vector that grows, and lz4's own two blocks with a window.
        assert!(LARGEST.get() <= 9 << 20, "seed {seed} allocated {} bytes", LARGEST.get());
        assert_eq!(PANICS.get(), 0, "seed {seed} made arrow's reader panic");
    }
    assert!(refused > ROUNDS / 4 && taken > ROUNDS / 20, "{refused} refused, {taken} taken");
}
