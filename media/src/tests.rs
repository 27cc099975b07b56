//! Headers made by hand, honest ones and ones that lie, and random damage to all of them.

use std::io::Cursor;

use crate::samples::{self, bag, bag_record, mcap_record, mp4, mp4_box, png, prefixed};
use crate::{MediaHeader, RecordingHeader, media_type, probe, read_bag, read_db3, read_mcap};

fn of(name: &str, bytes: &[u8]) -> MediaHeader {
    probe(Cursor::new(bytes), name)
}

fn error(name: &str, bytes: &[u8]) -> String {
    of(name, bytes).error.unwrap_or_default()
}

fn mcap(compression: &str) -> Vec<u8> {
    samples::mcap(compression, |records| match compression {
        "zstd" => zstd::encode_all(records, 1).unwrap(),
        "lz4" => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            std::io::Write::write_all(&mut encoder, records).unwrap();
            encoder.finish().unwrap()
        }
        _ => records.to_vec(),
    })
}

#[test]
fn a_picture_of_any_size_is_a_header() {
    let header = of("x.png", &png(20_990, 29_700));
    assert_eq!((header.width, header.height, header.error), (Some(20_990), Some(29_700), None));
    assert!(error("x.png", &png(0, 5)).contains("0 x 5"));
    assert!(error("x.png", &png(u32::MAX, 5)).contains("4294967295"));
    assert!(!error("x.png", &png(3, 2)[..20]).is_empty());
    assert_eq!(error("x.png", b""), "the file is empty");
    assert!(error("x.png", b"words").contains("image/png"));
    assert_eq!(error("x.txt", b""), "");
    assert_eq!(of("x.svg", b"<svg/>").media_type, "image/svg+xml");
}

#[test]
fn a_film_says_what_it_is() {
    let header = of("x.mp4", &mp4(250));
    assert_eq!(header.error, None);
    assert_eq!((header.width, header.height), (Some(640), Some(272)));
    assert_eq!((header.frames, header.duration_ms), (Some(250), Some(10_000)));
    assert_eq!((header.codec.as_deref(), header.orientation), (Some("h264"), Some(6)));
    assert_eq!(header.taken_at_ns, Some(86_400_000_000_000));
    assert_eq!((header.latitude, header.longitude), (Some(52.52), Some(13.405)));
    // Four billion samples are a number like any other: nothing is made of that size.
    assert_eq!(of("x.mp4", &mp4(u32::MAX)).frames, Some(4_294_967_295));
}

