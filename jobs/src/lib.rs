//! Jobs: work that outlives its request, and columns that attached workers compute, task by task.
//!
//! | to | look in |
//! | --- | --- |
//! | see the record of a job, whatever its type | `registry.rs` |
//! | submit a job that computes a column, pause and resume it | `submit.rs` |
//! | know what a job runs over which columns | `work.rs` |
//! | follow one from its plan to its end | `drive.rs`, `pass.rs`, `fill.rs` |
//! | know who gets which task, and what a dead worker means | `scheduler.rs` |
//! | see what a worker may ask | `sync.rs`; on the wire `worker_server.rs` |
//! | see what happened to a job | `events.rs` |
//! | know what survives a crash | `ledger.rs`, `parts.rs`; read back by `replay.rs`, `results.rs` |
//! | know what a model is that users registered | `registered.rs` |
//! | embed the text or picture of a search | `query.rs` |
//! | compute the rows of a statement while it waits | `evaluate.rs` |
//! | find near duplicates by their signatures | `near_duplicates/` |

mod drive;
mod error_rows;
mod evaluate;
mod events;
mod fill;
mod ids;
mod ledger;
mod models;
mod near_duplicates;
mod parts;
mod pass;
mod perform;
mod query;
mod registered;
mod registry;
mod replay;
mod results;
mod runtime;
mod scheduler;
mod submit;
mod sync;
mod work;
mod worker_server;

pub use error_rows::ERRORS_TABLE;
pub use evaluate::Evaluation;
pub use ids::{AttemptId, JobId};
pub use models::{ModelInfo, ModelInput, is_built_in};
pub use near_duplicates::{Likeness, NearDuplicates};
pub use query::{Candidate, QueryInput};
pub use registered::{ModelNotes, ModelSettings, Pooling, RegisteredModel, number_of};
pub use registry::{COMPUTE_COLUMN, Job, JobState, Jobs, REFRESH_COLUMNS};
pub use runtime::{ColumnJobs, ColumnSpec, JobTerms, Progress};
pub use scheduler::{Labels, Resources};
pub use submit::{RefreshRule, SubmitJob, has_new_inputs, last_refreshed};
pub use sync::{FunctionOf, WorkerView};
pub use work::{
    AUTO_REFRESH_SECONDS, FunctionKey, FunctionWork, InputColumn, Interpreter, ModelWork,
    OutputColumn, ResultSource, SOURCE_VERSION, Work,
};
pub use worker_server::{TakeReport, WorkerServer};
