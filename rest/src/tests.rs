//! The whole door over a real lake, without a socket.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Int64Array, LargeBinaryArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use lakebed_core::{DatabaseName, Limits, Principal, RequestContext, SystemClock};
use lakebed_proto::command::{CommitRule, WriteCommand, WriteMode};
use lakebed_service::{Service, ServiceOptions};
use lakebed_storage::{Lake, LakeOptions};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::RestOptions;
use crate::not_built::NOT_BUILT;

const KEY: &str = "correct-horse-battery";

struct Fixture {
    folder: tempfile::TempDir,
    service: Arc<Service>,
    stopping: CancellationToken,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

async fn fixture() -> Fixture {
    fixture_with(false, Limits::default()).await
}

async fn fixture_with(allow_anonymous: bool, limits: Limits) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(LakeOptions::at(folder.path().display().to_string())).await.unwrap();
    let clock = Arc::new(SystemClock);
    let options = ServiceOptions {
        lake,
        limits,
        clock,
        allow_anonymous,
        peer_tls: None,
        resident: Default::default(),
        secrets_key_file: None,
    };
    let service = Service::open(options).await.unwrap();
    service.set_admin_key(KEY).await.unwrap();
    let stopping = CancellationToken::new();
    let options = RestOptions {
        version: "1.2.3",
        flight_addr: "127.0.0.1:10025".parse().unwrap(),
        allow_anonymous,
        hide_locations: false,
        render_metrics: Arc::new(|| "lakebed_up 1\n".to_owned()),
        stopping: stopping.clone(),
    };
    let router = crate::router(Arc::clone(&service), options);
    Fixture { folder, service, stopping, router }
}

impl Fixture {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.ask_with(method, path, body, &[]).await
    }

    async fn ask_with(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Body>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("x-api-key", KEY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, body.to_string()).await
    }

    /// Writes one row for each blob; the first write makes the table.
    async fn write(&self, table: &str, mode: WriteMode, blobs: &[Option<&[u8]>]) {
        let blob = Field::new("data", DataType::LargeBinary, true)
            .with_metadata(HashMap::from([("lance-encoding:blob".to_owned(), "true".to_owned())]));
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), blob]));
        let ids = Int64Array::from_iter_values(0..blobs.len() as i64);
        let blobs = LargeBinaryArray::from_iter(blobs.iter().copied());
        let batch =
            RecordBatch::try_new(schema.clone(), vec![Arc::new(ids), Arc::new(blobs)]).unwrap();
        let command = WriteCommand {
            table: table.to_owned(),
            mode,
            on: Vec::new(),
            branch: None,
            write_id: None,
            commit: CommitRule::OnEnd,
        };
        let ctx = RequestContext {
            principal: Principal::anonymous(),
            request_id: "r".to_owned(),
            database: DatabaseName::default_database(),
            freshness: lakebed_core::Freshness::default(),
        };
        let batches = Box::pin(futures::stream::iter([Ok(batch)]));
        self.service.write(&ctx, command, schema, batches).await.unwrap();
    }
}

/// A path that the pattern matches.
fn path_of(pattern: &str) -> String {
    pattern
        .replace("{id}", "t")
        .replace("{name}", "n")
        .replace("{column}", "data")
        .replace("{row_id}", "0")
}

#[tokio::test]
async fn what_is_known_and_not_built_says_so() {
    let door = fixture().await;
    for (filter, pattern) in NOT_BUILT {
        let method =
            if *filter == axum::routing::MethodFilter::GET { Method::GET } else { Method::POST };
        let path = path_of(pattern);
        for path in [path.clone(), format!("{}/", path.trim_end_matches('/'))] {
            let answer = door.ask(method.clone(), &path, Body::empty()).await.expect(501);
            assert_eq!(answer.json()["code"], 0, "{path}");
            assert!(answer.json()["error"].as_str().unwrap().contains("not built"), "{path}");
            let request = Request::builder().method(method.clone()).uri(&path);
            door.send(request.body(Body::empty()).unwrap()).await.expect(401);
        }
    }
    // A table may bear the name of a segment of a route.
    door.post("/v1/table/version/refresh", json!({})).await.expect(501);
}

