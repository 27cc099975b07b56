//! The Rust client against a server: `lakebed-rust-client CASE TABLE` runs one case and prints what
//! it saw as JSON. The tests in `../../test_lancedb_rust.py` start it and say what is right; a case
//! makes only tables whose names begin with TABLE, and namespaces and databases of that name.

mod columns;
mod data;
mod history;
mod indexes;
mod queries;
mod reads;
mod rows;
mod seen;
mod tables;

use std::env;
use std::process::ExitCode;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use lancedb::connection::ConnectBuilder;
use lancedb::{Connection, Result};
use serde_json::Value;

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// A connection that is not made yet, for cases that change how it is made.
fn builder(database: &str) -> ConnectBuilder {
    lancedb::connect(&format!("db://{database}"))
        .api_key(&variable("LAKEBED_KEY"))
        .region("us-east-1")
        .host_override(&variable("LAKEBED_URL"))
}

fn case<'a>(
    case: &str,
    db: &'a Connection,
    name: &'a str,
) -> Option<LocalBoxFuture<'a, Result<Value>>> {
    Some(match case {
        "create" => tables::create(db, name).boxed_local(),
        "modes" => tables::modes(db, name).boxed_local(),
        "lists" => tables::lists(db, name).boxed_local(),
        "namespaces" => tables::namespaces(db, name).boxed_local(),
        "catalog" => tables::catalog(name).boxed_local(),
        "connections" => tables::connections(name).boxed_local(),
        "wrong" => tables::wrong(db, name).boxed_local(),
        "not_there" => tables::not_there(db, name).boxed_local(),
        "add" => rows::add(db, name).boxed_local(),
        "parts" => rows::parts(name).boxed_local(),
        "types" => rows::types(db, name).boxed_local(),
        "update" => rows::update(db, name).boxed_local(),
        "merge" => rows::merge(db, name).boxed_local(),
        "shared" => rows::shared(db, name).boxed_local(),
        "reads" => reads::reads(db, name).boxed_local(),
        "nearest" => reads::nearest(db, name).boxed_local(),
        "multivectors" => reads::multivectors(db, name).boxed_local(),
        "text" => reads::text(db, name).boxed_local(),
        "plans" => reads::plans(db, name).boxed_local(),
        "indexes" => indexes::indexes(db, name).boxed_local(),
        "kinds" => indexes::kinds(db, name).boxed_local(),
        "parameters" => indexes::parameters(db, name).boxed_local(),
        "jobs" => indexes::jobs(db, name).boxed_local(),
        "versions" => history::versions(db, name).boxed_local(),
        "tags" => history::tags(db, name).boxed_local(),
        "branches" => history::branches(db, name).boxed_local(),
        "picks" => history::picks(db, name).boxed_local(),
        "clones" => history::clones(db, name).boxed_local(),
        "columns" => columns::columns(db, name).boxed_local(),
        "blobs" => columns::blobs(db, name).boxed_local(),
        "blob_descriptors" => columns::blob_descriptors(db, name).boxed_local(),
        "sql" => queries::sql(db, name).boxed_local(),
        "sql_port" => queries::sql_port(db, name).boxed_local(),
        _ => return None,
    })
}

async fn run(wanted: &str, name: &str) -> Result<Value> {
    let db = builder("default").execute().await?;
    match case(wanted, &db, name) {
        Some(case) => case.await,
        None => panic!("there is no case `{wanted}`"),
    }
}

fn main() -> ExitCode {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let [wanted, name] = arguments.as_slice() else {
        eprintln!("usage: lakebed-rust-client CASE TABLE");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(run(wanted, name)) {
        Ok(seen) => {
            println!("{seen}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", seen::told(&error));
            ExitCode::FAILURE
        }
    }
}
