//! Messages that lie or are broken: each is refused by kind and words, nothing is written, and the
//! server goes on serving.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::{FlightData, FlightDescriptor, SchemaAsIpc};
use arrow_ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_ipc::{CompressionType, MetadataVersion};
use lakebed_core::Limits;
use tonic::Code;

use crate::support::{Harness, batch, messages, send};

const APPEND: &str = r#"{"write":{"table":"t","mode":"append"}}"#;

async fn refused(server: &Harness, messages: Vec<FlightData>, words: &[&str]) {
    let status = send(&mut server.client().await, messages).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    for word in words {
        assert!(status.message().contains(word), "`{}` does not say `{word}`", status.message());
    }
}

/// A put into the new table `bomb`, whose only batch is compressed.
fn compressed(codec: CompressionType) -> Vec<FlightData> {
    let values: ArrayRef = Arc::new(Int64Array::from(vec![7; 200]));
    let batch = RecordBatch::try_from_iter([("id", values)]).unwrap();
    let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)
        .unwrap()
        .try_with_compression(Some(codec))
        .unwrap();
    let (_, rows) = IpcDataGenerator::default()
        .encode(
            &batch,
            &mut DictionaryTracker::new(false),
            &options,
            &mut CompressionContext::default(),
        )
        .unwrap();
    let schema: FlightData = SchemaAsIpc::new(&batch.schema(), &options).into();
    let create = r#"{"write":{"table":"bomb","mode":"create"}}"#;
    vec![schema.with_descriptor(FlightDescriptor::new_cmd(create)), rows.into()]
}

#[tokio::test]
async fn a_small_message_that_claims_terabytes_is_refused() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        for claim in [4_i64 << 40, i64::MAX, -2] {
            let mut all = compressed(codec);
            let mut body = all[1].data_body.to_vec();
            // The only filled buffer: eight bytes of claimed length, then the compressed values.
            body[..8].copy_from_slice(&claim.to_le_bytes());
            assert!(all[1].data_header.len() + body.len() < 500);
            all[1].data_body = body.into();
            refused(&server, all, &["message 2", "buffer", &claim.to_string()]).await;
        }
    }
    assert_eq!(server.state("bomb").await, None);
    assert!(send(&mut server.client().await, compressed(CompressionType::ZSTD)).await.is_ok());
    server.assert_untouched("t", before).await;
}

#[tokio::test]
async fn broken_bytes_are_refused_with_their_position() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let good = messages(APPEND, &[batch(3..5), batch(5..9)]).await;

    let mut cut = good.clone();
    cut[2].data_body = cut[2].data_body.slice(..40);
    refused(&server, cut, &["message 3", "body of 40 bytes"]).await;

    let mut headless = good.clone();
    headless[1].data_header = "not a flatbuffer".into();
    refused(&server, headless, &["message 2", "header"]).await;

    let mut bare = good.clone();
    bare[1].data_header = bytes::Bytes::new();
    refused(&server, bare, &["message 2", "without its header"]).await;

    let mut twice = good.clone();
    twice[2] = good[0].clone();
    refused(&server, twice, &["message 3", "second schema"]).await;

    refused(&server, good[1..].to_vec(), &["no descriptor"]).await;
    refused(&server, vec![], &["no first message"]).await;
    server.assert_untouched("t", before).await;
}

#[tokio::test]
async fn limits_are_named() {
    let limits = Limits { batch_rows_max: 1_000, message_bytes_max: 1 << 20, ..Limits::default() };
    let server = Harness::with(limits, true).await;
    let before = server.seeded("t").await;
    let many = messages(APPEND, &[batch(0..1_001)]).await;
    refused(&server, many, &["message 2", "1001 rows", "batch_rows_max"]).await;
    let mut large = messages(APPEND, &[batch(3..5)]).await;
    large[1].data_body = vec![0; 2 << 20].into();
    refused(&server, large, &["message 2", "message_bytes_max", "1048576"]).await;
    server.assert_untouched("t", before).await;
}

#[tokio::test]
async fn damaged_messages_never_stop_the_server() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let good = messages(APPEND, &[batch(3..400)]).await;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut client = server.client().await;
    let mut answered = 0;
    for _ in 0..300 {
        let mut all = good.clone();
        let victim = next() % 2;
        let mut header = all[victim].data_header.to_vec();
        for _ in 0..=next() % 3 {
            let at = next() % header.len();
            header[at] = next() as u8;
        }
        all[victim].data_header = header.into();
        match send(&mut client, all).await {
            Ok(_) => {}
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
        }
        answered += 1;
    }
    assert_eq!(answered, 300);
    let before = server.state("t").await.unwrap();
    server.assert_untouched("t", before).await;
}
