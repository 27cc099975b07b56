//! Cases of tables as a whole: how they come into being, are found, and go, and what is refused.

use std::collections::HashMap;
use std::time::Duration;

use futures::TryStreamExt;
use lancedb::database::CreateTableMode;
use lancedb::expr::{col, lit};
use lancedb::listing::ListingOptions;
use lancedb::query::{QueryBase, Select};
use lancedb::remote::{ClientConfig, RetryConfig, TimeoutConfig};
use lancedb::table::{ColumnAlteration, OptimizeAction, RTEWriteSpec};
use lancedb::{Connection, Result};
use serde_json::{Value, json};

use crate::data::{field, integers, people, people_schema, reader, schema};
use crate::seen::{batches, count, failure, fields, ids, rows};
use crate::{builder, variable};

/// Asks with a request of the namespace protocol, whose types the client takes and does not name.
pub async fn asked<T, R, F>(ask: impl FnOnce(T) -> F, edit: impl FnOnce(&mut T)) -> Result<R>
where
    T: Default,
    F: Future<Output = Result<R>>,
{
    let mut request = T::default();
    edit(&mut request);
    ask(request).await
}

fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| part.to_string()).collect()
}

pub async fn create(db: &Connection, name: &str) -> Result<Value> {
    let one = db.create_table(name, people(0, 3)).execute().await?;
    let several = vec![people(0, 4), people(4, 5)];
    let batches = db.create_table(format!("{name}_batches"), several).execute().await?;
    let read = db.create_table(format!("{name}_reader"), reader(people(0, 5))).execute().await?;
    let empty = db.create_empty_table(format!("{name}_empty"), people_schema()).execute().await?;
    let empty_rows = count(&empty).await?;
    empty.add(people(0, 6)).execute().await?;
    Ok(json!({
        "about": [one.name(), one.id(), db.uri()],
        "one": [count(&one).await?, fields(&one).await?],
        "batches": count(&batches).await?,
        "reader": count(&read).await?,
        "empty": [empty_rows, count(&empty).await?, fields(&empty).await?],
        "uri": one.uri().await?,
    }))
}

pub async fn modes(db: &Connection, name: &str) -> Result<Value> {
    db.create_table(name, people(0, 3)).execute().await?;
    let again = db.create_table(name, people(0, 5)).execute().await;
    let exist_ok = || CreateTableMode::exist_ok(|request| request);
    let kept = db.create_table(name, people(0, 5)).mode(exist_ok()).execute().await?;
    let kept_rows = count(&kept).await?;
    let over =
        db.create_table(name, people(0, 5)).mode(CreateTableMode::Overwrite).execute().await?;
    let over_rows = count(&over).await?;
    let empty = db.create_empty_table(name, people_schema());
    let emptied = empty.mode(CreateTableMode::Overwrite).execute().await?;
    let other = builder("default").execute().await?;
    let opened = other.open_table(name).execute().await?;
    // A connection that knows the table asks whether it is still there.
    other.drop_table(name, &[]).await?;
    Ok(json!({
        "again": failure(again),
        "rows": [kept_rows, over_rows, opened.version().await.is_err()],
        "stale": [failure(db.open_table(name).execute().await), failure(count(&emptied).await)],
        "missing": failure(db.open_table(format!("{name}_missing")).execute().await),
    }))
}

pub async fn lists(db: &Connection, name: &str) -> Result<Value> {
    for suffix in ["a", "b", "c", "d"] {
        db.create_table(format!("{name}_{suffix}"), people(0, 1)).execute().await?;
    }
    let mine = |names: Vec<String>| {
        names.into_iter().filter(|one| one.starts_with(name)).collect::<Vec<_>>()
    };
    let before = mine(db.table_names().execute().await?);
    let after = db.table_names().start_after(format!("{name}_a")).limit(2).execute().await?;
    let pages = ListingOptions::default().page_limit(3);
    let walked = mine(db.list_tables(&[], pages.clone()).try_collect().await?);
    let mut listing = db.list_tables(&[], pages.page_limit(1));
    let first = listing.next_page().await?.map(|page| page.items.len());
    let token = listing.page_token().unwrap_or_default().to_string();
    let next = ListingOptions::default().page_limit(1).page_token(token);
    let second = db.list_tables(&[], next).next_page().await?.map(|page| page.items.len());
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|suffix| format!("{name}_{suffix}"));
    db.drop_table(&b, &[]).await?;
    db.rename_table(&c, &e, &[], &[]).await?;
    let dropped = db.drop_table_async(&d, &[]).await?;
    dropped.wait().await?;
    let renamed = db.open_table(&e).execute().await?;
    Ok(json!({
        "before": before,
        "after": after,
        "walked": walked,
        "pages": [first, second],
        "dropped": dropped.status().await?,
        "left": mine(db.table_names().execute().await?),
        "renamed": count(&renamed).await?,
        "taken": failure(db.rename_table(&a, &e, &[], &[]).await),
        "missing": failure(db.drop_table(&b, &[]).await),
    }))
}

