//! The Flight door.
