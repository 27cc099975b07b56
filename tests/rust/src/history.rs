//! Cases of versions, tags, branches and clones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lancedb::index::Index;
use lancedb::query::QueryBase;
use lancedb::table::{CherryPickResult, ColumnAlteration, NewColumnTransform, Ref};
use lancedb::{Connection, Result, Table};
use serde_json::{Value, json};

use crate::data::{people, reader};
use crate::seen::{column, count, failure, sorted_ids};

fn computed(name: &str, expression: &str) -> NewColumnTransform {
    NewColumnTransform::SqlExpressions(vec![(name.to_string(), expression.to_string())])
}

async fn at(table: &Table) -> Result<Value> {
    Ok(json!([table.version().await?, count(table).await?]))
}

async fn columns(table: &Table) -> Result<usize> {
    Ok(table.schema().await?.fields().len())
}

pub async fn versions(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 3)).execute().await?;
    table.add(people(3, 2)).execute().await?;
    let listed = table.list_versions().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    let dated = listed
        .iter()
        .all(|one| now.abs_diff(one.timestamp.timestamp_millis().max(0) as u128) < 600_000);
    table.checkout(1).await?;
    let old = at(&table).await?;
    let rows = sorted_ids(&table.query()).await?;
    let pinned = table.add(people(9, 1)).execute().await;
    table.checkout_latest().await?;
    let latest = at(&table).await?;
    table.checkout(1).await?;
    table.restore().await?;
    let restored = at(&table).await?;
    let opened = db.open_table(name).version(2).execute().await?;
    let snapshot = table.query_snapshot().await?;
    table.add(people(5, 1)).execute().await?;
    Ok(json!({
        "listed": listed.iter().map(|one| one.version).collect::<Vec<_>>(),
        "dated": dated,
        "old": [old, rows],
        "pinned": failure(pinned),
        "latest": latest,
        "restored": restored,
        "opened": at(&opened).await?,
        "snapshot": [at(&snapshot).await?, at(&table).await?],
        "missing": failure(table.checkout(999).await),
        "unpinned": failure(table.restore().await),
    }))
}

pub async fn tags(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 3)).execute().await?;
    let mut tags = table.tags().await?;
    tags.create("gold", 1).await?;
    table.add(people(3, 2)).execute().await?;
    let created = tags.get_version("gold").await?;
    let listed = tags.list().await?;
    let listed = listed.iter().map(|(tag, one)| json!([tag, one.version])).collect::<Value>();
    let other = db.open_table(name).execute().await?;
    other.checkout_tag("gold").await?;
    let rows = at(&other).await?;
    let twice = tags.create("gold", 2).await;
    tags.update("gold", 2).await?;
    let updated = tags.get_version("gold").await?;
    let branch = table.create_branch("of_gold", "gold").await?;
    tags.delete("gold").await?;
    Ok(json!({
        "created": created,
        "listed": listed,
        "rows": rows,
        "twice": failure(twice),
        "updated": updated,
        "branch": count(&branch).await?,
        "left": tags.list().await?.len(),
        "missing": failure(tags.get_version("gold").await),
        "unknown": failure(other.checkout_tag("gold").await),
    }))
}

