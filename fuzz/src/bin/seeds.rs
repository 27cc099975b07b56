//! Writes the seeds of each target into a folder of its name: honest streams of every shape and
//! compression, and small media and recordings.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Float32Builder, Int32Builder, ListBuilder, MapBuilder, StringBuilder,
    StringViewBuilder,
};
use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int64Array, LargeBinaryArray,
    NullArray, RecordBatch, StringArray, StructArray,
};
use arrow_ipc::writer::{
    CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions, StreamWriter,
};
use arrow_ipc::{CompressionType, MetadataVersion};

#[path = "../../../media/src/samples.rs"]
mod samples;

const ROWS: usize = 20;

fn columns() -> Vec<(&'static str, ArrayRef)> {
    let mut views = StringViewBuilder::new();
    let mut lists = ListBuilder::new(Int32Builder::new());
    let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), 3);
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for n in 0..ROWS {
        views.append_value("a text that is too long for its view".repeat(n % 2));
        for item in 0..n % 4 {
            lists.values().append_value(item as i32);
        }
        lists.append(n % 5 != 0);
        for item in 0..3 {
            vectors.values().append_value((n * item) as f32);
        }
        vectors.append(n % 6 != 0);
        maps.keys().append_value(n.to_string());
        maps.values().append_value(n as i32);
        maps.append(true).expect("keys and values are of one length");
    }
    let texts: StringArray =
        (0..ROWS).map(|n| (n % 3 != 0).then(|| "text".repeat(n % 5))).collect();
    let flags: BooleanArray = (0..ROWS).map(|n| (n % 2 == 0).then_some(n > 7)).collect();
    let colours: DictionaryArray<Int8Type> =
        (0..ROWS).map(|n| (n % 4 != 0).then_some(["red", "green", "blue"][n % 3])).collect();
    let pairs = StructArray::try_from(vec![
        ("text", Arc::new(texts.clone()) as ArrayRef),
        ("flag", Arc::new(flags.clone()) as ArrayRef),
    ])
    .expect("children are of one length");
    let fixed: Vec<[u8; 5]> = (0..ROWS as u8).map(|n| [n; 5]).collect();
    let fixed = FixedSizeBinaryArray::try_from_iter(fixed.iter()).expect("values are of one width");
    let numbers: Int64Array = (0..ROWS as i64).map(|n| (n != 3).then_some(n % 4)).collect();
    vec![
        ("n", Arc::new(numbers)),
        ("text", Arc::new(texts)),
        ("flag", Arc::new(flags)),
        ("view", Arc::new(views.finish())),
        ("list", Arc::new(lists.finish())),
        ("vector", Arc::new(vectors.finish())),
        ("map", Arc::new(maps.finish())),
        ("colour", Arc::new(colours)),
        ("pair", Arc::new(pairs)),
        ("fixed", Arc::new(fixed)),
        ("blob", Arc::new(LargeBinaryArray::from_iter_values((0..ROWS).map(|n| vec![7; n])))),
        ("null", Arc::new(NullArray::new(ROWS))),
    ]
}

fn options(compression: Option<CompressionType>) -> IpcWriteOptions {
    IpcWriteOptions::try_new(8, false, MetadataVersion::V5)
        .and_then(|options| options.try_with_compression(compression))
        .expect("options fit together")
}

/// A seed of `ipc_stream`: how the bytes are cut, and the stream.
fn stream(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let cut = vec![100];
    let mut writer = StreamWriter::try_new_with_options(cut, &batch.schema(), options(compression))
        .expect("a schema is written to memory");
    writer.write(batch).expect("an honest batch is encoded");
    writer.into_inner().expect("the end is written to memory")
}

/// A seed of `ipc_messages`.
fn messages(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let options = options(compression);
    let mut tracker = DictionaryTracker::new(false);
    let generator = IpcDataGenerator::default();
    let schema =
        generator.schema_to_bytes_with_dictionary_tracker(&batch.schema(), &mut tracker, &options);
    let (dictionaries, rows) = generator
        .encode(batch, &mut tracker, &options, &mut CompressionContext::default())
        .expect("an honest batch is encoded");
    let mut input = Vec::new();
    for data in [schema].into_iter().chain(dictionaries).chain([rows]) {
        lakebed_fuzz::push(&mut input, &data.ipc_message, &data.arrow_data);
    }
    input
}

/// The seeds of `media_headers`, behind the byte that chooses their name, and of `recordings`.
fn media() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let named = |choice: u8, bytes: Vec<u8>| [vec![choice], bytes].concat();
    let mut fragment = samples::mp4(0);
    let run = samples::mp4_box(b"trun", &[0, 0, 0, 0, 0, 0, 0, 9]);
    let head = samples::mp4_box(b"tfhd", &[0, 0, 0, 0, 0, 0, 0, 1]);
    let track = samples::mp4_box(b"traf", &[head, run].concat());
    fragment.extend(samples::mp4_box(b"moof", &track));
    vec![
        ("media_headers", "mp4", named(0, samples::mp4(250))),
        ("media_headers", "fragment", named(0, fragment)),
        (
            "media_headers",
            "avi",
            named(1, b"RIFF\0\0\0\0AVI LIST\0\0\0\0hdrlavih\x38\0\0\0".to_vec()),
        ),
        ("media_headers", "png", named(3, samples::png(3, 2))),
        ("recordings", "bag", samples::bag(true)),
        ("recordings", "open-bag", samples::bag(false)),
        ("recordings", "mcap", samples::mcap("", <[u8]>::to_vec)),
    ]
}

fn main() {
    let folder = std::env::args().nth(1).expect("usage: seeds FOLDER");
    for (target, name, seed) in media() {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        std::fs::write(folder.join(name), seed).expect("the folder can be written");
    }
    let mut batches: Vec<(String, RecordBatch)> = columns()
        .into_iter()
        .map(|(name, column)| (name.to_owned(), RecordBatch::try_from_iter([(name, column)])))
        .map(|(name, batch)| (name, batch.expect("one column is a batch")))
        .collect();
    let all = RecordBatch::try_from_iter(columns()).expect("columns are of one length");
    batches.push(("all".to_owned(), all));
    for (name, batch) in &batches {
        for (codec, compression) in [
            ("plain", None),
            ("lz4", Some(CompressionType::LZ4_FRAME)),
            ("zstd", Some(CompressionType::ZSTD)),
        ] {
            let name = format!("{name}-{codec}");
            for (target, seed) in [
                ("ipc_messages", messages(batch, compression)),
                ("ipc_stream", stream(batch, compression)),
            ] {
                let folder = Path::new(&folder).join(target);
                std::fs::create_dir_all(&folder).expect("the folder can be made");
                std::fs::write(folder.join(&name), seed).expect("the folder can be written");
            }
        }
    }
}
