//! The Flight door over a real lake in a temporary folder, through real connections.

mod auth;
mod commit;
mod hostile;
mod reads;
mod sql;
mod support;
mod worker;
mod writes;
