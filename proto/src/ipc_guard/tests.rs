use arrow_ipc::CompressionType;
use lakebed_core::ErrorKind;

use super::*;
use crate::test_messages::{Encoded, encode, every_shape, integers, limits};

const LZ4_FRAME: CompressionType = CompressionType::LZ4_FRAME;
const ZSTD: CompressionType = CompressionType::ZSTD;

fn check(message: &Encoded, limits: &Limits) -> Result<(MessageKind, u64, u64)> {
    let checked = check_message(&message.header, &message.body, limits)?;
    Ok((checked.kind, checked.rows, checked.decoded_bytes))
}

fn refusal(message: &Encoded) -> String {
    let error = check(message, &limits()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    error.message().to_owned()
}

fn assert_refused(message: &Encoded, words: &[&str]) {
    let text = refusal(message);
    for word in words {
        assert!(text.contains(word), "`{text}` does not say `{word}`");
    }
}

fn last(messages: Vec<Encoded>) -> Encoded {
    messages.into_iter().last().unwrap()
}

#[test]
fn honest_messages_pass() {
    for batch in [integers(0), integers(5_000), every_shape()] {
        for compression in [None, Some(LZ4_FRAME), Some(ZSTD)] {
            let messages = encode(&batch, compression);
            let (first, rest) = messages.split_first().unwrap();
            assert_eq!(check(first, &limits()).unwrap().0, MessageKind::Schema);
            let (rows, dictionaries) = rest.split_last().unwrap();
            for dictionary in dictionaries {
                assert_eq!(check(dictionary, &limits()).unwrap().0, MessageKind::Dictionary);
            }
            let (kind, n, bytes) = check(rows, &limits()).unwrap();
            assert_eq!((kind, n), (MessageKind::Batch, batch.num_rows() as u64));
            assert!(bytes >= 8 * n, "{n} rows in {bytes} bytes");
        }
    }
}

#[test]
fn a_small_message_cannot_claim_terabytes() {
    for codec in [LZ4_FRAME, ZSTD] {
        let honest = last(encode(&integers(200), Some(codec)));
        let at = honest.first_filled_buffer();
        for claim in [4 << 40, i64::MAX, 1 << 31, limits().batch_bytes_max as i64 + 1] {
            let mut message = honest.clone();
            message.set_claim(at, claim);
            assert!(message.header.len() + message.body.len() < 1_000);
            assert_refused(&message, &["buffer", &claim.to_string(), "batch_bytes_max"]);
        }
        for claim in [-2, i64::MIN] {
            let mut message = honest.clone();
            message.set_claim(at, claim);
            assert_refused(&message, &["buffer", &claim.to_string()]);
        }
    }
}

#[test]
fn claims_of_several_buffers_add_up() {
    let mut message = last(encode(&every_shape(), Some(ZSTD)));
    let filled: Vec<usize> = {
        let header = arrow_ipc::root_as_message(&message.header).unwrap();
        let batch = header.header_as_record_batch().unwrap();
        let buffers = batch.buffers().unwrap();
        (0..buffers.len()).filter(|at| buffers.get(*at).length() > 8).collect()
    };
    for at in &filled {
        message.set_claim(*at, limits().batch_bytes_max as i64 / 4);
    }
    assert!(filled.len() > 4);
    assert_refused(&message, &["decoded", "batch_bytes_max"]);
}

#[test]
fn a_dictionary_is_checked_like_a_batch() {
    for codec in [LZ4_FRAME, ZSTD] {
        let messages = encode(&every_shape(), Some(codec));
        let mut dictionary = messages[1].clone();
        let at = dictionary.first_filled_buffer();
        dictionary.set_claim(at, 4 << 40);
        assert_refused(&dictionary, &["dictionary", "4398046511104"]);
    }
}

#[test]
fn a_buffer_too_short_for_its_prefix_is_refused() {
    let mut message = last(encode(&integers(200), Some(ZSTD)));
    let at = message.first_filled_buffer();
    message.set_buffer_length(at, 7);
    assert_refused(&message, &["7 bytes", "length prefix"]);
}

#[test]
fn an_lz4_frame_cannot_expand_past_its_claim() {
    // lz4 frames are decompressed to their end before the claim is looked at: a frame of zeros that
    // claims one byte would otherwise be written out whole.
    let zeros = arrow_array::Int64Array::from(vec![0; 1 << 20]);
    let batch = arrow_array::RecordBatch::try_from_iter([(
        "n",
        std::sync::Arc::new(zeros) as arrow_array::ArrayRef,
    )])
    .unwrap();
    let mut message = last(encode(&batch, Some(LZ4_FRAME)));
    let at = message.first_filled_buffer();
    message.set_claim(at, 1);
    let room = Limits { batch_rows_max: 1 << 20, ..limits() };
    let error = check(&message, &room).unwrap_err();
    assert!(error.message().contains("may expand to"), "{error}");
    let wide = Limits { batch_bytes_max: 8 << 20, ..room };
    message.set_claim(at, 8 << 20);
    check(&message, &wide).unwrap();
}

#[test]
fn buffers_outside_the_body_are_refused() {
    for compression in [None, Some(LZ4_FRAME), Some(ZSTD)] {
        let honest = last(encode(&integers(200), compression));
        let at = honest.first_filled_buffer();
        let body = honest.body.len() as i64;
        for offset in [body + 1, body, i64::MAX, -1, i64::MIN] {
            let mut message = honest.clone();
            message.set_buffer_offset(at, offset);
            assert_refused(&message, &["buffer", "offset", &offset.to_string()]);
        }
        for length in [body + 1, i64::MAX, -1, i64::MIN] {
            let mut message = honest.clone();
            message.set_buffer_length(at, length);
            assert_refused(&message, &["buffer", "length", &length.to_string()]);
        }
    }
}

#[test]
fn buffers_that_share_bytes_are_refused() {
    let mut message = last(encode(&every_shape(), None));
    let whole = message.body.len() as i64;
    for at in [1, 2, 4] {
        message.set_buffer_offset(at, 0);
        message.set_buffer_length(at, whole);
    }
    assert_refused(&message, &["buffers up to", "body"]);
}

#[test]
fn counts_that_lie_are_refused() {
    let honest = last(encode(&integers(200), None));
    for (length, nulls) in [(-1, 0), (5, 6), (5, -1), (i64::MAX, 0), (i64::MIN, i64::MIN)] {
        let mut message = honest.clone();
        message.set_node(0, length, nulls);
        assert_refused(&message, &["field node 0", &length.to_string()]);
    }
    let few = Limits { batch_rows_max: 199, ..limits() };
    let text = check(&honest, &few).unwrap_err().message().to_owned();
    assert!(text.contains("200 rows") && text.contains("batch_rows_max"), "{text}");
}

#[test]
fn a_schema_is_bounded_in_fields() {
    let schema = &encode(&every_shape(), None)[0];
    let few = Limits { columns_max: 13, ..limits() };
    let text = check(schema, &few).unwrap_err().message().to_owned();
    assert!(text.contains("columns_max"), "{text}");
    check(schema, &Limits { columns_max: 23, ..limits() }).unwrap();
}

#[test]
fn broken_headers_are_refused() {
    let honest = last(encode(&integers(200), None));
    assert_refused(&Encoded { header: vec![], body: vec![] }, &["header"]);
    assert_refused(&Encoded { header: vec![0xff; 400], ..honest.clone() }, &["header"]);
    for cut in 0..honest.header.len() {
        let message = Encoded { header: honest.header[..cut].to_vec(), ..honest.clone() };
        // Flatbuffers may end in padding that nothing refers to; whatever passes must still be safe.
        let _ = check(&message, &limits());
    }
}

#[test]
fn types_that_arrow_cannot_build_are_refused() {
    use flatbuffers::FlatBufferBuilder;
    let schema_of =
        |build: &dyn Fn(
            &mut FlatBufferBuilder<'static>,
        )
            -> (ipc::Type, flatbuffers::WIPOffset<flatbuffers::UnionWIPOffset>)| {
            let mut fbb = FlatBufferBuilder::new();
            let (kind, parameters) = build(&mut fbb);
            let name = fbb.create_string("x");
            let mut field = ipc::FieldBuilder::new(&mut fbb);
            field.add_name(name);
            field.add_type_type(kind);
            field.add_type_(parameters);
            let field = field.finish();
            let fields = fbb.create_vector(&[field]);
            let mut schema = ipc::SchemaBuilder::new(&mut fbb);
            schema.add_fields(fields);
            let schema = schema.finish().as_union_value();
            let mut message = ipc::MessageBuilder::new(&mut fbb);
            message.add_version(ipc::MetadataVersion::V5);
            message.add_header_type(ipc::MessageHeader::Schema);
            message.add_header(schema);
            let message = message.finish();
            fbb.finish(message, None);
            Encoded { header: fbb.finished_data().to_vec(), body: vec![] }
        };
    let int = |bits: i32| {
        schema_of(&move |fbb| {
            let mut int = ipc::IntBuilder::new(fbb);
            int.add_bitWidth(bits);
            (ipc::Type::Int, int.finish().as_union_value())
        })
    };
    check(&int(32), &limits()).unwrap();
    assert_refused(&int(24), &["`x`", "integer width"]);
    assert_refused(&int(-8), &["`x`", "integer width"]);
    let decimal = |bits: i32, precision: i32, scale: i32| {
        schema_of(&move |fbb| {
            let mut decimal = ipc::DecimalBuilder::new(fbb);
            decimal.add_bitWidth(bits);
            decimal.add_precision(precision);
            decimal.add_scale(scale);
            (ipc::Type::Decimal, decimal.finish().as_union_value())
        })
    };
    check(&decimal(128, 38, 2), &limits()).unwrap();
    assert_refused(&decimal(128, 39, 2), &["decimal precision"]);
    assert_refused(&decimal(128, -1, 2), &["decimal precision"]);
    assert_refused(&decimal(128, 10, 300), &["decimal scale"]);
    assert_refused(&decimal(17, 10, 2), &["17 bits"]);
    let list =
        schema_of(&|fbb| (ipc::Type::List, ipc::ListBuilder::new(fbb).finish().as_union_value()));
    assert_refused(&list, &["`x`", "0 child fields"]);
    let fixed = schema_of(&|fbb| {
        let mut fixed = ipc::FixedSizeBinaryBuilder::new(fbb);
        fixed.add_byteWidth(-4);
        (ipc::Type::FixedSizeBinary, fixed.finish().as_union_value())
    });
    assert_refused(&fixed, &["fixed size"]);
    let union =
        schema_of(&|fbb| (ipc::Type::Union, ipc::UnionBuilder::new(fbb).finish().as_union_value()));
    assert_refused(&union, &["`x`", "union"]);
}