pub async fn namespaces(db: &Connection, name: &str) -> Result<Value> {
    let owner = || Some(HashMap::from([("owner".to_string(), "us".to_string())]));
    let (outer, inner) = (path(&[name]), path(&[name, "inner"]));
    let at = |path: &[String]| Some(path.to_vec());
    let made = asked(
        |one| db.create_namespace(one),
        |one| {
            one.id = at(&outer);
            one.properties = owner();
        },
    );
    let made = made.await?;
    asked(|one| db.create_namespace(one), |one| one.id = at(&inner)).await?;
    let table = db.create_table("here", people(0, 2)).namespace(outer.clone()).execute().await?;
    table.add(people(2, 1)).execute().await?;
    let below = db.create_empty_table("below", people_schema()).namespace(inner.clone());
    below.execute().await?;
    let opened = db.open_table("here").namespace(outer.clone()).execute().await?;
    let again = asked(
        |one| db.create_namespace(one),
        |one| {
            one.id = at(&outer);
            one.mode = Some("exist_ok".to_string());
        },
    );
    let again = again.await?;
    let listed: Vec<_> = db.list_namespaces(&outer, Default::default()).try_collect().await?;
    let root: Vec<_> = db.list_namespaces(&[], Default::default()).try_collect().await?;
    let tables = |path: Vec<String>| db.table_names().namespace(path).execute();
    let twice = asked(|one| db.create_namespace(one), |one| one.id = at(&outer)).await;
    let full = asked(|one| db.drop_namespace(one), |one| one.id = at(&outer)).await;
    let described = asked(|one| db.describe_namespace(one), |one| one.id = at(&outer)).await?;
    let before = [tables(outer.clone()).await?, tables(inner.clone()).await?];
    db.rename_table("here", "moved", &outer, &inner).await?;
    let moved = [tables(outer.clone()).await?, tables(inner.clone()).await?];
    for one in &moved[1] {
        db.drop_table(one, &inner).await?;
    }
    let left = db.create_table("left", people(0, 1)).namespace(inner.clone());
    left.execute().await?;
    let cascade = asked(
        |one| db.drop_namespace(one),
        |one| {
            one.id = at(&outer);
            one.behavior = Some("cascade".to_string());
        },
    );
    cascade.await?;
    let gone = asked(|one| db.describe_namespace(one), |one| one.id = at(&outer)).await;
    Ok(json!({
        "made": made.properties,
        "again": again.properties,
        "described": described.properties,
        "listed": listed,
        "root": root.iter().any(|one| one == name),
        "tables": before,
        "about": [opened.id(), opened.namespace()],
        "elsewhere": db.table_names().execute().await?.iter().any(|one| one == "here"),
        "twice": failure(twice),
        "full": failure(full),
        "moved": moved,
        "gone": failure(gone),
    }))
}

/// The databases of a server, as the client sees them through its root namespace.
pub async fn catalog(name: &str) -> Result<Value> {
    let catalog = lancedb::connect_catalog(variable("LAKEBED_URL"))
        .api_key(variable("LAKEBED_KEY"))
        .execute()
        .await?;
    let made = catalog.create_database(name).await;
    let created = failure(made);
    let databases: Vec<String> = catalog.list_databases(None, None).try_collect().await?;
    let mut rows = Value::Null;
    if created.is_null() {
        let db = catalog.connect_database(name).await?;
        rows = json!(count(&db.create_table("there", people(0, 2)).execute().await?).await?);
        db.drop_table("there", &[]).await?;
    }
    Ok(json!({
        "created": created,
        "default": databases.iter().any(|one| one == "default"),
        "listed": databases.iter().any(|one| one == name),
        "rows": rows,
        "dropped": failure(catalog.drop_database(name).await),
    }))
}

