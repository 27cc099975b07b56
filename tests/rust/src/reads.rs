//! Cases of queries and searches.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, ListBuilder};
use arrow_schema::DataType;
use futures::TryStreamExt;
use lancedb::arrow::SendableRecordBatchStream;
use lancedb::expr::{col, contains, lit};
use lancedb::index::Index;
use lancedb::index::scalar::{
    BTreeIndexBuilder, BooleanQuery, BoostQuery, CombinedFieldsQuery, FtsIndexBuilder, FtsQuery,
    FullTextSearchQuery, MatchQuery, MultiMatchQuery, Occur, Operator, PhraseQuery,
};
use lancedb::query::{
    AnalyzePlanDistributedMetrics, ColumnOrdering, ExecutableQuery, QueryBase,
    QueryExecutionOptions, Select, VectorQuery,
};
use lancedb::rerankers::NormalizeMethod;
use lancedb::rerankers::rrf::RRFReranker;
use lancedb::{ApproxMode, Connection, DistanceType, Result, Table};
use serde_json::{Value, json};

use crate::data::{batch, field, integers, people, schema, texts, vector_type, vectors};
use crate::seen::{batches, column, failure, fields_of, ids, outcome, rows, sorted_ids};

const WAIT: Duration = Duration::from_secs(60);

pub async fn reads(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 50)).execute().await?;
    let query = || table.query();
    let only = |names: &[&str]| Select::columns(names);
    let mut options = QueryExecutionOptions::default();
    options.timeout = Some(WAIT);
    options.max_batch_length = 7;
    let stream: SendableRecordBatchStream = query().execute_with_options(options).await?;
    let streamed = fields_of(&stream.schema());
    let sizes: Vec<_> = stream.map_ok(|batch| batch.num_rows()).try_collect().await?;
    let last = query().only_if("id >= 47").select(only(&["id"])).with_row_id();
    let row_ids: Vec<u64> =
        serde_json::from_value(column(&last, "_rowid").await?).expect("row ids");
    let descending = ColumnOrdering::desc_nulls_last("id".to_string());
    let by_name = ColumnOrdering::asc_nulls_first("name".to_string());
    let aliases = Select::dynamic(&[("twice", "id * 2"), ("id", "id")]);
    let expressions = Select::expr_projection(&[("next", col("id") + lit(1i64))]);
    let alike = contains(col("name"), lit("4")).and(col("id").lt(lit(20i64)));
    let outputs = query().select(only(&["id"])).output_schema().await?;
    Ok(json!({
        "where": rows(&query().only_if("id < 3").select(only(&["id", "name"])).limit(10)).await?,
        "expression": ids(&query().only_if_expr(alike)).await?,
        "limited": ids(&query().only_if("id >= 10").limit(3).offset(2)).await?,
        "ordered": ids(&query().order_by(Some(vec![descending])).limit(3)).await?,
        "byName": ids(&query().order_by(Some(vec![by_name])).limit(3)).await?,
        "aliases": rows(&query().select(aliases).only_if("id < 2")).await?,
        "expressions": rows(&query().select(expressions).only_if("id < 2")).await?,
        "streamed": [streamed, sizes.iter().sum::<usize>(), sizes.iter().max()],
        "nothing": batches(&query().limit(0)).await?.len(),
        "outputSchema": fields_of(&outputs),
        "offsets": sorted_ids(&table.take_offsets(vec![7, 3]).select(only(&["id"]))).await?,
        "twice": sorted_ids(&table.take_offsets(vec![4, 4, 9])).await?,
        "rowIds": sorted_ids(&table.take_row_ids(vec![row_ids[2], row_ids[0]])).await?,
        "counted": table.count_rows(Some("name LIKE 'name 4%'".to_string())).await?,
    }))
}

pub async fn nearest(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 10)).execute().await?;
    let at = [3.1f32, 6.9];
    let near = |limit: usize| Ok::<_, lancedb::Error>(table.vector_search(&at)?.limit(limit));
    let shown = Select::columns(&["id", "_distance"]);
    let tuned = near(3)?
        .minimum_nprobes(2)?
        .maximum_nprobes(Some(9))?
        .refine_factor(2)
        .ef(50)
        .approx_mode(ApproxMode::Accurate)
        .bypass_vector_index();
    let several = table.vector_search(&at)?.add_query_vector(&[8.0f32, 2.0])?.limit(1);
    let two_filters = near(3)?.only_if_expr(col("id").gt(lit(5i64)));
    Ok(json!({
        "nearest": rows(&near(5)?.select(shown.clone())).await?,
        "whole": rows(&near(1)?.with_row_id()).await?,
        "plain": ids(&table.query().nearest_to(vec![3.1f64, 6.9])?.limit(3)).await?,
        "column": ids(&near(3)?.column("vector")).await?,
        "cosine": rows(&near(3)?.distance_type(DistanceType::Cosine).select(shown.clone())).await?,
        "dot": rows(&near(3)?.distance_type(DistanceType::Dot).select(shown.clone())).await?,
        "within": ids(&near(9)?.distance_range(Some(1.0), Some(3.0))).await?,
        "below": ids(&near(9)?.distance_range(None, Some(2.0))).await?,
        "above": ids(&near(9)?.distance_range(Some(60.0), None)).await?,
        "prefiltered": ids(&near(3)?.only_if("id > 5")).await?,
        "expression": ids(&two_filters).await?,
        "postfiltered": ids(&near(3)?.only_if("id > 3").postfilter()).await?,
        "skipped": ids(&near(2)?.offset(1)).await?,
        "tuned": ids(&tuned).await?,
        "probes": ids(&near(3)?.nprobes(5)?).await?,
        "effort": ids(&near(3)?.search_effort(0.5)?).await?,
        "fast": ids(&near(3)?.fast_search()).await?,
        "several": rows(&several).await?,
        "outputSchema": fields_of(near(1)?.select(shown).output_schema().await?.as_ref()),
        "widths": failure(batches(&table.vector_search(&[1.0f32, 2.0, 3.0])?.limit(1)).await),
        "hamming": failure(batches(&near(1)?.distance_type(DistanceType::Hamming)).await),
    }))
}