pub async fn branches(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 3)).execute().await?;
    let none = table.list_branches().await?.len();
    let made = table.create_branch("exp", Ref::Version(None, None)).await?;
    table.add(people(3, 1)).execute().await?;
    made.add(people(10, 4)).execute().await?;
    made.delete("id = 0").await?;
    made.update().only_if("id = 1").column("name", "'elsewhere'").execute().await?;
    let mut merge = made.merge_insert(&["id"]);
    merge.when_matched_update_all(None).when_not_matched_insert_all();
    merge.execute(reader(people(13, 2))).await?;
    made.add_columns().transform(computed("extra", "1")).execute().await?;
    made.create_index(&["id"], Index::Auto).execute_async().await?.wait().await?;
    let nested = table.create_branch("deeper/one", ("exp", None::<u64>)).await?;
    let old = table.create_branch("old", Ref::Version(None, Some(1))).await?;
    let listed = table.list_branches().await?;
    let opened = db.open_table(name).branch("exp").execute().await?;
    let pinned = made.checkout_branch("exp", Some(2)).await?;
    let back = made.checkout_branch("main", None).await?;
    let current = [&table, &made, &opened, &back].map(|one| one.current_branch());
    let difference = table.diff_branch("exp").await?;
    let mut tags = made.tags().await?;
    tags.create("there", made.version().await?).await?;
    let tagged = tags.get_version("there").await? == made.version().await?;
    let versions = made.list_versions().await?.len();
    let stats = made.stats().await?;
    let branch_rows = sorted_ids(&opened.query()).await?;
    let main = sorted_ids(&table.query()).await?;
    let twice = table.create_branch("exp", Ref::Version(None, None)).await;
    let unknown = table.create_branch("more", ("nothing", None::<u64>)).await;
    table.delete_branch("old").await?;
    let mut left = table.list_branches().await?.into_keys().collect::<Vec<_>>();
    left.sort();
    Ok(json!({
        "none": none,
        "current": current,
        "rows": branch_rows,
        "main": main,
        "renamed": made.count_rows(Some("name = 'elsewhere'".to_string())).await?,
        "columns": [columns(&table).await?, columns(&made).await?],
        "indexes": [table.list_indices().await?.len(), made.list_indices().await?.len()],
        "nested": count(&nested).await?,
        "old": failure(count(&old).await),
        "pinned": at(&pinned).await?,
        "tagged": tagged,
        "versions": versions,
        "stats": [stats.num_rows, stats.num_indices],
        "listed": listed
            .iter()
            .map(|(name, one)| json!([name, one.parent_branch, one.parent_version]))
            .collect::<Value>(),
        "difference": json!([
            difference.from_branch,
            difference.base_moved,
            difference.row_count_branch,
            difference.row_summary.new_on_branch
        ]),
        "added": difference.added_columns.iter().map(|one| one.name.clone()).collect::<Value>(),
        "indexed": difference
            .added_indexes
            .iter()
            .map(|one| one.index_name.clone())
            .collect::<Value>(),
        "twice": failure(twice),
        "unknown": failure(unknown),
        "missing": failure(table.checkout_branch("nothing", None).await),
        "gone": failure(table.delete_branch("old").await),
        "left": left,
    }))
}

pub async fn picks(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 3)).execute().await?;
    let exp = table.create_branch("exp", Ref::Version(None, None)).await?;
    let empty = table.cherry_pick("exp", false).await?;
    exp.add_columns().transform(computed("twice", "id * 2")).execute().await?;
    let preview = table.cherry_pick("exp", true).await?;
    let looked = columns(&table).await?;
    let picked = table.cherry_pick("exp", false).await?;
    table.checkout_latest().await?;
    let edits = table.create_branch("edits", Ref::Version(None, None)).await?;
    edits.drop_columns(&["name"]).await?;
    let wider = ColumnAlteration::new("id".to_string()).rename("key".to_string());
    edits.alter_columns(&[wider]).await?;
    edits.delete("key = 1").await?;
    let difference = table.diff_branch("edits").await?;
    let refused = table.cherry_pick("edits", false).await?;
    let shown = |result: &CherryPickResult| format!("{:?}", result.status);
    let codes = |result: &CherryPickResult| {
        let errors = result.diff.errors.iter();
        let mut codes = errors.map(|one| format!("{:?}", one.code)).collect::<Vec<_>>();
        codes.sort();
        json!([shown(result), codes])
    };
    Ok(json!({
        "empty": codes(&empty),
        "preview": json!([shown(&preview), preview.preview.promoted_columns, looked]),
        "picked": json!([shown(&picked), picked.preview.promoted_columns]),
        "after": picked.main_version_after == Some(table.version().await?),
        "twice": column(&table.query(), "twice").await?,
        "removed": difference.removed_columns.iter().map(|one| one.name.clone()).collect::<Value>(),
        "refused": codes(&refused),
        "unknown": failure(table.cherry_pick("nothing", false).await),
        "left": count(&table).await?,
    }))
}

pub async fn clones(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 3)).execute().await?;
    table.tags().await?.create("gold", 1).await?;
    table.add(people(3, 2)).execute().await?;
    let uri = table.uri().await?;
    let clone = |suffix: &str| db.clone_table(format!("{name}_{suffix}"), uri.clone());
    let whole = clone("whole").execute().await?;
    whole.add(people(9, 1)).execute().await?;
    let version = clone("version").source_version(1).execute().await?;
    let tag = clone("tag").source_tag("gold").execute().await?;
    let deep = clone("deep").is_shallow(false).execute().await;
    let taken = clone("whole").execute().await;
    let mut counts = Vec::new();
    for one in [&table, &whole, &version, &tag] {
        counts.push(count(one).await?);
    }
    Ok(json!({
        "rows": counts,
        "read": sorted_ids(&whole.query().only_if("id = 9")).await?,
        "deep": failure(deep),
        "taken": failure(taken),
    }))
}
