//! Small honest files, made by hand: what the tests damage and what the fuzz targets begin with.

/// Made by hand.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// Made by hand.
pub(crate) fn mp4_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(name);
    bytes.extend(content);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A film of 250 samples at 640 x 272, ten seconds, turned by a right angle.
pub(crate) fn mp4(samples: u32) -> Vec<u8> {
    let mvhd = words(&[0, 2_082_844_800 + 86_400, 0, 1_000, 10_000]);
    let mut tkhd = words(&[0, 0, 0, 1, 0, 10_000, 0, 0, 0, 0]);
    tkhd.extend(words(&[0, 1 << 16, 0, 0u32.wrapping_sub(1 << 16), 0, 0, 0, 0, 1 << 30]));
    let mdhd = words(&[0, 0, 0, 25, 250]);
    let mut hdlr = words(&[0, 0]);
    hdlr.extend(b"vide\0\0\0\0");
    let mut stsd = words(&[0, 1, 100]);
    stsd.extend(b"avc1");
    stsd.extend([0; 24]);
    stsd.extend([2, 128, 1, 16]);
    let stsz = words(&[0, 0, samples]);
    let stbl = [mp4_box(b"stsd", &stsd), mp4_box(b"stsz", &stsz)].concat();
    let minf = mp4_box(b"minf", &mp4_box(b"stbl", &stbl));
    let mdia = [mp4_box(b"mdhd", &mdhd), mp4_box(b"hdlr", &hdlr), minf].concat();
    let trak = [mp4_box(b"tkhd", &tkhd), mp4_box(b"mdia", &mdia)].concat();
    let place = mp4_box(b"udta", &mp4_box(b"\xa9xyz", b"\0\x11\x15\xc7+52.5200+013.405/"));
    let moov = [mp4_box(b"mvhd", &mvhd), mp4_box(b"trak", &trak), place].concat();
    [mp4_box(b"ftyp", b"isom\0\0\0\0isom"), mp4_box(b"moov", &moov)].concat()
}

pub(crate) fn bag_record(fields: &[(&str, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    for (name, value) in fields {
        header.extend((name.len() as u32 + 1 + value.len() as u32).to_le_bytes());
        header.extend(name.as_bytes());
        header.push(b'=');
        header.extend(*value);
    }
    let mut bytes = (header.len() as u32).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// A bag of three messages on one topic in one chunk; with or without what is behind the chunk.
pub(crate) fn bag(is_closed: bool) -> Vec<u8> {
    let mut described = Vec::new();
    for (name, value) in [("topic", "/pose"), ("type", "std_msgs/Int32")] {
        described.extend((name.len() as u32 + 1 + value.len() as u32).to_le_bytes());
        described.extend(format!("{name}={value}").as_bytes());
    }
    let id: &[u8] = &7u32.to_le_bytes();
    let fields: [(&str, &[u8]); 3] = [("op", &[7]), ("conn", id), ("topic", b"/pose")];
    let connection = bag_record(&fields, &described);
    let mut chunk = connection.clone();
    let mut index = Vec::new();
    for second in 10u32..13 {
        let time = [second.to_le_bytes(), 5u32.to_le_bytes()].concat();
        chunk.extend(bag_record(&[("op", &[2]), ("conn", id), ("time", &time)], b"data"));
        index.extend(time);
        index.extend([0; 4]);
    }
    let at: &[u8] = if is_closed { &[1, 0, 0, 0, 0, 0, 0, 0] } else { &[0; 8] };
    let mut bytes = b"#ROSBAG V2.0\n".to_vec();
    bytes.extend(bag_record(&[("op", &[3]), ("index_pos", at)], &[b' '; 16]));
    bytes.extend(bag_record(&[("op", &[5]), ("compression", b"none")], &chunk));
    if is_closed {
        let count: &[u8] = &3u32.to_le_bytes();
        bytes.extend(bag_record(&[("op", &[4]), ("conn", id), ("count", count)], &index));
        bytes.extend(connection);
    }
    bytes
}

pub(crate) fn mcap_record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(content);
    bytes
}

pub(crate) fn prefixed(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// Two messages in a chunk that has no index behind it.
pub(crate) fn mcap(compression: &str, encode: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let schema = [&1u16.to_le_bytes()[..], &prefixed("pkg/Type"), &prefixed(""), &prefixed("")];
    let channel =
        [&2u16.to_le_bytes()[..], &1u16.to_le_bytes(), &prefixed("/t"), &prefixed(""), &[0; 4]];
    let mut records = mcap_record(3, &schema.concat());
    records.extend(mcap_record(4, &channel.concat()));
    for time in [30u64, 20] {
        let message = [&2u16.to_le_bytes()[..], &[0; 4], &time.to_le_bytes(), &[0; 8], b"x"];
        records.extend(mcap_record(5, &message.concat()));
    }
    let stored = encode(&records);
    let mut chunk = [0; 16].to_vec();
    chunk.extend((records.len() as u64).to_le_bytes());
    chunk.extend([0; 4]);
    chunk.extend(prefixed(compression));
    chunk.extend((stored.len() as u64).to_le_bytes());
    chunk.extend(stored);
    let magic: &[u8] = b"\x89MCAP0\r\n";
    let footer = mcap_record(2, &[0; 20]);
    [magic, &mcap_record(1, &[0; 8]), &mcap_record(6, &chunk), &footer, magic].concat()
}
