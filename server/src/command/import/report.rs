//! What is said while an import runs, and when it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::Format;
use crate::exit::Exit;
use crate::output::{print, print_json};

/// Errors that are shown; all are counted, and stand in the column `error`.
const SHOWN_MAX: u64 = 10;

/// The line on a terminal; nothing where standard error is none.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    bytes: Arc<AtomicU64>,
    files: Arc<AtomicU64>,
    shown: Arc<AtomicU64>,
    start: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        let zero = || Arc::new(AtomicU64::new(0));
        Progress { bar, bytes: zero(), files: zero(), shown: zero(), start: Instant::now() }
    }

    /// Counts bytes that were read.
    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.show();
    }

    /// Counts a file, or a row, that is done.
    pub(crate) fn add_done(&self, count: u64) {
        self.files.fetch_add(count, Ordering::Relaxed);
        self.show();
    }

    fn show(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let (files, bytes) =
            (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let seconds = self.start.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!(
            "{} done, {} read, {}/s",
            HumanCount(files),
            HumanBytes(bytes),
            HumanBytes((bytes as f64 / seconds) as u64)
        ));
    }

    /// Says that something about a file is wrong; the first few are shown.
    pub(super) fn wrong(&self, path: &str, error: &str) {
        let shown = self.shown.fetch_add(1, Ordering::Relaxed);
        if shown > SHOWN_MAX {
            return;
        }
        let line = match shown == SHOWN_MAX {
            true => {
                "… and more; the column `error` says what is wrong with what was read".to_owned()
            }
            false => format!("{}: {error}", path.escape_debug()),
        };
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Summary {
    /// The tables that were written to.
    pub(super) tables: Vec<String>,
    /// Files that were looked at.
    pub(super) files: u64,
    /// Rows that were added.
    pub(super) rows_added: u64,
    /// Rows that were replaced, because their file changed.
    pub(super) rows_replaced: u64,
    /// Files that were there already.
    pub(super) files_unchanged: u64,
    /// Files with which something is wrong, or that could not be read.
    pub(super) errors: u64,
    /// Bytes of the files whose rows were written.
    pub(super) bytes: u64,
    /// Links and the like, and files that no table was named for.
    pub(super) passed_over: u64,
    /// Topics of the recordings that were written.
    pub(super) topics: u64,
    /// Rows of the manifest that name no file.
    pub(super) manifest_rows_unused: u64,
    /// Folders that could not be listed: what is in them is missing.
    pub(super) folders_unread: u64,
}

impl Summary {
    /// This and what came after it.
    pub(super) fn and(mut self, other: Summary) -> Summary {
        self.tables.extend(other.tables);
        self.files += other.files;
        self.rows_added += other.rows_added;
        self.rows_replaced += other.rows_replaced;
        self.files_unchanged += other.files_unchanged;
        self.errors += other.errors;
        self.bytes += other.bytes;
        // What the first part passed over is what the second one took.
        self.passed_over = other.passed_over;
        self.topics += other.topics;
        self.manifest_rows_unused += other.manifest_rows_unused;
        self.folders_unread = self.folders_unread.max(other.folders_unread);
        self
    }

    fn json(&self, seconds: f64) -> Value {
        json!({
            "tables": self.tables,
            "files": self.files,
            "rows_added": self.rows_added,
            "rows_replaced": self.rows_replaced,
            "files_unchanged": self.files_unchanged,
            "errors": self.errors,
            "bytes": self.bytes,
            "passed_over": self.passed_over,
            "topics": self.topics,
            "manifest_rows_unused": self.manifest_rows_unused,
            "folders_unread": self.folders_unread,
            "seconds": (seconds * 1e3).round() / 1e3,
        })
    }

    fn text(&self, seconds: f64) -> String {
        let mut text = format!(
            "{}: {} rows added, {} replaced, {} unchanged, from {} files",
            self.tables.join(", "),
            self.rows_added,
            self.rows_replaced,
            self.files_unchanged,
            self.files,
        );
        for (count, what) in [
            (self.errors, "with an error"),
            (self.passed_over, "passed over"),
            (self.topics, "topics"),
            (self.manifest_rows_unused, "rows of the manifest without a file"),
            (self.folders_unread, "folders not readable"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        let rate = |count: f64| count / seconds.max(1e-3);
        text.push_str(&format!(
            "\n{} in {} ({:.0} files/s, {}/s)",
            HumanBytes(self.bytes),
            match seconds < 120.0 {
                true => format!("{seconds:.2} s"),
                false => HumanDuration(Duration::from_secs_f64(seconds)).to_string(),
            },
            rate(self.files as f64),
            HumanBytes(rate(self.bytes as f64) as u64),
        ));
        text
    }

    /// Prints it. Rows with errors are no failure; a folder that could not be listed is.
    ///
    /// # Errors
    /// Failure when something is missing.
    pub(super) fn print(&self, format: Format, time: Duration) -> Result<(), Exit> {
        let seconds = time.as_secs_f64();
        match format {
            Format::Json => print_json(&self.json(seconds))?,
            Format::Table => print(&self.text(seconds))?,
        }
        match self.folders_unread {
            0 => Ok(()),
            folders => Err(Exit::failed(format!(
                "{folders} folders could not be listed; what is in them was not imported"
            ))),
        }
    }
}
