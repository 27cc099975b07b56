//! Large files: sent as uploads, in one pass over their bytes, and resumed where they were cut off.
//!
//! ```text
//!   thread: read 1 MiB ─► CRC-64 ─► queue ─► PUT /v1/uploads/{id}?offset=n ─► complete (size, CRC-64)
//!                                                                                 └─► SHA-256
//! ```
//!
//! The id of an upload is noted in a small file of the user's own until the row that refers to it is
//! committed, so that an import that was killed goes on where the server's bytes end. What was sent
//! before is read again for the checksum, and not sent again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm::Crc64Nvme;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::notes::Notes;
use super::report::Progress;
use crate::client::{Client, Refusal};

/// Bytes that are read, hashed and sent at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces between the reader and the connection.
const PIECES_AHEAD: usize = 8;
const TRIES_MAX: u32 = 6;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// A connection that takes nothing for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(300);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);
/// The server reads all of an upload to complete it.
const COMPLETE_TIME_MAX: Duration = Duration::from_secs(6 * 3600);

/// A file that lies at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uploaded {
    /// The id of the upload.
    pub(crate) id: String,
    /// Its bytes.
    pub(crate) size: u64,
    /// Their SHA-256 in hexadecimal.
    pub(crate) sha256: String,
    /// The note to delete when the row is committed.
    pub(crate) note: Option<PathBuf>,
}

/// Why a file did not become an upload.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file cannot be read; a row can still say so.
    File(io::Error),
    /// The server; the import cannot go on.
    Server(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Server(refusal.message)
    }
}

/// Sends large files to one lake.
#[derive(Clone)]
pub(crate) struct Uploader {
    client: Arc<Client>,
    /// Where ids are noted.
    notes: Notes,
    progress: Progress,
}

impl Uploader {
    pub(crate) fn new(client: Arc<Client>, notes: Notes, progress: Progress) -> Self {
        Uploader { client, notes, progress }
    }

    /// Sends a file for a row of a table.
    pub(crate) async fn send(&self, table: &str, file: &Path) -> Result<Uploaded, Failure> {
        let note = self.notes.upload(table, file).map_err(Failure::File)?;
        let mut pause = PAUSE_FIRST;
        let mut tries = 1;
        loop {
            match self.try_send(file, note.as_deref()).await {
                Err(Attempt::Again(_)) if tries < TRIES_MAX => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                Err(Attempt::Again(message)) => return Err(Failure::Server(message)),
                Err(Attempt::Over(failure)) => return Err(failure),
                Ok(uploaded) => return Ok(uploaded),
            }
        }
    }

