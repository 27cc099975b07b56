//! Cases of columns: how a schema changes, and columns of blobs.

use std::sync::Arc;

use arrow_array::builder::LargeBinaryBuilder;
use arrow_array::{Array, ArrayRef, LargeBinaryArray, StringArray, StructArray, UInt64Array};
use arrow_schema::{DataType, Field, TimeUnit};
use lancedb::blob::{BlobDescriptor, BlobDescriptorSource, BlobRangeRequest};
use lancedb::query::{QueryBase, Select};
use lancedb::table::{ColumnAlteration, FieldMetadataUpdate, NewColumnTransform};
use lancedb::{Connection, Result, Table};
use serde_json::{Value, json};

use crate::data::{batch, field, integers, people, reader, schema};
use crate::seen::{column, count, failure, fields, rows};

pub async fn columns(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 3)).execute().await?;
    let sql = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        NewColumnTransform::SqlExpressions(pairs.collect())
    };
    let alter = |path: &str| ColumnAlteration::new(path.to_string());
    let halves = sql(&[("half", "CAST(id AS DOUBLE) / 2"), ("letter", "'a'")]);
    let added = table.add_columns().transform(halves).execute().await?;
    let read = table.query().select(Select::columns(&["id", "half", "letter"]));
    let read = rows(&read).await?;
    let altered = table.alter_columns(&[alter("half").rename("part".to_string())]).await?;
    table.alter_columns(&[alter("part").cast_to(DataType::Float32)]).await?;
    table.alter_columns(&[alter("name").set_nullable(false)]).await?;
    let changed = fields(&table).await?;
    let nullable: Vec<_> =
        table.schema().await?.fields().iter().map(|one| one.is_nullable()).collect();
    let dropped = table.drop_columns(&["letter"]).await?;
    let empty = schema(vec![
        field("moment", DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into()))),
        field("price", DataType::Decimal128(12, 3)),
        field("lists", DataType::List(Arc::new(field("item", DataType::Int32)))),
    ]);
    let nulls =
        table.add_columns().transform(NewColumnTransform::AllNulls(empty)).execute().await?;
    let update = FieldMetadataUpdate::new("id").set("unit", "m").set("more", "x");
    let noted = table.update_field_metadata(&[update]).await?;
    let update = FieldMetadataUpdate::new("id").remove("more");
    table.update_field_metadata(&[update]).await?;
    let merged = table.schema().await?.field(0).metadata().clone();
    let update = FieldMetadataUpdate::new("id").set("only", "this").replace();
    table.update_field_metadata(&[update]).await?;
    let left = table.schema().await?;
    let missing = table.drop_columns(&["letter"]).await;
    let wrong = table.add_columns().transform(sql(&[("bad", "nothing + 1")])).execute().await;
    let taken = table.add_columns().transform(sql(&[("name", "'b'")])).execute().await;
    let impossible = table.alter_columns(&[alter("name").cast_to(DataType::Int32)]).await;
    let nothing = table.query().select(Select::columns(&["moment", "price", "lists"]));
    Ok(json!({
        "versions": [added.version, altered.version, dropped.version, nulls.version, noted.version],
        "rows": read,
        "changed": changed,
        "nullable": nullable,
        "left": fields(&table).await?,
        "metadata": [merged, left.field(0).metadata().clone()],
        "values": column(&table.query(), "part").await?,
        "nulls": rows(&nothing.limit(1)).await?,
        "missing": failure(missing),
        "wrong": failure(wrong),
        "taken": failure(taken),
        "impossible": failure(impossible),
        "nothing": failure(table.alter_columns(&[alter("name")]).await),
    }))
}

fn pictures() -> Vec<Option<Vec<u8>>> {
    vec![Some(b"hello".to_vec()), None, Some(Vec::new()), Some(vec![7; 300_000])]
}

/// A blob as the client writes it: its bytes and no place elsewhere.
fn cells(field: &Field, values: &[Option<Vec<u8>>]) -> ArrayRef {
    let DataType::Struct(children) = field.data_type() else {
        panic!("a blob is a struct");
    };
    let bytes = LargeBinaryArray::from_iter(values.iter().map(Option::as_deref));
    let nulls = bytes.nulls().cloned();
    let none = || Arc::new(UInt64Array::new_null(values.len())) as ArrayRef;
    let uris = Arc::new(StringArray::new_null(values.len())) as ArrayRef;
    let columns = vec![Arc::new(bytes) as ArrayRef, uris, none(), none()];
    Arc::new(StructArray::new(children.clone(), columns, nulls))
}

async fn row_ids(table: &Table) -> Result<Vec<u64>> {
    let ids = table.query().select(Select::columns(&["id"])).with_row_id();
    Ok(serde_json::from_value(column(&ids, "_rowid").await?).expect("row ids"))
}

