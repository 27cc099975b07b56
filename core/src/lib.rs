//! The nouns that every crate of Lakebed shares.
//!
//! Why it exists: errors, names, limits and the clock are spoken by storage, by the use cases and by
//! both doors. They live below all of them so that no crate has to invent a second word for one idea.
//! What always holds: nothing in here does IO, and nothing in here knows lance, arrow, tonic or axum.

mod clock;
mod error;
mod limits;
mod model_ref;
mod name;
mod principal;
mod row_set_ref;
mod search;
mod stages;
mod suggest;
mod vector_alias;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, ErrorKind, Result, Subject};
pub use limits::Limits;
pub use model_ref::{ModelAt, ModelName, ModelRef, ModelTag};
pub use name::{BranchName, CursorName, DatabaseName, NamespacePath, TableId, TableName, TagName};
pub use principal::{Freshness, Principal, RequestContext, Role};
pub use row_set_ref::{RowSetName, RowSetRef};
pub use search::{ApproxMode, DistanceType, OrderBy, QueryVectors, SearchReport};
pub use stages::{Stage, StageClock};
pub use suggest::nearest_names;
pub use vector_alias::VectorAlias;