#[tokio::test]
async fn what_is_not_known_is_not_found() {
    let door = fixture().await;
    for path in ["/v1/nothing", "/v1/table/t/frobnicate", "/v2/table", "/v1/table/a/b/c"] {
        let answer = door.get(path).await.expect(404);
        assert_eq!(answer.json()["code"], 0);
        assert_eq!(answer.header("content-type"), "application/json");
    }
    let answer = door.ask(Method::DELETE, "/v1/table/t/drop", Body::empty()).await.expect(405);
    assert!(answer.json()["error"].as_str().unwrap().contains("method"));
    assert_eq!(answer.header("allow"), "POST");
}

#[tokio::test]
async fn every_answer_carries_the_id_of_its_request() {
    let door = fixture().await;
    for path in ["/livez", "/v1/table", "/nothing", "/v1/table/nope/show"] {
        let given =
            door.ask_with(Method::GET, path, Body::empty(), &[("x-request-id", "abc")]).await;
        assert_eq!(given.header("x-request-id"), "abc", "{path}");
        assert!(!door.get(path).await.header("x-request-id").is_empty(), "{path}");
    }
    let answer = door
        .ask_with(Method::GET, "/v1/table/nope/show", Body::empty(), &[("x-request-id", "abc")])
        .await
        .expect(404);
    assert_eq!(answer.json()["request_id"], "abc");
    assert_eq!(answer.json()["code"], 4);
    assert_eq!(answer.header("x-lakebed-error-kind"), "not_found");
}

#[tokio::test]
async fn keyless_routes_are_exactly_those_of_the_contract() {
    let door = fixture().await;
    let ask = async |path: &str| {
        door.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await
    };
    for path in ["/livez", "/readyz", "/health", "/version"] {
        ask(path).await.expect(200);
    }
    for path in ["/metrics", "/v1/keys", "/v1/table", "/", "/v1/table/t/show"] {
        let answer = ask(path).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(answer.json()["code"], 16);
    }
    let version = ask("/version").await.json();
    assert_eq!(version["version"], "1.2.3");
    assert_eq!(version["flight"], "127.0.0.1:10025");
    assert_eq!(version["lake_id"], door.service.lake_id());
    assert!(door.get("/metrics").await.expect(200).text().contains("lakebed_up"));
    door.stopping.cancel();
    ask("/livez").await.expect(200);
    assert_eq!(ask("/readyz").await.expect(503).json()["code"], 17);
}

#[tokio::test]
async fn nothing_that_is_not_understood_is_passed_over() {
    let door = fixture().await;
    door.write("t", WriteMode::Create, &[Some(b"x")]).await;
    for (method, path) in [
        (Method::GET, "/v1/table"),
        (Method::GET, "/v1/namespace/$/table/list"),
        (Method::GET, "/v1/table/t/show"),
        (Method::POST, "/v1/table/t/drop"),
        (Method::POST, "/v1/table/t/rename"),
        (Method::POST, "/v1/table/t/restore"),
        (Method::POST, "/v1/table/t/delete"),
        (Method::POST, "/v1/table/t/count_rows"),
        (Method::POST, "/v1/table/t/version/list"),
        (Method::POST, "/v1/table/t/tags/create"),
        (Method::POST, "/v1/table/t/tags/update"),
        (Method::POST, "/v1/table/t/tags/delete"),
        (Method::POST, "/v1/table/t/tags/list"),
        (Method::POST, "/v1/table/t/tags/version"),
        (Method::GET, "/v1/table/t/blob/data/0/bytes"),
        (Method::POST, "/v1/uploads"),
        (Method::GET, "/v1/uploads/x"),
        (Method::PUT, "/v1/uploads/x"),
        (Method::DELETE, "/v1/uploads/x"),
        (Method::POST, "/v1/uploads/x/complete"),
        (Method::GET, "/v1/keys"),
        (Method::POST, "/v1/keys"),
        (Method::DELETE, "/v1/keys/x"),
    ] {
        for path in [path.to_owned(), format!("{path}/")] {
            let url = format!("{path}?bogus=1");
            let answer = door.ask(method.clone(), &url, Body::empty()).await.expect(400);
            assert!(answer.text().contains("bogus"), "{url}: {}", answer.text());
        }
        if method == Method::POST {
            let answer = door.post(path, json!({ "bogus": 1 })).await.expect(400);
            assert!(answer.text().contains("bogus"), "{path}: {}", answer.text());
        }
    }
    assert_eq!(door.post("/v1/table/t/count_rows", json!({})).await.json(), 1);
}