#[test]
fn a_film_that_lies_is_an_error() {
    let mut endless = mp4(1);
    endless.extend([0, 0, 0, 1, b'm', b'd', b'a', b't', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let header = of("x.mp4", &endless);
    assert_eq!(header.frames, Some(1), "what is there is read");
    assert!(header.error.unwrap().contains("media data"));
    let mut small = mp4(1);
    small.extend([0, 0, 0, 3, b'f', b'r', b'e', b'e']);
    assert!(error("x.mp4", &small).contains("3 bytes long"));
    assert!(error("x.mp4", &mp4_box(b"ftyp", b"isom\0\0\0\0")).contains("moov"));
    let mut deep = mp4_box(b"moov", b"");
    for _ in 0..20 {
        deep = mp4_box(b"moov", &deep);
    }
    let deep = [mp4_box(b"ftyp", b"isom\0\0\0\0isom"), deep].concat();
    assert!(error("x.mp4", &deep).contains("deep"));
}

#[test]
fn an_avi_says_what_it_is() {
    let mut avih = Vec::new();
    for word in [40_000u32, 0, 0, 0, 50, 0, 0, 0, 320, 240] {
        avih.extend(word.to_le_bytes());
    }
    let mut bytes = b"RIFF\0\0\0\0AVI LIST\0\0\0\0hdrlavih".to_vec();
    bytes.extend((avih.len() as u32).to_le_bytes());
    bytes.extend(avih);
    bytes.extend(b"LIST\0\0\0\0strlstrh\x08\0\0\0vidscvid");
    let header = of("x.avi", &bytes);
    assert_eq!((header.width, header.height, header.frames), (Some(320), Some(240), Some(50)));
    assert_eq!((header.duration_ms, header.codec.as_deref()), (Some(2_000), Some("cvid")));
    assert!(!error("x.avi", &bytes[..40]).is_empty());
}

#[test]
fn a_bag_is_counted_with_and_without_its_index() {
    let whole = read_bag(Cursor::new(bag(true)));
    assert_eq!((whole.messages, whole.error.as_deref()), (3, None));
    assert_eq!((whole.start_ns, whole.end_ns), (Some(10_000_000_005), Some(12_000_000_005)));
    assert_eq!(whole.duration_ms(), Some(2_000));
    assert_eq!(whole.topics.len(), 1);
    assert_eq!((whole.topics[0].topic.as_str(), whole.topics[0].messages), ("/pose", 3));
    assert_eq!(whole.topics[0].type_name, "std_msgs/Int32");
    let open = read_bag(Cursor::new(bag(false)));
    assert_eq!(open.topics, whole.topics, "by looking into the chunk");
    assert!(open.error.unwrap().contains("not closed"));
    let bytes = bag(false);
    let cut = read_bag(Cursor::new(&bytes[..bytes.len() - 30]));
    assert_eq!(cut.messages, 2);
    assert!(cut.error.unwrap().contains("ends at byte"));
}

#[test]
fn an_mcap_is_counted_without_its_index() {
    for compression in ["", "lz4", "zstd"] {
        let header = read_mcap(Cursor::new(mcap(compression)));
        assert_eq!((header.messages, header.error.as_deref()), (2, None), "{compression}");
        assert_eq!((header.start_ns, header.end_ns), (Some(20), Some(30)));
        let topic = &header.topics[0];
        assert_eq!((topic.topic.as_str(), topic.type_name.as_str()), ("/t", "pkg/Type"));
    }
    let unknown = read_mcap(Cursor::new(mcap("rar"))).error.unwrap();
    assert!(unknown.contains("`rar`"), "{unknown}");
}

#[test]
fn claimed_sizes_are_not_believed() {
    let mut record = b"\x89MCAP0\r\n".to_vec();
    record.extend([3]);
    record.extend((1u64 << 62).to_le_bytes());
    assert!(read_mcap(Cursor::new(record)).error.unwrap().contains("a schema"));
    let mut header = b"#ROSBAG V2.0\n".to_vec();
    header.extend(u32::MAX.to_le_bytes());
    assert!(read_bag(Cursor::new(header)).error.unwrap().contains("ends at byte"));
}

#[test]
fn files_that_are_no_recordings_say_so() {
    assert_eq!(read_bag(Cursor::new(b"")).error.as_deref(), Some("the file is empty"));
    assert!(read_bag(Cursor::new(b"#ROSBAG V1.2\nxxxxxxx")).error.unwrap().contains("2.0"));
    assert!(read_mcap(Cursor::new(b"\x89MC")).error.unwrap().contains("magic"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x ?#.db3");
    std::fs::write(&file, b"SQLite format 3\0 and nothing more").unwrap();
    assert!(read_db3(&file).error.unwrap().contains("cannot be read"));
    assert!(read_db3(&folder.path().join("none.db3")).error.is_some());
}

#[test]
fn a_bag_in_sqlite_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ä b.db3");
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT);
         CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);
         INSERT INTO topics VALUES (1, '/a', 'p/T'), (2, '/silent', 'p/T');
         INSERT INTO messages(topic_id, timestamp) VALUES (1, 5), (1, 9), (3, 7);",
    )
    .unwrap();
    drop(db);
    let header = read_db3(&file);
    assert_eq!((header.messages, header.error.as_deref()), (3, None));
    assert_eq!((header.start_ns, header.end_ns), (Some(5), Some(9)));
    let names: Vec<_> = header.topics.iter().map(|t| (t.topic.as_str(), t.messages)).collect();
    assert_eq!(names, [("/a", 2), ("/silent", 0), ("topic 3", 1)]);
}

#[test]
fn a_bag_in_sqlite_that_lies_is_counted_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, sql: &str| {
        let file = folder.path().join(name);
        let db = rusqlite::Connection::open(&file).unwrap();
        db.execute_batch(sql).unwrap();
        drop(db);
        read_db3(&file)
    };
    let tables = "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT);
         CREATE TABLE messages(topic_id INTEGER, timestamp INTEGER);";
    let odd = of(
        "odd.db3",
        &format!(
            "{tables} INSERT INTO topics VALUES (1, '/a', 'p/T'), (2, '{}', 'p/T');
             INSERT INTO messages VALUES (1, 5), (NULL, 7), (1, NULL), ('x', 9);",
            "é".repeat(1_000)
        ),
    );
    assert_eq!((odd.messages, odd.error.as_deref()), (4, None));
    let names: Vec<_> = odd.topics.iter().map(|t| (t.topic.as_str(), t.messages)).collect();
    assert_eq!((names[0], names[1]), (("/a", 2), ("topic without id", 2)));
    assert_eq!(names[2].0.len(), 512, "bytes, not characters");
    let view = "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT);
         CREATE VIEW messages AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n
         LIMIT 1000) SELECT x AS topic_id, x AS timestamp FROM n;";
    assert!(of("view.db3", view).error.unwrap().contains("no tables"));
}

