//! Flight SQL through arrow's own client.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    CommandGetDbSchemas, CommandGetTables, CommandStatementIngest, SqlInfo, TableDefinitionOptions,
    TableExistsOption, TableNotExistOption,
};
use arrow_flight::{FlightInfo, PollInfo};
use futures::TryStreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::support::{Harness, batch, get};

type SqlClient = FlightSqlServiceClient<Channel>;

async fn client(server: &Harness) -> SqlClient {
    FlightSqlServiceClient::new_from_inner(server.client().await)
}

/// The rows of every endpoint.
async fn rows(client: &mut SqlClient, info: FlightInfo) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let stream = client.do_get(endpoint.ticket.unwrap()).await.unwrap();
        batches.extend(stream.try_collect::<Vec<_>>().await.unwrap());
    }
    batches
}

/// The only number of an answer.
async fn number(client: &mut SqlClient, text: &str) -> i64 {
    let info = client.execute(text.to_owned(), None).await.unwrap();
    let batches = rows(client, info).await;
    assert_eq!((batches.len(), batches[0].num_rows()), (1, 1));
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn statements_are_queried_and_updated() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = client(&server).await;
    assert_eq!(number(&mut client, "SELECT sum(id) FROM t WHERE id > 0").await, 3);
    let text = "INSERT INTO t SELECT id + 10, text FROM t".to_owned();
    assert_eq!(client.execute_update(text, None).await.unwrap(), 3);
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await, 6);
    assert_eq!(number(&mut client, "SELECT count(*) FROM t VERSION AS OF 1").await, 3);
    assert!(client.execute("SELECT nope FROM t".to_owned(), None).await.is_err());
    assert!(client.begin_transaction().await.is_err());
}

#[tokio::test]
async fn prepared_statements_are_typed_and_bound() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = client(&server).await;
    let mut prepared =
        client.prepare("SELECT id FROM t WHERE id >= $1".to_owned(), None).await.unwrap();
    assert_eq!(prepared.dataset_schema().unwrap().field(0).name(), "id");
    let parameter = prepared.parameter_schema().unwrap().field(0).clone();
    assert_eq!(parameter.data_type(), &arrow_schema::DataType::Int64);
    for (from, expected) in [(1, 2), (2, 1)] {
        let value = std::sync::Arc::new(Int64Array::from(vec![from])) as _;
        let bound = RecordBatch::try_from_iter([("$1", value)]).unwrap();
        prepared.set_parameters(bound).unwrap();
        let info = prepared.execute().await.unwrap();
        let found = rows(&mut client, info).await;
        assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), expected);
    }
    prepared.close().await.unwrap();
}

#[tokio::test]
async fn what_there_is_can_be_listed() {
    let server = Harness::start().await;
    server.seeded("t").await;
    server.seeded("ns$u").await;
    let mut client = client(&server).await;
    let info = client.get_catalogs().await.unwrap();
    let catalogs = rows(&mut client, info).await;
    assert_eq!(catalogs[0].column(0).as_string::<i32>().value(0), "default");
    let command = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None };
    let info = client.get_db_schemas(command).await.unwrap();
    assert_eq!(rows(&mut client, info).await[0].num_rows(), 2);
    let command = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(command).await.unwrap();
    let tables = rows(&mut client, info).await;
    assert_eq!((tables[0].num_rows(), tables[0].num_columns()), (2, 5));
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await.unwrap();
    assert_eq!(rows(&mut client, info).await[0].num_rows(), 1);
}

#[tokio::test]
async fn rows_are_ingested() {
    let server = Harness::start().await;
    let mut client = client(&server).await;
    let command = |if_exists: TableExistsOption| CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Create.into(),
            if_exists: if_exists.into(),
        }),
        table: "t".to_owned(),
        ..CommandStatementIngest::default()
    };
    for (option, rows) in [(TableExistsOption::Append, 4), (TableExistsOption::Append, 8)] {
        let stream = futures::stream::iter([Ok(batch(0..4))]);
        assert_eq!(client.execute_ingest(command(option), stream).await.unwrap(), 4);
        assert_eq!(server.state("t").await.unwrap().rows, rows);
    }
    let stream = futures::stream::iter([Ok(batch(0..2))]);
    client.execute_ingest(command(TableExistsOption::Replace), stream).await.unwrap();
    assert_eq!(server.state("t").await.unwrap().rows, 2);
}

#[tokio::test]
async fn a_poll_is_complete_at_once() {
    use arrow_flight::FlightDescriptor;
    use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
    use prost::Message;
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = server.client().await;
    let query = CommandStatementQuery { query: "SELECT * FROM t".into(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(query.as_any().encode_to_vec());
    let poll: PollInfo = client.poll_flight_info(descriptor).await.unwrap().into_inner();
    assert!(poll.flight_descriptor.is_none());
    let ticket = poll.info.unwrap().endpoint.remove(0).ticket.unwrap();
    assert_eq!(get(&mut client, ticket).await.unwrap()[0].num_rows(), 3);
    let wrong = CommandStatementQuery { query: "SELEKT".into(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(wrong.as_any().encode_to_vec());
    let status = client.get_flight_info(Request::new(descriptor)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