fn same(found: &LargeBinaryArray, wanted: &[Option<Vec<u8>>]) -> bool {
    found.iter().eq(wanted.iter().map(Option::as_deref))
}

fn whole(found: &LargeBinaryArray) -> Value {
    found.iter().map(|one| one.map(|bytes| String::from_utf8_lossy(bytes).into_owned())).collect()
}

pub async fn blobs(db: &Connection, name: &str) -> Result<Value> {
    let blob = lancedb::blob("picture", true);
    let fields = schema(vec![field("id", DataType::Int64), blob.clone()]);
    let made = pictures();
    let rows_of = batch(fields.clone(), vec![integers(0..4), cells(&blob, &made)]);
    let table = db.create_table(name, rows_of).execute().await?;
    // Plain bytes become blobs as they are added.
    let bytes = schema(vec![field("id", DataType::Int64), field("picture", DataType::LargeBinary)]);
    let mut more = LargeBinaryBuilder::new();
    more.append_value(b"world");
    let more = batch(bytes.clone(), vec![integers([4]), Arc::new(more.finish())]);
    table.add(more).execute().await?;
    let ids = row_ids(&table).await?;
    let mut wanted = made.clone();
    wanted.push(Some(b"world".to_vec()));
    let found = table.fetch_blobs("picture", &ids).await?;
    let files = table.fetch_blob_files("picture", &ids).await?;
    let sizes: Vec<_> = files.iter().map(|file| file.as_ref().map(|one| one.size())).collect();
    let first = files[0].as_ref().expect("a blob");
    let large = files[3].as_ref().expect("a blob");
    large.seek(299_998).await.map_err(lancedb::Error::from)?;
    let end = large.read().await.map_err(lancedb::Error::from)?;
    let middle =
        large.read_ranges(&[5..7, 299_999..300_000]).await.map_err(lancedb::Error::from)?;
    let range = first.read_range(1..3).await.map_err(lancedb::Error::from)?;
    let ranges = table
        .fetch_blob_ranges(
            "picture",
            [
                BlobRangeRequest::new(ids[0], 1, 3),
                BlobRangeRequest::new(ids[1], 0, 1),
                BlobRangeRequest::new(ids[0], 4, 1),
                BlobRangeRequest::new(ids[2], 0, 0),
            ],
        )
        .await?;
    let behind = table.fetch_blob_ranges("picture", [BlobRangeRequest::new(ids[0], 3, 9)]).await;
    let mut upsert = table.merge_insert(&["id"]);
    upsert.when_matched_update_all(None).when_not_matched_insert_all();
    let merged = {
        let mut changed = LargeBinaryBuilder::new();
        changed.append_value(b"changed");
        let rows = batch(bytes, vec![integers([0]), Arc::new(changed.finish())]);
        upsert.execute(reader(rows)).await
    };
    let old = first.read().await.map_err(lancedb::Error::from)?;
    table.checkout(2).await?;
    let pinned = table.fetch_blobs("picture", &ids[..1]).await?;
    table.checkout_latest().await?;
    Ok(json!({
        "columns": table.blob_columns().await?,
        "rows": count(&table).await?,
        "fetched": same(&found, &wanted),
        "sizes": sizes,
        "range": String::from_utf8_lossy(&range),
        "end": end.to_vec(),
        "middle": middle.iter().map(|one| one.to_vec()).collect::<Vec<_>>(),
        "ranges": whole(&ranges),
        "behind": failure(behind),
        "merged": failure(merged),
        "old": String::from_utf8_lossy(&old),
        "pinned": whole(&pinned),
        "descriptor": column(&table.query().only_if("id = 3"), "picture").await?,
        "other": failure(table.fetch_blobs("id", &ids[..1]).await),
        "missing": failure(table.fetch_blobs("picture", &[1 << 40]).await),
        "gone": failure(table.fetch_blob_files("picture", &[1 << 40]).await),
    }))
}

/// Files that are opened by what SQL gives of a blob.
pub async fn blob_descriptors(db: &Connection, name: &str) -> Result<Value> {
    let blob = lancedb::blob("picture", true);
    let fields = schema(vec![field("id", DataType::Int64), blob.clone()]);
    let table =
        db.create_table(name, batch(fields, vec![integers(0..4), cells(&blob, &pictures())]));
    let table = table.execute().await?;
    let source = BlobDescriptorSource {
        uri: table.uri().await?,
        version: 1,
        committed_at_micros: 1,
        branch: None,
        column: "picture".to_string(),
        row_reference: row_ids(&table).await?[0],
        row_is_address: false,
    };
    let descriptor = BlobDescriptor {
        kind: 0,
        position: 0,
        size: 5,
        blob_id: 0,
        blob_uri: String::new(),
        source,
    };
    let file = table.open_blob_file(&descriptor).await?;
    let read = file.read().await.map_err(lancedb::Error::from);
    Ok(json!({
        "size": file.size(),
        "read": failure(read),
    }))
}
