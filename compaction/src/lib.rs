//! Deletes what nobody needs any more, and never anything else.
//!
//! Its first piece: uploads whose time ran out and folders of dropped tables whose last reader is gone.

mod sweep;

pub use sweep::{Swept, sweep};
