//! Cases of SQL, which the client sends over Arrow Flight.

use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, BooleanArray, FixedSizeListArray, Float64Array, RecordBatch};
use futures::TryStreamExt;
use lancedb::{Connection, Result};
use serde_json::{Value, json};

use crate::data::{integers, people, texts};
use crate::seen::{failure, fields_of, json_of, outcome};
use crate::tables::asked;
use crate::{builder, variable};

async fn rows(db: &Connection, text: &str) -> Result<Value> {
    let query = db.execute_query_async(text).execute().await?;
    json_of(&query.reader().await?.try_collect::<Vec<_>>().await?)
}

async fn bound(db: &Connection, text: &str, parameters: Vec<(&str, ArrayRef)>) -> Result<Value> {
    let parameters = RecordBatch::try_from_iter(parameters)?;
    let query = db.execute_query_async(text).parameters(parameters).execute().await?;
    json_of(&query.reader().await?.try_collect::<Vec<_>>().await?)
}

pub async fn sql(plain: &Connection, name: &str) -> Result<Value> {
    let address = variable("LAKEBED_SQL_URL");
    let db = builder("default").sql_host_override(&address).execute().await?;
    plain.create_table(name, people(0, 3_000)).execute().await?;
    let vector = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        [Some([Some(3.0f32), Some(7.0)])],
        2,
    );
    let empty = db.execute_query_async(format!("SELECT id, name FROM {name} WHERE id < 0"));
    let empty = empty.execute().await?;
    let reader = empty.reader().await?;
    let empty_fields = fields_of(&reader.schema());
    let empty_rows: Vec<_> = reader.try_collect().await?;
    let finished = empty.describe().await?;
    let again = empty.reader().await.map(|_| ());
    let whole = db.execute_query_async(format!("SELECT * FROM {name}")).execute().await?;
    let running = db.describe_query(whole.id()).await?.status.to_string();
    let whole_rows: Vec<_> = whole.reader().await?.try_collect().await?;
    let dropped = db.execute_query_async(format!("SELECT * FROM {name}")).execute().await?;
    dropped.cancel().await?;
    let ns = format!("{name}_ns");
    asked(|one| plain.create_namespace(one), |one| one.id = Some(vec![ns.clone()])).await?;
    let there = plain.create_table("there", people(0, 2)).namespace(vec![ns.clone()]);
    there.execute().await?;
    let named = db.execute_query_async("SELECT count(*) AS n FROM there");
    let named = named.default_namespace_path([ns.as_str()]).execute().await?;
    let named: Vec<_> = named.reader().await?.try_collect().await?;
    let elsewhere = builder("elsewhere").sql_host_override(&address).execute().await?;
    let stranger =
        builder("default").api_key("wrong").sql_host_override(&address).execute().await?;
    let insert = format!("INSERT INTO {name} VALUES (9000, 'made', [1.0, 2.0])");
    let one = |value: i64| vec![("1", integers([value]))];
    let by_id = format!("SELECT id FROM {name} WHERE id = $1");
    let either = format!("SELECT id FROM {name} WHERE id = $1 OR name = $2 ORDER BY id");
    let above = format!("SELECT id FROM {name} WHERE id > $low ORDER BY id LIMIT $k");
    let near = format!("SELECT id FROM {name} ORDER BY array_distance(vector, $at) LIMIT 1");
    let at = vec![("at", Arc::new(vector) as ArrayRef)];
    let number = Arc::new(Float64Array::from(vec![0.1])) as ArrayRef;
    let yes = Arc::new(BooleanArray::from(vec![true])) as ArrayRef;
    let typed = vec![("1", number), ("2", yes)];
    let numbered = vec![("1", integers([5])), ("2", texts(["name 8"]))];
    let many = vec![("1", integers([1])), ("2", integers([1]))];
    let cancelled = dropped.describe().await?.status.to_string();
    Ok(json!({
        "plain": rows(&db, &format!("SELECT id, name FROM {name} WHERE id < 3 ORDER BY id")).await?,
        "empty": json!([empty_fields, rows_in(&empty_rows)]),
        "finished": json!([finished.status.to_string(), finished.progress]),
        "again": failure(again),
        "whole": json!([running, rows_in(&whole_rows), whole.describe().await?.status.to_string()]),
        "dropped": json!([cancelled, failure(dropped.reader().await.map(|_| ()))]),
        "numbered": bound(&db, &either, numbered).await?,
        "named": bound(&db, &above, vec![("low", integers([40])), ("k", integers([2]))]).await?,
        "types": bound(&db, "SELECT $1 AS f, $2 AS b", typed).await?,
        "vector": outcome(bound(&db, &near, at).await),
        "none": bound(&db, &by_id, one(-1)).await?,
        "namespace": json_of(&named)?,
        "dotted": rows(&db, &format!("SELECT count(*) AS n FROM {ns}.there")).await?,
        "written": outcome(rows(&db, &insert).await),
        "counted": rows(&db, &format!("SELECT count(*) AS n FROM {name}")).await?,
        "syntax": failure(rows(&db, "SELEC 1").await),
        "table": failure(rows(&db, "SELECT * FROM no_such_table").await),
        "column": failure(rows(&db, &format!("SELECT nothing FROM {name}")).await),
        "division": failure(rows(&db, &format!("SELECT 1 / (id - id) FROM {name}")).await),
        "unbound": failure(rows(&db, &by_id).await),
        "tooMany": failure(bound(&db, &by_id, many).await),
        "twoRows": failure(bound(&db, "SELECT $1", vec![("a", integers([1, 2]))]).await),
        "elsewhere": failure(rows(&elsewhere, &format!("SELECT * FROM {name}")).await),
        "stranger": failure(rows(&stranger, "SELECT 1").await),
    }))
}

fn rows_in(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// SQL is found without being told where: on the port after that of HTTP.
pub async fn sql_port(db: &Connection, name: &str) -> Result<Value> {
    db.create_table(name, people(0, 3)).execute().await?;
    Ok(json!({ "rows": rows(db, &format!("SELECT id FROM {name} ORDER BY id")).await? }))
}
