//! Cases of writing rows.

use std::sync::{Arc, Mutex};

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Float64Array, Int8Array, Int32Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampMillisecondArray, UInt64Array,
};
use arrow_schema::DataType;
use lancedb::expr::{col, lit};
use lancedb::query::{QueryBase, Select};
use lancedb::remote::ClientConfig;
use lancedb::table::merge::MergeInsertBuilder;
use lancedb::table::{AddDataMode, NaNVectorBehavior, Ref, WriteOptions};
use lancedb::{Connection, Result, Table};
use serde_json::{Value, json};

use crate::builder;
use crate::data::{
    batch, field, integers, named_people, people, people_schema, reader, schema, texts, vectors,
};
use crate::seen::{count, failure, fields, ids, rows, sorted_ids};

pub async fn add(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 3)).execute().await?;
    let one = table.add(people(3, 1)).execute().await?;
    let several = table.add(vec![people(4, 4), people(8, 6)]);
    let several = several.write_options(WriteOptions::default()).execute().await?;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let noted = steps.clone();
    table
        .add(people(14, 5))
        .progress(move |step| {
            noted.lock().unwrap().push(json!([step.output_rows(), step.done()]));
        })
        .execute()
        .await?;
    let last = steps.lock().unwrap().last().cloned();
    let counts = [count(&table).await?, table.count_rows(Some("id >= 15".to_string())).await?];
    let over = table.add(people(0, 7)).mode(AddDataMode::Overwrite).execute().await?;
    let some = schema(vec![field("id", DataType::Int64)]);
    table.add(batch(some, vec![integers([7])])).execute().await?;
    let streamed = table.add(reader(people(8, 2))).execute().await?;
    let nan = || batch(people_schema(), vec![integers([9]), texts(["nan"]), nan_vector()]);
    let refused = failure(table.add(nan()).execute().await);
    table.add(nan()).on_nan_vectors(NaNVectorBehavior::Keep).execute().await?;
    let partial = table.query().only_if("id = 7");
    Ok(json!({
        "versions": [one.version, several.version, over.version, streamed.version],
        "progress": last,
        "counts": counts,
        "partial": rows(&partial).await?,
        "nan": refused,
        "left": count(&table).await?,
    }))
}

fn nan_vector() -> ArrayRef {
    vectors(2, [vec![f32::NAN, 1.0]])
}

/// Parallel streams and small requests: parts of one write, which is one version.
pub async fn parts(name: &str) -> Result<Value> {
    let config = ClientConfig { max_bytes_per_request: Some(1), ..Default::default() };
    let db = builder("default").client_config(config).execute().await?;
    let table = db.create_table(name, people(0, 1)).execute().await?;
    let batches =
        |first: i64| (0..12).map(|part| people(first + part * 100, 100)).collect::<Vec<_>>();
    let added = table.add(batches(1)).write_parallelism(3).execute().await?;
    let rows = [count(&table).await?, table.count_rows(Some("id > 1000".to_string())).await?];
    let over = table.add(batches(0)).mode(AddDataMode::Overwrite).write_parallelism(2);
    let over = over.execute().await?;
    let ids = sorted_ids(&table.query().select(Select::columns(&["id"]))).await?;
    let strange = schema(vec![field("strange", DataType::Int64)]);
    let strange = vec![batch(strange, vec![integers(0..10)]); 4];
    let wrong = table.add(strange).write_parallelism(2).execute().await;
    let made = table.create_branch("exp", Ref::Version(None, None)).await?;
    made.add(batches(5_000)).write_parallelism(2).execute().await?;
    Ok(json!({
        "versions": [added.version, over.version, table.version().await?],
        "rows": rows,
        "every": ids == (0..1_200).map(Value::from).collect::<Value>(),
        "wrong": failure(wrong),
        "branch": [count(&table).await?, count(&made).await?],
    }))
}

pub async fn types(db: &Connection, name: &str) -> Result<Value> {
    let words = [Some(vec![Some(1), Some(2)])];
    let words = ListArray::from_iter_primitive::<arrow_array::types::Int32Type, _, _>(words);
    let place =
        (Arc::new(field("x", DataType::Int32)), Arc::new(Int32Array::from(vec![7])) as ArrayRef);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("small", Arc::new(Int8Array::from(vec![-5]))),
        ("large", Arc::new(UInt64Array::from(vec![1 << 60]))),
        ("half", Arc::new(Float64Array::from(vec![0.5]))),
        ("yes", Arc::new(BooleanArray::from(vec![true]))),
        ("bytes", Arc::new(BinaryArray::from(vec![b"abc".as_slice()]))),
        ("day", Arc::new(Date32Array::from(vec![19_782]))),
        ("moment", Arc::new(TimestampMillisecondArray::from(vec![1_709_209_800_000]))),
        ("numbers", Arc::new(words)),
        ("place", Arc::new(StructArray::from(vec![place]))),
        ("nothing", Arc::new(StringArray::from(vec![None::<&str>]))),
    ];
    let table = db.create_table(
        name,
        RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, values)| (name, values, true)),
        )?,
    );
    let table = table.execute().await?;
    Ok(json!({ "fields": fields(&table).await?, "row": rows(&table.query()).await?[0] }))
}

