//! What an input of the fuzz target `ipc_messages` means.
//!
//! ```text
//!   repeated: length of the header (2 bytes, little-endian), length of the body (2 bytes), both
//! ```
//!
//! The target decodes the messages in their order as one stream. Seeds are whole honest streams, so
//! that a mutation reaches schemas, dictionaries and batches alike.

/// Header and body of each message in `input`; what is cut short is taken as far as it goes.
pub fn messages(input: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut messages = Vec::new();
    let mut rest = input;
    while let Some((lengths, after)) = rest.split_first_chunk::<4>() {
        let header = usize::from(u16::from_le_bytes([lengths[0], lengths[1]])).min(after.len());
        let (header, after) = after.split_at(header);
        let body = usize::from(u16::from_le_bytes([lengths[2], lengths[3]])).min(after.len());
        let (body, after) = after.split_at(body);
        messages.push((header, body));
        rest = after;
    }
    messages
}

/// Appends a message to an input.
pub fn push(input: &mut Vec<u8>, header: &[u8], body: &[u8]) {
    for part in [header, body] {
        let length = u16::try_from(part.len()).expect("seeds are made of small messages");
        input.extend_from_slice(&length.to_le_bytes());
    }
    input.extend_from_slice(header);
    input.extend_from_slice(body);
}