#[tokio::test]
async fn tables_are_listed_by_both_dialects() {
    let door = fixture().await;
    for table in ["b", "a", "ns$c"] {
        door.write(table, WriteMode::Create, &[None]).await;
    }
    assert_eq!(door.get("/v1/table/").await.json(), json!({ "tables": ["a", "b"] }));
    assert_eq!(door.get("//v1/table").await.json(), json!({ "tables": ["a", "b", "ns$c"] }));
    let first = door.get("/v1/table?limit=2&delimiter=%24").await.json();
    assert_eq!(first, json!({ "tables": ["a", "b"], "page_token": "b" }));
    let rest = door.get("/v1/table?limit=2&page_token=b&delimiter=.").await.json();
    assert_eq!(rest, json!({ "tables": ["ns.c"] }));
    for root in ["$", "%24"] {
        let listed = door.get(&format!("/v1/namespace/{root}/table/list")).await;
        assert_eq!(listed.json(), json!({ "tables": ["a", "b"] }));
    }
    assert_eq!(door.get("/v1/namespace/ns/table/list").await.json(), json!({ "tables": ["c"] }));
    let other = door
        .ask_with(Method::GET, "/v1/table", Body::empty(), &[("x-lancedb-database", "other")])
        .await;
    assert_eq!(other.json(), json!({ "tables": [] }));
}