#[test]
fn chunks_that_are_bombs_are_left() {
    let zeros = vec![0; 80 << 20];
    let small = zstd::encode_all(&zeros[..], 1).unwrap();
    let header = read_mcap(Cursor::new(samples::mcap("zstd", |_| small.clone())));
    assert!(header.error.unwrap().contains("decoded"), "records of no bytes count too");
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    let small = encoder.finish().unwrap();
    let mut bytes = b"#ROSBAG V2.0\n".to_vec();
    bytes.extend(bag_record(&[("op", &[5]), ("compression", b"bz2")], &small));
    assert!(read_bag(Cursor::new(bytes)).error.unwrap().contains("decoded"));
}

#[test]
fn topics_of_a_recording_are_bounded() {
    let mut bytes = b"\x89MCAP0\r\n".to_vec();
    for id in 0..8_192u16 {
        let name = format!("/{id:04}{}", "n".repeat(4_000));
        let channel = [&id.to_le_bytes()[..], &[0; 2], &prefixed(&name), &prefixed(""), &[0; 4]];
        bytes.extend(mcap_record(4, &channel.concat()));
        let message = [&id.to_le_bytes()[..], &[0; 4], &7u64.to_le_bytes(), &[0; 8]];
        bytes.extend(mcap_record(5, &message.concat()));
    }
    bytes.extend(mcap_record(2, &[0; 20]));
    let header = read_mcap(Cursor::new(bytes));
    assert_eq!(header.messages, 8_192, "all are counted");
    let names: usize = header.topics.iter().map(|t| t.topic.len() + t.type_name.len()).sum();
    assert!(names > 1 << 20 && names <= 2 << 20, "{names}");
    assert!(header.error.unwrap().contains("left out"));
}

#[test]
fn many_chunks_and_many_channels_are_not_multiplied() {
    let mut bytes = b"\x89MCAP0\r\n".to_vec();
    let chunk = [&[0; 28][..], &prefixed(""), &[0; 8]].concat();
    for id in 0..60_000u16 {
        let channel = [&id.to_le_bytes()[..], &[0; 2], &prefixed("/t"), &prefixed(""), &[0; 4]];
        bytes.extend(mcap_record(4, &channel.concat()));
        bytes.extend(mcap_record(6, &chunk));
        bytes.extend(mcap_record(7, &[&id.to_le_bytes()[..], &[0; 4]].concat()));
    }
    bytes.extend(mcap_record(2, &[0; 20]));
    let start = std::time::Instant::now();
    let header = read_mcap(Cursor::new(bytes));
    assert_eq!((header.topics.len(), header.error), (1, None));
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn a_film_of_too_many_tracks_is_an_error() {
    let traks = mp4_box(b"trak", b"").repeat(1_025);
    let film = [mp4_box(b"ftyp", b"isom\0\0\0\0isom"), mp4_box(b"moov", &traks)].concat();
    assert!(error("x.mp4", &film).contains("tracks"));
}

/// A small generator, so that a failure is the same the next time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

#[test]
fn damage_anywhere_is_survived() {
    let seeds: Vec<(&str, Vec<u8>)> = vec![
        ("x.png", png(3, 2)),
        ("x.mp4", mp4(250)),
        ("x.bag", bag(true)),
        ("x.bag", bag(false)),
        ("x.mcap", mcap("zstd")),
        ("x.mcap", mcap("lz4")),
        ("x.gif", b"GIF89a\x03\0\x02\0\x80\0\0\0\0\0\xff\xff\xff,".to_vec()),
        ("x.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0".to_vec()),
        ("x.mkv", b"\x1aE\xdf\xa3\x84webm\x18S\x80g\xff\x15I\xa9f\x80\x16T\xaek\x80".to_vec()),
    ];
    let mut chance = Chance(7);
    for round in 0..20_000 {
        let (name, seed) = &seeds[round % seeds.len()];
        let mut bytes = seed.clone();
        for _ in 0..=chance.below(4) {
            let at = chance.below(bytes.len());
            bytes[at] = chance.below(256) as u8;
        }
        bytes.truncate(chance.below(bytes.len() * 4).max(1));
        let header = of(name, &bytes);
        assert!(
            !media_type(&bytes, name).is_empty() && header.duration_ms.is_none_or(|ms| ms >= 0)
        );
        let recording: RecordingHeader = match *name {
            "x.bag" => read_bag(Cursor::new(&bytes)),
            "x.mcap" => read_mcap(Cursor::new(&bytes)),
            _ => continue,
        };
        assert!(recording.topics.len() < 1_000);
    }
}
