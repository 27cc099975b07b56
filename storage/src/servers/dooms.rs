//! Agreement on what is deleted: a version that goes is read by none of the servers.
//!
//! ```text
//!   one that deletes:  writes what is to go into its record ─► waits for the others' answers ─► deletes
//!   all others:        see it with their next look ─► give nobody a pin on it any more
//!                                                  ─► answer in their records what of it is held
//! ```
//!
//! A server that joins looks before it serves, so it sees what is to go; one that is gone answers nothing
//! and is not waited for: what it reads it may find missing.

use std::collections::BTreeMap;

use lakebed_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Servers;

/// Something that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoomNote {
    /// The folder of the table.
    pub(crate) location: String,
    /// The branch; main when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) branch: Option<String>,
    /// The versions; the whole folder when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) versions: Option<Vec<u64>>,
}

/// What a server is about to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dooms {
    /// Rises with each change.
    pub(super) number: u64,
    pub(super) notes: Vec<DoomNote>,
}

/// What a server says to the dooms of another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The number of the dooms that it answers.
    pub(super) number: u64,
    /// What of them is held.
    pub(super) held: Vec<DoomNote>,
}

/// The right to delete, agreed on with all servers, while it lives.
#[derive(Debug)]
pub(crate) struct Agreed<'a> {
    servers: &'a Servers,
    note: DoomNote,
    /// What other servers hold of it.
    pub(crate) held: Vec<DoomNote>,
}

impl Servers {
    /// Agrees with the other servers that something goes. The caller has made sure that nobody of this
    /// server gets it any more.
    ///
    /// # Errors
    /// `Busy` when a server that is there does not answer in time, `Unavailable` when the store does not.
    pub(crate) async fn agree(&self, note: DoomNote) -> Result<Agreed<'_>> {
        let mut agreed = Agreed { servers: self, note: note.clone(), held: Vec::new() };
        let number = {
            let mut dooms = self.lock_dooms();
            dooms.number += 1;
            dooms.notes.push(note.clone());
            dooms.number
        };
        // In this order: a server that is not seen now sees the note when it joins.
        self.beat().await?;
        let deadline = Instant::now() + self.ttl * 3;
        loop {
            if let Some(held) = self.answers_to(number) {
                agreed.held = held.into_iter().filter(|held| held.is_of(&note)).collect();
                return Ok(agreed);
            }
            if Instant::now() > deadline {
                let message = "another server does not say what it reads; nothing is deleted";
                return Err(Error::new(ErrorKind::Busy, message).with_retry_after_ms(5_000));
            }
            tokio::time::sleep(self.interval() / 4).await;
            self.look().await?;
        }
    }

    /// What all others hold, once every one that is there has answered.
    fn answers_to(&self, number: u64) -> Option<Vec<DoomNote>> {
        let others = self.lock_others();
        let mut held = Vec::new();
        for seen in others.values().filter(|seen| seen.changed.elapsed() <= self.ttl) {
            let answer = seen.record.answers.get(&self.me.id)?;
            if answer.number < number {
                return None;
            }
            held.extend(answer.held.iter().cloned());
        }
        Some(held)
    }

    /// Takes in what the others are about to delete; whether there is something new to answer.
    pub(super) fn heed(&self) -> bool {
        let others: BTreeMap<String, Dooms> = {
            let others = self.lock_others();
            let there = others.iter().filter(|(_, seen)| seen.changed.elapsed() <= self.ttl);
            there.map(|(id, seen)| (id.clone(), seen.record.dooms.clone())).collect()
        };
        let notes = others.values().flat_map(|dooms| dooms.notes.iter().cloned());
        // Before it is looked at what is held: from here on nobody gets it.
        self.pins.set_doomed_elsewhere(notes.collect());
        let now_ms = self.clock.now_ms();
        let answers: BTreeMap<String, Answer> = others
            .into_iter()
            .map(|(id, dooms)| {
                let held = dooms.notes.iter().filter_map(|note| self.pins.held_of(note, now_ms));
                (id, Answer { number: dooms.number, held: held.collect() })
            })
            .collect();
        let mut given = self.lock_answers();
        let is_new = answers
            .iter()
            .any(|(id, answer)| given.get(id).is_none_or(|given| given.number != answer.number));
        *given = answers;
        is_new
    }
}

impl Agreed<'_> {
    /// The versions that others hold.
    pub(crate) fn held_versions(&self) -> Vec<u64> {
        self.held.iter().flat_map(|held| held.versions.iter().flatten().copied()).collect()
    }
}

impl Drop for Agreed<'_> {
    fn drop(&mut self) {
        let mut dooms = self.servers.lock_dooms();
        if let Some(at) = dooms.notes.iter().position(|note| *note == self.note) {
            dooms.notes.remove(at);
            dooms.number += 1;
        }
    }
}

impl DoomNote {
    /// Whether this is part of `other`.
    fn is_of(&self, other: &DoomNote) -> bool {
        self.location == other.location && (other.versions.is_none() || self.branch == other.branch)
    }
}