#[tokio::test]
async fn a_table_lives_through_its_verbs() {
    let door = fixture().await;
    door.write("ns$t", WriteMode::Create, &[Some(b"a"), Some(b"b")]).await;
    door.write("ns$t", WriteMode::Append, &[None]).await;
    let counted = door.post("/v1/table/ns%24t/count_rows/", json!({ "version": null })).await;
    assert_eq!((counted.json(), counted.header("x-lancedb-version")), (json!(3), "2"));
    let at_first =
        door.post("/v1/table/ns$t/count_rows", json!({ "version": 1, "predicate": "id = 1" }));
    assert_eq!(at_first.await.json(), 1);

    let url = "/v1/table/ns$t/tags/create/";
    door.post(url, json!({ "tag": "gold", "version": 1 })).await.expect(200);
    // The SDKs would try a 409 again.
    for (url, status) in [(url, 400), ("/v1/table/ns$t/tags/create", 409)] {
        let again = door.post(url, json!({ "tag": "gold", "version": 2 })).await.expect(status);
        assert_eq!(again.json()["code"], 9);
    }
    let missing = door.post(url, json!({ "tag": "x", "version": 99 })).await.expect(404);
    assert_eq!(missing.json()["code"], 11);
    door.post("/v1/table/ns$t/tags/update", json!({ "tag": "gold", "version": 2 }))
        .await
        .expect(200);
    let sdk = door.ask(Method::POST, "/v1/table/ns$t/tags/list/", Body::empty()).await.json();
    assert_eq!(sdk["gold"]["version"], 2);
    let spec = door.post("/v1/table/ns%24t/tags/list", json!({ "id": ["ns", "t"] })).await.json();
    assert_eq!(spec["tags"]["gold"]["version"], 2);
    door.post("/v1/table/ns$t/tags/list", json!({ "id": ["other"] })).await.expect(400);
    let version = door.post("/v1/table/ns$t/tags/version/", json!({ "tag": "gold" })).await;
    assert_eq!(version.json()["version"], 2);
    let near =
        door.post("/v1/table/ns$t/tags/version/", json!({ "tag": "golf" })).await.expect(404);
    assert!(near.text().contains("gold") && near.json()["code"] == 8, "{}", near.text());

    let deleted = door.post("/v1/table/ns$t/delete/", json!({ "predicate": "id = 0" })).await;
    assert_eq!(deleted.json(), json!({ "num_deleted_rows": 2, "version": 3 }));
    for nothing in [json!({}), json!({ "predicate": "" }), json!({ "predicate": null })] {
        door.post("/v1/table/ns$t/delete", nothing).await.expect(400);
    }
    door.post("/v1/table/ns$t/restore/", json!({ "version": null })).await.expect(400);
    let restored = door.post("/v1/table/ns$t/restore/", json!({ "version": 2 })).await.expect(200);
    assert_eq!(restored.json()["version"], 4);
    assert_eq!(door.post("/v1/table/ns$t/count_rows", json!({})).await.json(), 3);

    let numbers = |answer: &Value| -> Vec<u64> {
        let versions = answer["versions"].as_array().unwrap();
        versions.iter().map(|version| version["version"].as_u64().unwrap()).collect()
    };
    let all = door.ask(Method::POST, "/v1/table/ns$t/version/list/", Body::empty()).await.json();
    assert_eq!(numbers(&all), [1, 2, 3, 4]);
    let page = door.post("/v1/table/ns$t/version/list?limit=3", json!({})).await.json();
    assert_eq!((numbers(&page), page["page_token"].as_str()), (vec![4, 3, 2], Some("2")));
    let last =
        door.post("/v1/table/ns$t/version/list", json!({ "limit": 3, "page_token": "2" })).await;
    assert_eq!((numbers(&last.json()), &last.json()["page_token"]), (vec![1], &Value::Null));

    let shown = door.get("/v1/table/ns$t/show?tag=gold").await.expect(200).json();
    assert_eq!((&shown["version"], &shown["rows"]), (&json!(2), &json!(3)));
    assert_eq!(shown["columns"][0]["name"], "id");
    assert_eq!(shown["tags"][0]["name"], "gold");
    door.get("/v1/table/ns$t/show?as_of=2000-01-01T00:00:00Z").await.expect(404);
    let now = door.get("/v1/table/ns$t/show?as_of=2100-01-01T00:00:00Z").await.json();
    assert_eq!(now["version"], 4);
    door.get("/v1/table/ns$t/show?tag=gold&version=1").await.expect(400);

    let to = json!({ "new_table_name": "u", "new_namespace": ["other"] });
    door.post("/v1/table/ns$t/rename/", to).await.expect(200);
    door.get("/v1/table/ns$t/show").await.expect(404);
    let stayed = json!({ "new_table_name": "v" });
    door.post("/v1/table/other$u/rename", stayed).await.expect(200);
    door.ask(Method::POST, "/v1/table/other$v/drop/", Body::empty()).await.expect(200);
    door.ask(Method::POST, "/v1/table/other$v/drop/", Body::empty()).await.expect(404);
    assert_eq!(door.get("/v1/table").await.json(), json!({ "tables": [] }));
}

#[tokio::test]
async fn where_a_table_lies_is_told_on_the_same_machine() {
    let fixture = fixture().await;
    fixture.write("t", WriteMode::Create, &[None]).await;
    let far = fixture.post("/v1/table/t/describe/", json!({})).await.json();
    assert_eq!(far["location"], "lakebed:///default/t.lance");
    let request = Request::post("/v1/table/t/describe/")
        .header("x-api-key", KEY)
        .extension(crate::SameMachine)
        .body(Body::empty())
        .unwrap();
    let near = fixture.send(request).await.json();
    let folder = fixture.folder.path().canonicalize().unwrap().join("default/t.lance");
    assert_eq!(near["location"], folder.to_str().unwrap());
}