pub async fn connections(name: &str) -> Result<Value> {
    let one = builder("one").execute().await?;
    let other = builder("other").execute().await?;
    one.create_table(name, people(0, 3)).execute().await?;
    let elsewhere = other.table_names().execute().await?;
    other.create_table(name, people(0, 5)).execute().await?;
    let config = ClientConfig {
        user_agent: "somebody".to_string(),
        extra_headers: HashMap::from([("x-more".to_string(), "yes".to_string())]),
        timeout_config: TimeoutConfig {
            timeout: Some(Duration::from_secs(60)),
            ..Default::default()
        },
        retry_config: RetryConfig { retries: Some(1), ..Default::default() },
        user_id: Some("me".to_string()),
        ..Default::default()
    };
    let strict = builder("one").client_config(config).read_consistency_interval(Duration::ZERO);
    let strict = strict.execute().await?;
    let watching = strict.open_table(name).execute().await?;
    let before = count(&watching).await?;
    one.open_table(name).execute().await?.add(people(3, 4)).execute().await?;
    let within = builder(&format!("{name}/cars")).execute().await?;
    within.create_table("there", people(0, 1)).execute().await?;
    let stranger = builder("one").api_key("wrong").execute().await?;
    Ok(json!({
        "elsewhere": elsewhere.iter().any(|table| table == name),
        "display": one.to_string(),
        "fresh": [before, count(&watching).await?],
        "root": failure(builder("").execute().await?.table_names().execute().await),
        "within": within.table_names().execute().await?,
        "other": count(&other.open_table(name).execute().await?).await?,
        "stranger": failure(stranger.table_names().execute().await),
    }))
}

pub async fn wrong(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 10)).execute().await?;
    let filtered = |filter: &str| table.query().only_if(filter);
    let quoted = filtered("\"name\" = 'name 4'");
    let missing = table.query().only_if_expr(col("nothing").eq(lit(1)));
    let other = schema(vec![field("id", arrow_schema::DataType::Utf8)]);
    let texts = crate::data::batch(other, vec![crate::data::texts(["not a number"])]);
    let strange = schema(vec![field("strange", arrow_schema::DataType::Int64)]);
    let strange = crate::data::batch(strange, vec![integers([1])]);
    let bad_name = db.create_table("no/slashes", people(0, 1)).execute().await;
    Ok(json!({
        "column": failure(batches(&filtered("nothing = 1")).await),
        "expression": failure(batches(&missing).await),
        "syntax": failure(batches(&filtered("id = = 1")).await),
        "selected": failure(batches(&table.query().select(Select::columns(&["nothing"]))).await),
        "counted": failure(table.count_rows(Some("nothing = 1".to_string())).await),
        "quoted": rows(&quoted.select(Select::columns(&["id"]))).await?,
        "offset": ids(&table.take_offsets(vec![99])).await?,
        "types": failure(table.add(texts).execute().await),
        "strange": failure(table.add(strange).execute().await),
        "name": failure(bad_name),
        "kept": count(&table).await?,
    }))
}

/// What a server without real-time writes has to answer, and what remote tables do not do.
pub async fn not_there(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 2)).execute().await?;
    // A key may not be null.
    let nullable = table.set_unenforced_primary_key(["id"]).await;
    let never = ColumnAlteration::new("id".to_string()).set_nullable(false);
    table.alter_columns(&[never]).await?;
    table.set_unenforced_primary_key(["id"]).await?;
    let keys = table.schema().await?.field(0).metadata().len();
    let mut merge = table.merge_insert(&["id"]);
    merge.when_matched_update_all(None).use_rte(false);
    let merged = merge.execute(reader(people(0, 1))).await?;
    let mut forced = table.merge_insert(&["id"]);
    forced.when_matched_update_all(None).use_rte(true);
    let function = db.get_function("none", "1", &[]).await;
    let views: Result<Vec<_>> = db.list_views(&[], Default::default()).try_collect().await;
    let secrets: Result<Vec<_>> = db.list_secrets(&[], Default::default()).try_collect().await;
    let functions: Result<Vec<_>> = db.list_functions(&[], Default::default()).try_collect().await;
    let computed = table.add_columns().computed("twice", "id * 2").execute().await;
    Ok(json!({
        "keys": [failure(nullable), json!(keys > 0)],
        "spec": table.get_rte_spec().await?.is_none(),
        "stats": table.get_rte_stats(false).await?.is_none(),
        "merged": merged.num_updated_rows,
        "forced": failure(forced.execute(reader(people(0, 1))).await),
        "enable": failure(table.enable_rte(RTEWriteSpec::unsharded()).await),
        "query": failure(batches(&table.query().use_rte(true)).await),
        "base": ids(&table.query().use_rte(false)).await?,
        "optimize": failure(table.optimize(OptimizeAction::All).await),
        "computed": failure(computed),
        "refresh": failure(table.refresh_column_async("id").await),
        "function": failure(function),
        "functions": failure(functions),
        "views": failure(views),
        "secrets": failure(secrets),
    }))
}
