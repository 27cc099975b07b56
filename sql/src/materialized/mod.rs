//! Materialized views: what their query means, and how it is run over a version of the source or over what
//! changed in it.
//!
//! ```text
//!   query ──► checked once: one table, a row of the view for each row of it ──► MaterializedView
//!   MaterializedView ──┬─► over a version of the source      ──► all rows, each with the source's row id
//!                      └─► over rows of its change feed      ──► the rows that replace those of before
//! ```
//!
//! Both ways the same plan is made, with another table in the place of the source. So a query that takes
//! each row by itself is refreshed from what changed alone, and what looks at several rows at once is
//! refused by name.
//!
//! What always holds: the same rows give the same values whenever they are read, so functions of the time
//! or of chance are refused, too.

mod create;
mod definition;
mod lists;
mod over;
mod syntax;

pub(crate) use lists::{take_lists, views_table};
pub(crate) use syntax::{refreshed, uniform};

/// What the column that names the source's row is read from.
const ROW_ID: &str = "_rowid";