#[tokio::test]
async fn a_blob_comes_whole_or_in_ranges() {
    let door = fixture().await;
    let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 92]].concat();
    door.write("t", WriteMode::Create, &[Some(&png), Some(b""), None, Some(b"<html>hi")]).await;
    let url = |row: u64| format!("/v1/table/t/blob/data/{row}/bytes");
    let range = async |row: u64, range: &str| {
        door.ask_with(Method::GET, &url(row), Body::empty(), &[("range", range)]).await
    };

    let whole = door.get(&url(0)).await.expect(200);
    assert_eq!(whole.body, png);
    assert_eq!(whole.header("content-type"), "image/png");
    assert_eq!(whole.header("content-length"), "100");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("x-lancedb-version"), "1");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    let etag = whole.header("etag").to_owned();

    let probe = range(0, "bytes=0-0").await.expect(206);
    assert_eq!(
        (probe.header("content-range"), probe.body.as_slice()),
        ("bytes 0-0/100", &png[..1])
    );
    assert_eq!(range(0, "bytes=90-").await.expect(206).body, png[90..]);
    assert_eq!(range(0, "bytes=-5").await.expect(206).body, png[95..]);
    assert_eq!(range(0, "bytes=0-1,4-5").await.expect(200).body, png);
    let beyond = range(0, "bytes=100-").await.expect(416);
    assert_eq!(beyond.header("content-range"), "bytes */100");
    assert_eq!(range(1, "bytes=0-0").await.expect(416).header("content-range"), "bytes */0");
    assert_eq!(door.get(&url(1)).await.expect(200).body, b"");
    door.get(&url(2)).await.expect(204);
    assert_eq!(door.get(&url(3)).await.header("content-disposition"), "attachment");

    let ask = async |headers: &[(&str, &str)], method: Method| {
        door.ask_with(method, &url(0), Body::empty(), headers).await
    };
    let known = ask(&[("if-none-match", &etag)], Method::GET).await.expect(304);
    assert!(known.body.is_empty() && known.header("etag") == etag);
    let same = [("range", "bytes=0-0"), ("if-range", etag.as_str())];
    ask(&same, Method::GET).await.expect(206);
    ask(&[("range", "bytes=0-0"), ("if-range", "\"other\"")], Method::GET).await.expect(200);
    let head = ask(&[("range", "bytes=0-0")], Method::HEAD).await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("100", 0));

    door.get(&format!("{}?version=1", url(0))).await.expect(200);
    door.get(&format!("{}?version=9", url(0))).await.expect(404);
    door.get(&format!("{}?source_uri=s3://x", url(0))).await.expect(501);
    door.get("/v1/table/t/blob/data/x/bytes").await.expect(400);
    door.get("/v1/table/t/blob/data/99/bytes").await.expect(404);
    let column = door.get("/v1/table/t/blob/dada/0/bytes").await.expect(404);
    assert_eq!(column.json()["code"], 12);
}

