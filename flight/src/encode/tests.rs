use arrow_array::builder::{
    FixedSizeListBuilder, Float32Builder, Int32Builder, ListBuilder, MapBuilder, StringBuilder,
};
use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Int64Array,
    LargeBinaryArray, LargeStringArray, NullArray, StringArray, StringViewArray, StructArray,
};
use arrow_schema::Field;
use lakebed_core::Limits;
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};
use prost::Message;

use super::*;

const ROWS: usize = 70;

/// One column of each shape that is written without arrow-ipc's writer.
fn plain_batch() -> RecordBatch {
    let mut lists = ListBuilder::new(StringBuilder::new());
    let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), 3);
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for n in 0..ROWS {
        for item in 0..n % 4 {
            lists.values().append_value("item".repeat(item));
        }
        lists.append(n % 5 != 0);
        for item in 0..3 {
            vectors.values().append_value((n * item) as f32);
        }
        vectors.append(n % 6 != 0);
        maps.keys().append_value(n.to_string());
        maps.values().append_option((n % 3 != 0).then_some(n as i32));
        maps.append(n % 7 != 0).unwrap();
    }
    let texts: StringArray =
        (0..ROWS).map(|n| (n % 3 != 0).then(|| "text".repeat(n % 5))).collect();
    let flags: BooleanArray = (0..ROWS).map(|n| (n % 2 == 0).then_some(n % 3 == 0)).collect();
    let pairs = StructArray::from(vec![
        (Arc::new(Field::new("text", DataType::Utf8, true)), Arc::new(texts.clone()) as ArrayRef),
        (Arc::new(Field::new("flag", DataType::Boolean, true)), Arc::new(flags.clone())),
    ]);
    let fixed: Vec<[u8; 5]> = (0..ROWS as u8).map(|n| [n; 5]).collect();
    let long: LargeStringArray = (0..ROWS).map(|n| Some(n.to_string())).collect();
    let numbers: Int64Array = (0..ROWS as i64).map(|n| (n != 3).then_some(n)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("n", Arc::new(numbers) as ArrayRef, true),
        ("text", Arc::new(texts), true),
        ("long", Arc::new(long), true),
        ("flag", Arc::new(flags), true),
        ("list", Arc::new(lists.finish()), true),
        ("vector", Arc::new(vectors.finish()), true),
        ("map", Arc::new(maps.finish()), true),
        ("pair", Arc::new(pairs), true),
        ("fixed", Arc::new(FixedSizeBinaryArray::try_from_iter(fixed.iter()).unwrap()), true),
        ("blob", Arc::new(LargeBinaryArray::from_iter_values((0..ROWS).map(|n| vec![7; n]))), true),
        ("null", Arc::new(NullArray::new(ROWS)), true),
        ("price", Arc::new(Decimal128Array::from_iter_values(0..ROWS as i128)), true),
    ])
    .unwrap()
}

fn generated_batch() -> RecordBatch {
    let keys = (0..ROWS).map(|n| (n % 4 != 0).then_some(["red", "green", "blue"][n % 3]));
    let colours: DictionaryArray<Int8Type> = keys.collect();
    let views: StringViewArray =
        (0..ROWS).map(|n| Some("a text that is too long for its view".repeat(n % 2))).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("colour", Arc::new(colours) as ArrayRef, true),
        ("view", Arc::new(views), true),
        ("n", Arc::new(Int64Array::from_iter_values(0..ROWS as i64)), true),
    ])
    .unwrap()
}

/// What a client reads of `batches`.
fn round_trip(batches: &[RecordBatch]) -> Vec<RecordBatch> {
    let (mut encoder, announced) = Encoder::new(batches[0].schema());
    let mut messages = vec![announced];
    for batch in batches {
        messages.extend(encoder.encode(batch).unwrap());
    }
    let mut decoder = IpcDecoder::new(&Limits::default());
    let mut read = Vec::new();
    for message in messages {
        let data = message.into_flight_data();
        if let Decoded::Batch(batch) = decoder.decode(&data.data_header, data.data_body).unwrap() {
            read.push(batch);
        }
    }
    read
}

#[test]
fn every_shape_survives_also_in_slices() {
    for batch in [plain_batch(), generated_batch()] {
        let slices: Vec<RecordBatch> = [(0, ROWS), (0, 0), (1, 8), (8, 1), (13, 41), (ROWS, 0)]
            .into_iter()
            .map(|(at, rows)| batch.slice(at, rows))
            .collect();
        assert_eq!(round_trip(&slices), slices);
    }
}

#[test]
fn slices_of_slices_survive() {
    let batch = plain_batch().slice(9, 50).slice(3, 40);
    assert_eq!(round_trip(std::slice::from_ref(&batch)), [batch]);
}

#[test]
fn dictionaries_are_sent_again_where_they_change() {
    let first = generated_batch();
    let keys = (0..ROWS).map(|n| Some(["cyan", "black"][n % 2]));
    let colours: DictionaryArray<Int8Type> = keys.collect();
    let mut columns = first.columns().to_vec();
    columns[0] = Arc::new(colours);
    let second = RecordBatch::try_new(first.schema(), columns).unwrap();
    let batches = [first.clone(), second, first];
    assert_eq!(round_trip(&batches), batches);
}

#[test]
fn a_batch_without_columns_keeps_its_rows() {
    let schema = Arc::new(Schema::empty());
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(9));
    let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
    assert_eq!(round_trip(&[batch])[0].num_rows(), 9);
}

#[test]
fn buffers_are_shared_and_not_copied() {
    let values = Int64Array::from(vec![7; 100_000]);
    let place = values.values().as_ptr() as usize;
    let batch = RecordBatch::try_from_iter([("n", Arc::new(values) as ArrayRef)]).unwrap();
    let (mut encoder, _) = Encoder::new(batch.schema());
    let message = encoder.encode(&batch).unwrap().remove(0);
    assert!(message.bytes() > 800_000);
    let frames = message.into_frame().unwrap();
    assert!(frames.iter().any(|frame| frame.as_ptr() as usize == place));
}

#[test]
fn frames_are_what_the_protocol_says() {
    let large = RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from(vec![7; 100_000])) as ArrayRef),
        ("m", Arc::new(Int64Array::from_iter((0..100_000).map(|n| (n > 5).then_some(n))))),
    ])
    .unwrap();
    for batch in [plain_batch(), generated_batch(), large] {
        let (mut encoder, announced) = Encoder::new(batch.schema());
        let (mut again, announced_again) = Encoder::new(batch.schema());
        let framed = [announced].into_iter().chain(encoder.encode(&batch).unwrap());
        let plain = [announced_again].into_iter().chain(again.encode(&batch).unwrap());
        for (framed, plain) in framed.zip(plain) {
            let frame = framed.into_frame().unwrap().concat();
            assert_eq!(frame[0], 0);
            let length = u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize;
            assert_eq!(length, frame.len() - 5);
            assert_eq!(FlightData::decode(&frame[5..]).unwrap(), plain.into_flight_data());
        }
    }
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    let (mut encoder, _) = Encoder::new(plain_batch().schema());
    assert!(encoder.encode(&generated_batch()).is_err());
}
