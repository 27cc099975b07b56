//! Functions that users register, the columns that they compute, and the jobs that fill those.
//!
//! | to | look in |
//! | --- | --- |
//! | register a function | `create.rs`; what may be registered: `definition.rs`, `types.rs` |
//! | describe, list and drop functions | `catalogue.rs` |
//! | tell workers what to run | `for_workers.rs` |
//! | declare columns that a function computes | `declare.rs`; as clients read it: `binding.rs` |
//! | the same by a call in SQL | `declare_call.rs` |
//! | fill such columns | `refresh.rs` |
//! | have them refresh themselves | `automatic.rs` |
//! | call a function or a model in SQL | `calls.rs` |
//! | keep columns computed by SQL | `computed_sql.rs` |
//! | see which rows have no value, and why | `failures.rs` |

mod automatic;
mod binding;
mod calls;
mod catalogue;
mod computed_sql;
mod create;
mod declare;
mod declare_call;
mod definition;
mod failures;
mod for_workers;
mod refresh;
mod types;

pub use binding::Declaration;
pub(crate) use calls::Calls;
pub use catalogue::FunctionVersion;
pub use definition::Registration;
pub(crate) use definition::SecretBinding;
pub use failures::FunctionFailures;