#[tokio::test]
async fn an_upload_is_resumed_and_checked() {
    let door = fixture().await;
    let made = door.ask(Method::POST, "/v1/uploads", Body::empty()).await.expect(201).json();
    let url = format!("/v1/uploads/{}", made["id"].as_str().unwrap());
    assert_eq!(made["uri"], format!("upload:{}", made["id"].as_str().unwrap()));
    let put = async |query: &str, bytes: &'static str| {
        door.ask(Method::PUT, &format!("{url}{query}"), bytes).await
    };
    assert_eq!(put("?offset=0", "hello ").await.expect(200).json()["offset"], 6);
    let wrong = put("?offset=3", "xxx").await.expect(409);
    assert!(wrong.text().contains('6'), "{}", wrong.text());
    let at = door.ask(Method::HEAD, &url, Body::empty()).await.expect(200);
    assert_eq!(at.header("upload-offset"), "6");
    assert_eq!(put("?offset=6", "world").await.expect(200).header("upload-offset"), "11");

    let digest: String =
        Sha256::digest(b"hello world").iter().map(|byte| format!("{byte:02x}")).collect();
    let complete = format!("{url}/complete");
    door.post(&complete, json!({ "size": 11 })).await.expect(400);
    door.post(&complete, json!({ "size": 11, "sha256": "zz" })).await.expect(400);
    door.post(&complete, json!({ "size": 10, "sha256": digest })).await.expect(400);
    let done = json!({ "size": 11, "sha256": digest.to_uppercase() });
    assert_eq!(door.post(&complete, done).await.expect(200).json()["sha256"], digest);

    let other = door.ask(Method::POST, "/v1/uploads/", Body::empty()).await.json();
    let other = format!("/v1/uploads/{}", other["id"].as_str().unwrap());
    door.ask(Method::DELETE, &other, Body::empty()).await.expect(204);
    door.get(&other).await.expect(404);
    let encoded = [("content-encoding", "gzip")];
    door.ask_with(Method::PUT, &url, "x", &encoded).await.expect(400);
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let door = fixture().await;
    let made = door.post("/v1/keys", json!({ "name": "ci", "role": "read" })).await.expect(201);
    assert_eq!(made.header("cache-control"), "no-store");
    let (id, key) = (made.json()["id"].clone(), made.json()["key"].clone());
    let (id, key) = (id.as_str().unwrap(), key.as_str().unwrap());
    let as_key = async |method: Method, path: &str| {
        let bearer = format!("Bearer {key}");
        let request = Request::builder().method(method).uri(path).header("authorization", bearer);
        door.send(request.body(Body::empty()).unwrap()).await
    };
    as_key(Method::GET, "/v1/table").await.expect(200);
    assert_eq!(as_key(Method::GET, "/v1/keys").await.expect(403).json()["code"], 15);
    as_key(Method::POST, "/v1/uploads").await.expect(403);
    let listed = door.get("/v1/keys").await.expect(200);
    assert!(!listed.text().contains(key));
    let listed = listed.json();
    let entry = listed["keys"].as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap();
    assert_eq!((&entry["name"], &entry["state"]), (&json!("ci"), &json!("active")));
    door.ask(Method::DELETE, &format!("/v1/keys/{id}"), Body::empty()).await.expect(204);
    assert!(as_key(Method::GET, "/v1/table").await.expect(401).text().contains("revoked"));
    door.ask(Method::DELETE, "/v1/keys/nope", Body::empty()).await.expect(404);
    let unnamed = door.post("/v1/keys", json!({ "role": "read" })).await.expect(400);
    assert!(unnamed.text().contains("name"));
}

#[tokio::test]
async fn foreign_pages_are_kept_out_where_everybody_is_let_in() {
    let door = fixture_with(true, Limits::default()).await;
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(Method::POST).uri("/v1/uploads");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        door.send(request.body(Body::empty()).unwrap()).await
    };
    ask(&[("host", "localhost:10024")]).await.expect(201);
    let rebound = ask(&[("host", "evil.example")]).await.expect(403);
    assert!(rebound.text().contains("Host"));
    let foreign = ask(&[("host", "127.0.0.1"), ("origin", "https://evil.example")]).await;
    assert!(foreign.expect(403).text().contains("Origin"));
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused_by_name() {
    let limits = Limits { json_body_bytes_max: 1_024, ..Limits::default() };
    let door = fixture_with(false, limits).await;
    let body = json!({ "tag": "x".repeat(2_000), "version": 1 });
    let answer = door.post("/v1/table/t/tags/create", body).await.expect(413);
    assert!(answer.text().contains("json_body_bytes_max"), "{}", answer.text());
    assert_eq!(answer.json()["code"], 13);
}