/// Rows with several vectors each, ranked by how well all of the query's vectors are met.
pub async fn multivectors(db: &Connection, name: &str) -> Result<Value> {
    let item = Arc::new(field("item", vector_type(2)));
    let fields = schema(vec![field("id", DataType::Int64), field("vectors", DataType::List(item))]);
    let mut cells = ListBuilder::new(FixedSizeListBuilder::new(Float32Builder::new(), 2));
    for id in 0..300i16 {
        let angle = f32::from(id) / 300.0;
        for vector in [[angle.cos(), angle.sin()], [angle.sin(), angle.cos()]] {
            cells.values().values().append_slice(&vector);
            cells.values().append(true);
        }
        cells.append(true);
    }
    let rows_of = batch(fields, vec![integers(0..300), Arc::new(cells.finish())]);
    let table = db.create_table(name, rows_of).execute().await?;
    let angle = 42f32 / 300.0;
    let near = || -> Result<VectorQuery> {
        let first = table.vector_search(&[angle.cos(), angle.sin()])?;
        let both = first.add_query_vector(&[angle.sin(), angle.cos()])?;
        Ok(both.distance_type(DistanceType::Cosine).limit(1))
    };
    let exact = ids(&near()?).await?;
    let one = table.vector_search(&[1.0f32, 0.0])?.distance_type(DistanceType::Cosine).limit(1);
    let one = ids(&one).await?;
    let index = lancedb::index::vector::IvfPqIndexBuilder::default()
        .distance_type(DistanceType::Cosine)
        .num_partitions(1)
        .num_sub_vectors(2);
    let index = table.create_index(&["vectors"], Index::IvfPq(index));
    index.execute_async().await?.wait().await?;
    Ok(json!({
        "exact": exact,
        "one": one,
        "indexed": ids(&near()?.refine_factor(20)).await?,
        "stats": table.index_stats("vectors_idx").await?.map(|stats| stats.num_indexed_rows),
    }))
}

fn words(query: impl Into<FtsQuery>) -> FullTextSearchQuery {
    FullTextSearchQuery::new_query(query.into())
}

fn matching(text: &str) -> MatchQuery {
    MatchQuery::new(text.to_string()).with_column(Some("body".to_string()))
}

