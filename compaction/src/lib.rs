//! Keeps tables in shape: joins small fragments, and deletes what nobody needs any more.
//!
//! What to rewrite is decided by a pure policy; what may be deleted has a reason and a minimum age.

mod blobs;
mod compactor;
mod history;
mod indexes;
mod policy;
mod purge;
mod retention;
mod settings;
mod sweep;

pub use blobs::sweep_blobs;
pub use compactor::{Budget, Pass, compact};
pub use history::{Done, HISTORY_TABLE, forget_done, is_history, note_done};
pub use indexes::{CaughtUp, Due, catch_up, due};
pub use policy::{Reason, Rewrite, Targets, plan};
pub use purge::{Purged, plan_purge, purge};
pub use retention::{Retention, clean, expired};
pub use settings::TableSettings;
pub use sweep::{Swept, sweep};