    async fn try_send(&self, file: &Path, note: Option<&Path>) -> Result<Uploaded, Attempt> {
        let (id, offset) = self.begin(note).await?;
        let length =
            std::fs::metadata(file).map_err(|error| Attempt::Over(Failure::File(error)))?;
        let (size, crc) = match offset < length.len() {
            true => self.put(file, &id, offset).await?,
            // All of it was sent before.
            false => {
                let file = file.to_owned();
                let read = tokio::task::spawn_blocking(move || checksum(&file)).await;
                read.map_err(|_| reader_failed())?
                    .map_err(|error| Attempt::Over(Failure::File(error)))?
            }
        };
        let body = json!({ "size": size, "crc64nvme": format!("{crc:016x}") });
        let path = format!("/v1/uploads/{id}/complete");
        match self.client.ask(Method::POST, &path, Some(body), COMPLETE_TIME_MAX).await {
            Ok(answer) => match answer["sha256"].as_str() {
                Some(sha256) => {
                    let (sha256, note) = (sha256.to_owned(), note.map(Path::to_owned));
                    Ok(Uploaded { id, size, sha256, note })
                }
                None => Err(Attempt::Over(Failure::Server(
                    "the server gave no SHA-256 of an upload".to_owned(),
                ))),
            },
            Err(refusal) if refusal.status == Some(StatusCode::BAD_REQUEST) => {
                // The file changed between the passes: what lies at the server is of no use.
                self.discard(&id, note).await;
                Err(Attempt::Again(refusal.message))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Takes an upload back that no row will refer to. What stays expires.
    pub(super) async fn discard(&self, id: &str, note: Option<&Path>) {
        forget(note);
        let path = format!("/v1/uploads/{id}");
        let _ = self.client.ask(Method::DELETE, &path, None, ANSWER_TIME_MAX).await;
    }

    /// The upload to go on with, and how much of it is there.
    async fn begin(&self, note: Option<&Path>) -> Result<(String, u64), Attempt> {
        let noted = note.and_then(|note| std::fs::read_to_string(note).ok());
        if let Some(id) = noted.filter(|id| is_id(id)) {
            let path = format!("/v1/uploads/{id}");
            match self.client.ask(Method::GET, &path, None, ANSWER_TIME_MAX).await {
                Ok(answer) => return Ok((id, answer["offset"].as_u64().unwrap_or(0))),
                Err(refusal) if refusal.is_passing() => return Err(refusal.into()),
                // It expired, or was of a lake that is gone.
                Err(_) => forget(note),
            }
        }
        let answer = self.client.ask(Method::POST, "/v1/uploads", None, ANSWER_TIME_MAX).await?;
        let id = answer["id"].as_str().filter(|id| is_id(id)).map(str::to_owned);
        let id = id.ok_or_else(|| {
            Attempt::Over(Failure::Server("the server gave no id of an upload".to_owned()))
        })?;
        if let Some(note) = note {
            // Without the note the upload cannot be resumed by another run, which is no reason to stop.
            let _ = note.parent().map(std::fs::create_dir_all);
            let _ = std::fs::write(note, &id);
        }
        Ok((id, 0))
    }

    /// Reads the whole file and sends what lies behind `offset`; its size and its CRC-64.
    async fn put(&self, file: &Path, id: &str, offset: u64) -> Result<(u64, u64), Attempt> {
        let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(PIECES_AHEAD);
        let source = file.to_owned();
        let progress = self.progress.clone();
        let moved = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&moved);
        let reader = tokio::task::spawn_blocking(move || {
            let mut file = File::open(&source)?;
            let mut crc = crc_fast::Digest::new(Crc64Nvme);
            let mut at: u64 = 0;
            let mut memory = Memory::default();
            loop {
                let mut buffer = memory.take();
                let size = fill(&mut file, &mut buffer)?;
                if size == 0 {
                    break;
                }
                crc.update(&buffer[..size]);
                let piece = buffer.freeze();
                memory.keep(piece.clone());
                let end = at + size as u64;
                if end > offset {
                    let begin = usize::try_from(offset.saturating_sub(at)).unwrap_or(0);
                    // A connection that is gone ends the sending; the checksum has no use then either.
                    if sender.blocking_send(Ok(piece.slice(begin..size))).is_err() {
                        return Err(io::Error::other("the connection broke"));
                    }
                }
                at = end;
                read.fetch_add(1, Ordering::Relaxed);
                progress.add_bytes(size as u64);
            }
            Ok::<_, io::Error>((at, crc.finalize()))
        });
        let pieces = futures::stream::unfold(receiver, |mut receiver| async {
            let piece = receiver.recv().await?;
            Some((piece.map(Frame::data), receiver))
        });
        let path = format!("/v1/uploads/{id}?offset={offset}");
        let body = StreamBody::new(pieces).boxed();
        let sent = tokio::select! {
            sent = self.client.stream(Method::PUT, &path, body) => sent,
            () = stalled(&moved) => {
                return Err(Attempt::Again(format!(
                    "the server took no bytes for {} s", STALL_MAX.as_secs()
                )));
            }
        };
        let done = reader.await.map_err(|_| reader_failed())?;
        match (sent, done) {
            (Ok(_), Ok(done)) => Ok(done),
            (Err(refusal), _) if refusal.status.is_some() && !refusal.is_passing() => {
                match refusal.status {
                    // The offset is not where the server is: another run may have gone on meanwhile.
                    Some(StatusCode::CONFLICT) => Err(Attempt::Again(refusal.message)),
                    _ => Err(Attempt::Over(refusal.into())),
                }
            }
            (Err(refusal), _) => Err(Attempt::Again(refusal.message)),
            (Ok(_), Err(error)) => Err(Attempt::Over(Failure::File(error))),
        }
    }
}

fn reader_failed() -> Attempt {
    Attempt::Over(Failure::Server("the file's reader failed".to_owned()))
}

/// Ends when nothing was read for too long: a full queue stops the reader.
async fn stalled(moved: &AtomicU64) {
    let mut last = moved.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(STALL_MAX).await;
        let now = moved.load(Ordering::Relaxed);
        if now == last {
            return;
        }
        last = now;
    }
}

enum Attempt {
    Again(String),
    Over(Failure),
}

impl From<Refusal> for Attempt {
    fn from(refusal: Refusal) -> Self {
        match refusal.is_passing() {
            true => Attempt::Again(refusal.message),
            false => Attempt::Over(refusal.into()),
        }
    }
}

/// Deletes the note of an upload that is no longer needed.
pub(crate) fn forget(note: Option<&Path>) {
    if let Some(note) = note {
        let _ = std::fs::remove_file(note);
    }
}

/// What stands in a note goes into a URL.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut size = 0;
    while size < buffer.len() {
        match file.read(&mut buffer[size..]) {
            Ok(0) => break,
            Ok(read) => size += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(size)
}

/// Memory of pieces, used again once they are sent: memory that is new costs more than what it is for.
#[derive(Default)]
struct Memory {
    sent: VecDeque<Bytes>,
}

impl Memory {
    /// A buffer of a piece's size, of whatever it holds.
    fn take(&mut self) -> BytesMut {
        let is_full = self.sent.len() > PIECES_AHEAD + 1;
        let oldest = if is_full { self.sent.pop_front() } else { None };
        let free = oldest.and_then(|piece| piece.try_into_mut().ok());
        match free.filter(|buffer| buffer.len() == PIECE_BYTES) {
            Some(buffer) => buffer,
            None => BytesMut::zeroed(PIECE_BYTES),
        }
    }

    /// Keeps a piece that was filled from its buffer, until nobody else holds it.
    fn keep(&mut self, piece: Bytes) {
        self.sent.push_back(piece);
    }
}

/// The size of a file that is not sent, and its SHA-256.
pub(crate) fn digest(file: &Path) -> io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let size = each_piece(file, |piece| hasher.update(piece))?;
    Ok((size, super::hex(&hasher.finalize())))
}

/// The size of a file that was sent, and its CRC-64.
fn checksum(file: &Path) -> io::Result<(u64, u64)> {
    let mut crc = crc_fast::Digest::new(Crc64Nvme);
    let size = each_piece(file, |piece| crc.update(piece))?;
    Ok((size, crc.finalize()))
}

fn each_piece(file: &Path, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        let size = fill(&mut file, &mut buffer)?;
        if size == 0 {
            return Ok(total);
        }
        take(&buffer[..size]);
        total += size as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_only_when_nobody_holds_it() {
        let mut memory = Memory::default();
        let mut held = Vec::new();
        for number in 0..3 * PIECES_AHEAD {
            let mut buffer = memory.take();
            buffer.fill(number as u8);
            let piece = buffer.freeze();
            memory.keep(piece.clone());
            if number % 2 == 0 {
                held.push((number as u8, piece));
            }
        }
        for (number, piece) in held {
            assert_eq!(piece.len(), PIECE_BYTES);
            assert!(piece.iter().all(|byte| *byte == number));
        }
    }
}