pub async fn text(db: &Connection, name: &str) -> Result<Value> {
    let titles = ["red car", "blue truck", "old red bridge", "green street", "bicycle"];
    let bodies = [
        "a red car on the street",
        "the truck is blue and big",
        "the bridge is red and old",
        "a street with a green car",
        "nothing to see",
    ];
    let fields = schema(vec![
        field("id", DataType::Int64),
        field("title", DataType::Utf8),
        field("body", DataType::Utf8),
        field("vector", vector_type(2)),
    ]);
    let made = |ids: &[i64], titles: &[&str], bodies: &[&str]| {
        let vectors = vectors(2, ids.iter().map(|id| vec![*id as f32, 0.0]));
        let columns = vec![integers(ids.iter().copied()), texts(titles), texts(bodies), vectors];
        batch(fields.clone(), columns)
    };
    let table = db.create_table(name, made(&[0, 1, 2, 3, 4], &titles, &bodies)).execute().await?;
    let plain = |text: &str| FullTextSearchQuery::new(text.to_string());
    let search = |query: FullTextSearchQuery| table.query().full_text_search(query).limit(10);
    let no_index = failure(batches(&search(plain("red"))).await);
    for column in ["title", "body"] {
        let index = FtsIndexBuilder::default().with_position(true);
        table.create_index(&[column], Index::FTS(index)).execute().await?;
    }
    table.wait_for_index(&["title_idx", "body_idx"], WAIT).await?;
    let in_title = plain("street").with_column("title".to_string())?;
    let both_columns = ["title".to_string(), "body".to_string()];
    let every = matching("red car").with_operator(Operator::And);
    let fuzzy = matching("trucc").with_fuzziness(Some(1));
    let phrase = |text: &str, slop: u32| {
        let phrase = PhraseQuery::new(text.to_string()).with_slop(slop);
        words(phrase.with_column(Some("body".to_string())))
    };
    let multi = MultiMatchQuery::try_new("red".to_string(), both_columns.to_vec())?
        .try_with_boosts(vec![2.0, 1.0])?;
    let blended = CombinedFieldsQuery::try_new("red car".to_string(), both_columns.to_vec())?
        .with_operator(Operator::And);
    let blended = FullTextSearchQuery::new_query(FtsQuery::CombinedFields(blended));
    let boost = BoostQuery::new(matching("red").into(), matching("old").into(), Some(0.1));
    let both = BooleanQuery::new([
        (Occur::Must, matching("red").into()),
        (Occur::MustNot, matching("old").into()),
    ]);
    let scored = words(matching("truck"));
    let scored = search(scored).select(Select::columns(&["id", "_score"]));
    let mut seen = json!({
        "noIndex": no_index,
        "words": sorted_ids(&search(plain("car"))).await?,
        "title": sorted_ids(&search(in_title)).await?,
        "columns": sorted_ids(&search(plain("street").with_columns(&both_columns)?)).await?,
        "filtered": sorted_ids(&search(plain("red")).only_if("id > 0")).await?,
        "match": sorted_ids(&search(words(matching("red car")))).await?,
        "every": sorted_ids(&search(words(every))).await?,
        "fuzzy": sorted_ids(&search(words(fuzzy))).await?,
        "phrase": sorted_ids(&search(phrase("red car", 0))).await?,
        "slop": sorted_ids(&search(phrase("bridge red", 2))).await?,
        "multi": sorted_ids(&search(words(multi))).await?,
        "combined": outcome(ids(&search(blended)).await),
        "boost": ids(&search(words(boost))).await?,
        "both": sorted_ids(&search(words(both))).await?,
        "none": sorted_ids(&search(plain("zeppelin"))).await?,
        "scored": rows(&scored).await?,
    });
    let tokens = |found: Vec<lancedb::FtsToken>| {
        found.into_iter().map(|one| json!([one.text, one.position])).collect::<Value>()
    };
    seen["tokens"] = tokens(table.tokenize_with_column("Red cars", "body").await?);
    seen["named"] = tokens(table.tokenize("Red cars", "title_idx").await?);
    table.add(made(&[9], &["zeppelin"], &["a zeppelin"])).execute().await?;
    seen["fresh"] = ids(&search(plain("zeppelin"))).await?;
    seen["hybrid"] = hybrid(&table).await?;
    Ok(seen)
}

/// Searches by vector and by words at once: the client joins what the server finds for each.
async fn hybrid(table: &Table) -> Result<Value> {
    let query = || -> Result<VectorQuery> {
        let words = FullTextSearchQuery::new("car".to_string()).with_column("body".to_string())?;
        table.query().full_text_search(words).limit(3).nearest_to(&[3.0f32, 0.0])
    };
    let ranked = query()?.norm(NormalizeMethod::Rank).rerank(Arc::new(RRFReranker::new(10.0)));
    let nothing = FullTextSearchQuery::new("unseen".to_string());
    let vectors_only = table.query().full_text_search(nothing).nearest_to(&[3.0f32, 0.0])?;
    let shown = Select::columns(&["id"]);
    Ok(json!({
        "found": rows(&query()?.select(shown.clone())).await?,
        "ranked": ids(&ranked).await?,
        "withIds": column(&query()?.with_row_id(), "_rowid").await?,
        "filtered": ids(&query()?.only_if("id < 3")).await?,
        "vectors": ids(&vectors_only.limit(2).select(shown)).await?,
    }))
}

pub async fn plans(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 10)).execute().await?;
    table.add(people(10, 5)).execute().await?;
    table.delete("id = 0").await?;
    let index = table.create_index(&["id"], Index::BTree(BTreeIndexBuilder::default()));
    index.execute_async().await?.wait().await?;
    let near = table.vector_search(&[1.0f32, 9.0])?.only_if("id > 3").limit(2);
    let mut options = QueryExecutionOptions::default();
    options.analyze_plan_distributed_metrics = AnalyzePlanDistributedMetrics::Full;
    let stats = table.stats().await?;
    let lengths = &stats.fragment_stats.lengths;
    Ok(json!({
        "plain": table.query().only_if("name = 'name 4'").explain_plan(false).await?,
        "verbose": near.explain_plan(true).await?,
        "analyzed": near.analyze_plan().await?,
        "full": near.analyze_plan_with_options(options).await?,
        "taken": table.take_offsets(vec![1]).explain_plan(false).await?,
        "rows": [stats.num_rows, stats.num_deleted_rows.unwrap_or(usize::MAX), stats.num_indices],
        "bytes": stats.total_bytes,
        "fragments": [stats.fragment_stats.num_fragments, stats.fragment_stats.num_small_fragments],
        "lengths": [lengths.min, lengths.max, lengths.mean, lengths.p25, lengths.p50, lengths.p99],
    }))
}
