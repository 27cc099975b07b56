//! `lakebed gc --blobs`: deletes large blobs that nothing refers to any more, after saying how many.

use http::Method;
use serde_json::{Value, json};

use crate::cli::Format;
use crate::client::Client;
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

/// Why blobs stay, in the order in which it is told.
const REASONS: [(&str, &str); 4] = [
    ("version", "a version refers to them"),
    ("upload", "an upload stands for them"),
    ("write", "a write under way may refer to them"),
    ("young", "they are young"),
];

pub(crate) async fn gc_blobs(
    client: &Client,
    format: Format,
    is_dry_run: bool,
    yes: bool,
) -> Result<(), Exit> {
    const QUESTION: &str = "Delete the large blobs that nothing refers to?";
    if let Format::Json = format {
        if !is_dry_run {
            confirm(yes, QUESTION)?;
        }
        return print_json(&ask(client, is_dry_run).await?);
    }
    let planned = ask(client, true).await?;
    for (reason, words) in REASONS {
        if let Some(kept) = planned["kept"].get(reason) {
            print(&format!("{} stay: {words}", counted(kept)))?;
        }
    }
    if !has_any(&planned) {
        return print("nothing to delete");
    }
    print(&explained(&planned))?;
    if is_dry_run {
        return print("nothing was deleted: this is what would be");
    }
    confirm(yes, "Delete that?")?;
    let done = ask(client, false).await?;
    print(&format!("deleted: {}", explained(&done)))
}

async fn ask(client: &Client, is_dry_run: bool) -> Result<Value, Exit> {
    client.send(Method::POST, "/v1/blobs/gc", Some(json!({ "dry_run": is_dry_run }))).await
}

fn has_any(answer: &Value) -> bool {
    ["deleted", "half_written"].iter().any(|kind| answer[kind]["blobs"] != json!(0))
}

fn counted(count: &Value) -> String {
    format!("{} blobs, {} bytes", cell(&count["blobs"]), cell(&count["bytes"]))
}

fn explained(answer: &Value) -> String {
    let mut text = counted(&answer["deleted"]);
    if answer["half_written"]["blobs"] != json!(0) {
        let half_written = &answer["half_written"];
        let (files, bytes) = (cell(&half_written["blobs"]), cell(&half_written["bytes"]));
        text.push_str(&format!("; {files} half-written files, {bytes} bytes"));
    }
    text
}