pub async fn update(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 10)).execute().await?;
    let update = || table.update();
    let done = [
        update().only_if("id < 3").column("name", "'young'").execute().await?,
        update().column("id", "id + 100").execute().await?,
        update().only_if("id = 100").column("name", "'very ' || name").execute().await?,
        update().only_if("id = 101").column("name", "'o''neil'").execute().await?,
        update()
            .only_if("id = 102")
            .column("vector", "[7.0, 8.0]")
            .column("name", "NULL")
            .execute()
            .await?,
        update().only_if("id = 999").column("name", "'nobody'").execute().await?,
    ];
    let deleted = table.delete("id >= 106").await?;
    let by_expression = table.delete(&col("id").eq(lit(105i64))).await?;
    let again = table.delete("id >= 105").await?;
    let gone = [&deleted, &by_expression, &again].map(|one| one.num_deleted_rows);
    Ok(json!({
        "updated": done.iter().map(|one| one.rows_updated).collect::<Vec<_>>(),
        "versions": done[..5].iter().map(|one| one.version).collect::<Vec<_>>(),
        "deleted": gone,
        "rows": rows(&table.query()).await?,
        "column": failure(update().column("nothing", "1").execute().await),
        "filter": failure(table.delete("nothing = 1").await),
    }))
}

/// What one merge did, and how many rows there are after it.
async fn merged(table: &Table, merge: MergeInsertBuilder, batch: RecordBatch) -> Result<Value> {
    let done = merge.execute(reader(batch)).await?;
    let rows = count(table).await?;
    Ok(json!([
        done.version,
        done.num_inserted_rows,
        done.num_updated_rows,
        done.num_deleted_rows,
        rows
    ]))
}

pub async fn merge(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 10)).execute().await?;
    let merge = |edit: &dyn Fn(&mut MergeInsertBuilder)| {
        let mut one = table.merge_insert(&["id"]);
        edit(&mut one);
        one
    };
    let upsert = merge(&|one| {
        one.when_matched_update_all(None).when_not_matched_insert_all();
    });
    let insert = merge(&|one| {
        one.when_not_matched_insert_all();
    });
    let some = merge(&|one| {
        one.when_matched_update_all(Some("target.id < 2 AND source.id > 0".to_string()));
    });
    let by_expression = merge(&|one| {
        one.when_matched_update_all(None)
            .when_not_matched_insert_all()
            .when_not_matched_by_source_delete_expr(col("id").gt_eq(lit(15i64)));
    });
    let delete = merge(&|one| {
        one.when_not_matched_by_source_delete(None);
    });
    let partly = merge(&|one| {
        one.when_matched_update_all(None).timeout(std::time::Duration::from_secs(60));
    });
    let mut pair = table.merge_insert(&["id", "name"]);
    pair.when_not_matched_insert_all().use_index(false);
    let renamed = named_people(5, 10, |_| "new".to_string());
    let names = schema(vec![field("id", DataType::Int64), field("name", DataType::Utf8)]);
    let names = batch(names, vec![integers([1]), texts(["partly"])]);
    let mut done = vec![merged(&table, upsert.clone(), renamed).await?];
    let news = table.count_rows(Some("name = 'new'".to_string())).await?;
    for (one, rows) in [
        (insert, people(10, 10)),
        (some, people(0, 4)),
        (by_expression, people(0, 3)),
        (delete, people(0, 3)),
        (pair, people(2, 2)),
        (partly, names),
    ] {
        done.push(merged(&table, one, rows).await?);
    }
    let empty = merged(&table, upsert.clone(), people(0, 0)).await;
    let twice = batch(
        people_schema(),
        vec![integers([1, 1]), texts(["a", "b"]), vectors(2, [vec![0.0; 2], vec![0.0; 2]])],
    );
    let order = lancedb::query::ColumnOrdering::asc_nulls_last("id".to_string());
    Ok(json!({
        "done": done,
        "news": news,
        "empty": failure(empty),
        "twice": failure(upsert.execute(reader(twice)).await),
        "rows": rows(&table.query().order_by(Some(vec![order]))).await?,
    }))
}

/// What Python wrote, and what Python is to read.
pub async fn shared(db: &Connection, name: &str) -> Result<Value> {
    let theirs = db.open_table(name).execute().await?;
    let mine = db.create_table(format!("{name}_rust"), people(0, 4)).execute().await?;
    mine.update().only_if("id = 2").column("name", "'two'").execute().await?;
    Ok(json!({
        "fields": fields(&theirs).await?,
        "rows": rows(&theirs.query()).await?,
        "mine": ids(&mine.query().only_if("name = 'two'")).await?,
    }))
}
