// The Node client against a server: `node client.js CASE TABLE` runs one case and prints what it
// saw as JSON. The tests in ../test_lancedb_node.py start it and say what is right; a case makes
// only tables whose names begin with TABLE, and namespaces of that name.
"use strict";

const arrow = require("apache-arrow");
const lancedb = require("@lancedb/lancedb");

const { Index } = lancedb;

const field = (name, type) => new arrow.Field(name, type, true);
const vectorOf = (width) => new arrow.FixedSizeList(width, field("item", new arrow.Float32()));
const PEOPLE = new arrow.Schema([
  field("id", new arrow.Int64()),
  field("name", new arrow.Utf8()),
  field("vector", vectorOf(2)),
]);
const SCENES = new arrow.Schema([
  field("id", new arrow.Int64()),
  field("label", new arrow.Int32()),
  field("caption", new arrow.Utf8()),
  field("tags", new arrow.List(field("item", new arrow.Utf8()))),
  field("vector", vectorOf(8)),
]);
const WORDS = ["red", "green", "blue", "car", "truck", "street", "bridge"];

// Rows with a key, a text and a vector on the line from (0, 10) to (10, 0).
function people(first, rows) {
  return Array.from({ length: rows }, (_, number) => {
    const id = first + number;
    return { id, name: `name ${id}`, vector: [id, 10 - id] };
  });
}

// Rows for indexes; the tests compute the same vectors.
function scenes(first, rows) {
  return Array.from({ length: rows }, (_, number) => {
    const id = first + number;
    return {
      id,
      label: id % 5,
      caption: `${WORDS[id % 7]} ${WORDS[(id + 2) % 7]}`,
      tags: [`tag ${id % 3}`, "all"],
      vector: sceneVector(id),
    };
  });
}

function sceneVector(id) {
  return Array.from({ length: 8 }, (_, k) => ((id * 7919 + k * 104729) % 1009) / 1009);
}

// The text of the error that a call ends in; null where it ends in none.
async function failure(call) {
  try {
    await call;
    return null;
  } catch (error) {
    return String(error.message ?? error);
  }
}

const fieldsOf = (schema) => schema.fields.map((one) => [one.name, String(one.type)]);
const idsOf = async (query) => (await query.toArray()).map((row) => row.id);
const sorted = (numbers) => [...numbers].sort((a, b) => Number(a) - Number(b));
const named = (config) => ({ name: config.name, type: config.indexType, columns: config.columns });

function connect(database = "default", options = {}) {
  return lancedb.connect(`db://${database}`, {
    apiKey: process.env.LAKEBED_KEY,
    hostOverride: process.env.LAKEBED_URL,
    ...options,
  });
}

const cases = {
  async create(db, name) {
    const objects = await db.createTable(name, people(0, 3));
    const withSchema = await db.createTable(`${name}_schema`, people(0, 4), { schema: PEOPLE });
    const data = lancedb.makeArrowTable(people(0, 5), { schema: PEOPLE });
    const ofArrow = await db.createTable(`${name}_arrow`, data);
    const byOptions = await db.createTable({ name: `${name}_options`, data: people(0, 2) });
    const empty = await db.createEmptyTable(`${name}_empty`, PEOPLE);
    const emptyRows = await empty.countRows();
    await empty.add(people(0, 6));
    return {
      display: [objects.name, objects.display(), objects.isOpen()],
      objects: [await objects.countRows(), fieldsOf(await objects.schema())],
      withSchema: [await withSchema.countRows(), fieldsOf(await withSchema.schema())],
      ofArrow: [await ofArrow.countRows(), fieldsOf(await ofArrow.schema())],
      byOptions: await byOptions.countRows(),
      empty: [emptyRows, await empty.countRows(), fieldsOf(await empty.schema())],
    };
  },

  async modes(db, name) {
    const schema = PEOPLE;
    await db.createTable(name, people(0, 3), { schema });
    const again = await failure(db.createTable(name, people(0, 5), { schema }));
    const kept = await db.createTable(name, people(0, 5), { existOk: true, schema });
    const keptRows = await kept.countRows();
    // Without a schema its keys are doubles.
    const other = await failure(db.createTable(name, people(0, 5), { existOk: true }));
    const over = await db.createTable(name, people(0, 5), { mode: "overwrite", schema });
    const overRows = await over.countRows();
    const emptyKept = await db.createEmptyTable(name, PEOPLE, { existOk: true });
    const emptyKeptRows = await emptyKept.countRows();
    const emptied = await db.createEmptyTable(name, PEOPLE, { mode: "overwrite" });
    return {
      again,
      other,
      rows: [keptRows, overRows, emptyKeptRows, await emptied.countRows()],
      opened: await (await (await connect()).openTable(name)).countRows(),
      missing: await failure(db.openTable(`${name}_missing`)),
    };
  },

  async lists(db, name) {
    for (const suffix of ["a", "b", "c", "d"]) {
      await db.createTable(`${name}_${suffix}`, people(0, 1));
    }
    const all = async () =>
      (await db.tableNames({ limit: 1000 })).filter((one) => one.startsWith(name));
    const before = await all();
    const after = await db.tableNames({ startAfter: `${name}_a`, limit: 2 });
    const walked = [];
    let pageToken;
    do {
      const page = await db.listTables({ pageToken, limit: 3 });
      walked.push(...page.tables.filter((one) => one.startsWith(name)));
      pageToken = page.pageToken;
    } while (pageToken);
    await db.dropTable(`${name}_b`);
    await db.renameTable(`${name}_c`, `${name}_e`);
    const dropped = await db.dropTableAsync(`${name}_d`);
    await dropped.wait();
    return {
      before,
      after,
      walked,
      dropped: await dropped.status(),
      left: await all(),
      renamed: await (await db.openTable(`${name}_e`)).countRows(),
      taken: await failure(db.renameTable(`${name}_a`, `${name}_e`)),
      missing: await failure(db.dropTable(`${name}_b`)),
    };
  },

  async add(db, name) {
    const table = await db.createTable(name, people(0, 3), { schema: PEOPLE });
    const one = await table.add(people(3, 1));
    const arrowRows = await table.add(lancedb.makeArrowTable(people(4, 10), { schema: PEOPLE }));
    const steps = [];
    await table.add(people(14, 5), { progress: (step) => steps.push(step) });
    const counts = [await table.countRows(), await table.countRows("id >= 15")];
    const overwritten = await table.add(people(0, 7), { mode: "overwrite" });
    const wrong = await failure(table.add([{ id: 1, nothing: 2 }]));
    return {
      versions: [one.version, arrowRows.version, overwritten.version, await table.version()],
      progress: [steps.at(-1).outputRows, steps.at(-1).done],
      counts,
      wrong,
      left: await table.countRows(),
    };
  },

  async types(db, name) {
    const schema = new arrow.Schema([
      field("small", new arrow.Int8()),
      field("large", new arrow.Uint64()),
      field("half", new arrow.Float64()),
      field("yes", new arrow.Bool()),
      field("bytes", new arrow.Binary()),
      field("day", new arrow.DateDay()),
      field("moment", new arrow.TimestampMillisecond()),
      field("words", new arrow.List(field("item", new arrow.Utf8()))),
      field("place", new arrow.Struct([field("x", new arrow.Int32())])),
      field("nothing", new arrow.Utf8()),
    ]);
    const row = {
      small: -5,
      large: 2n ** 60n,
      half: 0.5,
      yes: true,
      bytes: Buffer.from("abc"),
      day: new Date(Date.UTC(2024, 1, 29)),
      moment: new Date(Date.UTC(2024, 1, 29, 12, 30)),
      words: ["one", "two"],
      place: { x: 7 },
      nothing: null,
    };
    const table = await db.createTable(name, [row], { schema });
    const [read] = (await table.query().toArray()).map((one) => one.toJSON());
    return {
      fields: fieldsOf(await table.schema()),
      row: { ...read, large: String(read.large), bytes: Buffer.from(read.bytes).toString() },
    };
  },

  async reads(db, name) {
    const table = await db.createTable(name, people(0, 50), { schema: PEOPLE });
    const query = () => table.query();
    const asArrow = await query().where("id < 3").toArrow();
    let rows = 0;
    for await (const batch of query().select(["id"])) {
      rows += batch.numRows;
    }
    const withIds = await query().where("id >= 47").select(["id"]).withRowId().toArray();
    const rowIds = withIds.map((row) => row._rowid);
    return {
      where: await query().where("id < 3").select(["id", "name"]).limit(10).toArray(),
      limited: await idsOf(query().where("id >= 10").limit(3).offset(2)),
      ordered: await idsOf(
        query()
          .orderBy([{ columnName: "id", ascending: false, nullsFirst: false }])
          .limit(3),
      ),
      aliases: await query().select({ twice: "id * 2", id: "id" }).where("id < 2").toArray(),
      one: await query().select("name").limit(1).toArray(),
      asArrow: [asArrow.numRows, fieldsOf(asArrow.schema)],
      whole: (await table.toArrow()).numRows,
      rows,
      within: await idsOf(query().limit(2)),
      nothing: (await query().limit(0).toArrow()).numRows,
      timed: (await query().toArray({ timeoutMs: 60_000 })).length,
      outputSchema: fieldsOf(await query().select(["id"]).outputSchema()),
      offsets: sorted(await idsOf(table.takeOffsets([7, 3]).select(["id"]))),
      twice: sorted(await idsOf(table.takeOffsets([4, 4, 9]))),
      rowIds: sorted(await idsOf(table.takeRowIds([rowIds[2], rowIds[0]]).select(["id"]))),
      counted: [await table.countRows(), await table.countRows("name LIKE 'name 4%'")],
    };
  },

  async nearest(db, name) {
    const table = await db.createTable(name, people(0, 10), { schema: PEOPLE });
    const at = [3.1, 6.9];
    const near = (limit = 3) => table.vectorSearch(at).limit(limit);
    const distances = async (query) =>
      (await query.toArray()).map((row) => [row.id, row._distance]);
    const first = await near(1).withRowId().toArray();
    return {
      nearest: await distances(near(5).select(["id", "_distance"])),
      columns: Object.keys(first[0].toJSON()),
      taken: await idsOf(table.takeRowIds([first[0]._rowid])),
      search: await idsOf(table.search(at).limit(3)),
      nearestTo: await idsOf(table.query().nearestTo(new Float32Array(at)).limit(3)),
      column: await idsOf(near().column("vector")),
      cosine: await distances(near().distanceType("cosine")),
      dot: await distances(near().distanceType("dot")),
      within: await idsOf(near(9).distanceRange(1, 3)),
      below: await idsOf(near(9).distanceRange(undefined, 2)),
      above: await idsOf(near(9).distanceRange(60)),
      prefiltered: await idsOf(near().where("id > 5")),
      postfiltered: await idsOf(near().where("id > 3").postfilter()),
      skipped: await idsOf(near(2).offset(1)),
      tuned: await idsOf(
        near()
          .nprobes(5)
          .minimumNprobes(2)
          .maximumNprobes(9)
          .refineFactor(2)
          .ef(50)
          .bypassVectorIndex(),
      ),
      unindexed: await idsOf(near().fastSearch()),
      several: await table.vectorSearch(at).addQueryVector([8, 2]).limit(1).toArray(),
      outputSchema: fieldsOf(await near().select(["id", "_distance"]).outputSchema()),
      widths: await failure(table.vectorSearch([1, 2, 3]).limit(1).toArray()),
    };
  },

  async indexes(db, name) {
    const table = await db.createTable(name, scenes(0, 600), { schema: SCENES });
    const ivfPq = Index.ivfPq({ numPartitions: 2, numSubVectors: 4, distanceType: "cosine" });
    await table.createIndex("vector", { config: ivfPq, waitTimeoutSeconds: 60 });
    await table.createIndex("id");
    await table.createIndex("label", { config: Index.bitmap() });
    await table.createIndex("tags", { config: Index.labelList(), name: "my_tags" });
    await table.createIndex("caption", { config: Index.fts({ withPosition: true }) });
    const names = ["caption_idx", "id_idx", "label_idx", "my_tags", "vector_idx"];
    await table.waitForIndex(names, 60);
    const listed = await table.listIndices();
    const stats = Object.fromEntries(
      await Promise.all(names.map(async (one) => [one, await table.indexStats(one)])),
    );
    await table.add(scenes(600, 1));
    const fresh = table.vectorSearch(sceneVector(600)).limit(1);
    const indexed = table.vectorSearch(sceneVector(600)).fastSearch().limit(1);
    const exact = table.vectorSearch(sceneVector(42)).distanceType("cosine").bypassVectorIndex();
    const refined = table.vectorSearch(sceneVector(42)).nprobes(2).refineFactor(50).limit(10);
    const result = {
      listed: listed.map(named),
      counted: listed.map((one) => [one.numIndexedRows, one.numUnindexedRows]),
      dated: listed.every((one) => one.createdAt instanceof Date),
      stats,
      nothing: (await table.indexStats("nothing")) ?? null,
      fresh: await idsOf(fresh),
      indexed: await idsOf(indexed),
      unindexed: (await table.indexStats("vector_idx")).numUnindexedRows,
      exact: await idsOf(exact.limit(10)),
      refined: await idsOf(refined),
      filtered: await table.countRows("label = 3 AND array_has(tags, 'tag 1')"),
      late: await failure(table.waitForIndex(["nothing"], 1)),
      again: await failure(table.createIndex("id", { replace: false })),
    };
    await table.prewarmIndex("id_idx");
    await table.dropIndex("label_idx");
    return {
      ...result,
      left: (await table.listIndices()).map((one) => one.name),
      twice: await failure(table.dropIndex("label_idx")),
    };
  },

  async kinds(db, name) {
    const table = await db.createTable(name, scenes(0, 600), { schema: SCENES });
    const kinds = {
      ivfFlat: ["vector", Index.ivfFlat({ numPartitions: 2, distanceType: "dot" })],
      ivfPq: ["vector", Index.ivfPq({ numPartitions: 2, numSubVectors: 4 })],
      ivfRq: ["vector", Index.ivfRq({ numPartitions: 2 })],
      hnswSq: ["vector", Index.hnswSq({ numPartitions: 1, distanceType: "cosine" })],
      btree: ["label", Index.btree()],
      bitmap: ["label", Index.bitmap()],
      fm: ["caption", Index.fm()],
      fts: ["caption", Index.fts({ stem: false, baseTokenizer: "whitespace" })],
    };
    const seen = {};
    for (const [kind, [column, config]] of Object.entries(kinds)) {
      const job = await table.createIndexAsync(column, { config });
      await job.wait();
      const stats = await table.indexStats(`${column}_idx`);
      seen[kind] = [await job.status(), stats.indexType, stats.distanceType ?? null];
      if (column === "vector") {
        const query = table.vectorSearch(sceneVector(7)).nprobes(2).refineFactor(50).limit(1);
        seen[kind].push(await idsOf(query));
      }
    }
    return seen;
  },

  async jobs(db, name) {
    const table = await db.createTable(name, people(0, 20), { schema: PEOPLE });
    const job = await table.createIndexAsync("id", { config: Index.btree() });
    await job.wait();
    await job.refresh();
    const opened = await db.openJob(job.id);
    const listed = (await db.listJobs()).filter((one) => one.table === name);
    return {
      states: [await job.status(), job.state, opened.state],
      about: [job.jobType, job.spec, job.result, job.failure],
      same: opened.id === job.id,
      listed: listed.map((one) => [one.jobId === job.id, one.jobType, one.state]),
      missing: await failure(db.openJob("01a20527-0000-7000-8000-000000000000")),
      cancelled: await db.cancelJob("01a20527-0000-7000-8000-000000000000"),
      ended: [await db.cancelJob(job.id), (await db.openJob(job.id)).state],
    };
  },

  async text(db, name) {
    const { MatchQuery, PhraseQuery, BoostQuery, MultiMatchQuery, BooleanQuery } = lancedb;
    const { Occur, Operator } = lancedb;
    const texts = [
      ["red car", "a red car on the street"],
      ["blue truck", "the truck is blue and big"],
      ["old red bridge", "the bridge is red and old"],
      ["green street", "a street with a green car"],
      ["bicycle", "nothing to see"],
    ];
    const rows = texts.map(([title, body], id) => ({ id, title, body, vector: [id, 0] }));
    const table = await db.createTable(name, rows);
    const noIndex = await failure(table.search("red", "fts").toArray());
    for (const column of ["title", "body"]) {
      await table.createIndex(column, { config: Index.fts({ withPosition: true }) });
    }
    await table.waitForIndex(["title_idx", "body_idx"], 60);
    const found = async (query) => sorted(await idsOf(query.limit(10)));
    const both = new BooleanQuery([
      [Occur.Must, new MatchQuery("red", "body")],
      [Occur.MustNot, new MatchQuery("old", "body")],
    ]);
    const boosted = new BoostQuery(new MatchQuery("red", "body"), new MatchQuery("old", "body"), {
      negativeBoost: 0.1,
    });
    const multi = new MultiMatchQuery("red", ["title", "body"], { boosts: [2, 1] });
    const scored = await table.search("truck", "fts", "body").select(["id", "_score"]).toArray();
    const result = {
      noIndex,
      words: await found(table.search("car", "fts")),
      guessed: await found(table.search("car")),
      oneColumn: await found(table.search("street", "fts", "title")),
      twoColumns: await found(table.search("street", "fts", ["title", "body"])),
      fullText: await found(table.query().fullTextSearch("street", { columns: ["title"] })),
      nearestToText: await found(table.query().nearestToText("car", ["body"])),
      filtered: await found(table.query().fullTextSearch("red").where("id > 0")),
      match: await found(table.search(new MatchQuery("red car", "body"))),
      every: await found(
        table.search(new MatchQuery("red car", "body", { operator: Operator.And })),
      ),
      fuzzy: await found(table.search(new MatchQuery("trucc", "body", { fuzziness: 1 }))),
      phrase: await found(table.search(new PhraseQuery("red car", "body"))),
      slop: await found(table.search(new PhraseQuery("bridge red", "body", { slop: 2 }))),
      multi: await found(table.search(multi)),
      boost: await idsOf(table.search(boosted).limit(10)),
      both: await found(table.search(both)),
      nothing: await found(table.search("zeppelin", "fts")),
      scored: scored.map((row) => [row.id, row._score > 0]),
      tokens: await table.tokenize("Red cars", { column: "body" }),
    };
    await table.add([{ id: 9, title: "zeppelin", body: "a zeppelin", vector: [9, 0] }]);
    const reranker = await lancedb.rerankers.RRFReranker.create();
    const hybrid = await table
      .query()
      .nearestTo([3, 0])
      .fullTextSearch("car", { columns: ["body"] })
      .rerank(reranker)
      .limit(3)
      .toArray();
    return {
      ...result,
      fresh: await found(table.search("zeppelin", "fts")),
      hybrid: [hybrid.length, hybrid[0].id, "_relevance_score" in hybrid[0].toJSON()],
    };
  },

  async update(db, name) {
    const table = await db.createTable(name, people(0, 10), { schema: PEOPLE });
    const done = [
      await table.update({ where: "id < 3", values: { name: "young" } }),
      await table.update({ valuesSql: { id: "id + 100" } }),
      await table.update({ name: "'very ' || name" }, { where: "id = 100" }),
      await table.update({ where: "id = 101", values: new Map([["name", "o'neil"]]) }),
      await table.update({ where: "id = 102", values: { vector: [7, 8], name: null } }),
      await table.update({ where: "id = 999", values: { name: "nobody" } }),
    ];
    const deleted = await table.delete("id >= 105");
    const again = await table.delete("id >= 105");
    return {
      updated: done.map((one) => one.rowsUpdated),
      versions: done.slice(0, 5).map((one) => one.version),
      deleted: [deleted.numDeletedRows, again.numDeletedRows],
      rows: (await table.toArrow()).toArray(),
      column: await failure(table.update({ values: { nothing: 1 } })),
      filter: await failure(table.delete("nothing = 1")),
    };
  },

  async merge(db, name) {
    const table = await db.createTable(name, people(0, 10), { schema: PEOPLE });
    const merge = (on = "id") => table.mergeInsert(on);
    const renamed = people(5, 10).map((row) => ({ ...row, name: "new" }));
    const done = [];
    const counts = (one) => [one.numInsertedRows, one.numUpdatedRows, one.numDeletedRows];
    const run = async (builder, rows, options) => {
      const one = await builder.execute(rows, options);
      done.push([one.version, ...counts(one), await table.countRows()]);
    };
    await run(merge().whenMatchedUpdateAll().whenNotMatchedInsertAll(), renamed);
    const news = await table.countRows("name = 'new'");
    await run(merge().whenNotMatchedInsertAll(), people(10, 10));
    await run(merge().whenMatchedUpdateAll({ where: "target.id < 2" }), people(0, 4));
    const replace = merge().whenMatchedUpdateAll().whenNotMatchedInsertAll();
    await run(replace.whenNotMatchedBySourceDelete({ where: "id >= 15" }), people(0, 3));
    await run(merge().whenNotMatchedBySourceDelete(), people(0, 3));
    const pair = merge(["id", "name"]).whenNotMatchedInsertAll().useIndex(false);
    await run(pair, people(2, 2), { timeoutMs: 60_000 });
    await run(merge().whenMatchedUpdateAll(), [{ id: 1, name: "partly" }]);
    const twice = [...people(1, 1), ...people(1, 1)];
    return {
      done,
      news,
      twice: await failure(merge().whenMatchedUpdateAll().execute(twice)),
      rows: await table
        .query()
        .orderBy([{ columnName: "id", ascending: true, nullsFirst: false }])
        .toArray(),
    };
  },

  // Rows without a schema have doubles as keys.
  async doubles(db, name) {
    const table = await db.createTable(name, [{ id: 1, name: "a" }, { id: 2.5, name: "b" }]);
    const merge = table.mergeInsert("id").whenMatchedUpdateAll().whenNotMatchedInsertAll();
    const done = await merge.execute([{ id: 2.5, name: "new" }, { id: 3, name: "c" }]);
    const nan = table.mergeInsert("id").whenMatchedUpdateAll();
    return {
      done: [done.numInsertedRows, done.numUpdatedRows, done.numRows],
      rows: await table
        .query()
        .orderBy([{ columnName: "id", ascending: true, nullsFirst: false }])
        .toArray(),
      nan: await failure(nan.execute([{ id: Number.NaN, name: "none" }])),
    };
  },

  // A vector says by its width which column it is for.
  async widths(db, name) {
    const rows = [0, 1].map((id) => ({ id, two: [id, 1], three: [id, 1, 2] }));
    const list = (width) => new arrow.FixedSizeList(width, field("item", new arrow.Float32()));
    const schema = new arrow.Schema([
      field("id", new arrow.Int32()),
      field("two", list(2)),
      field("three", list(3)),
    ]);
    const table = await db.createTable(name, rows, { schema });
    return {
      two: await idsOf(table.vectorSearch([1, 1]).limit(1)),
      three: await idsOf(table.vectorSearch([0, 1, 2]).limit(1)),
      none: await failure(table.vectorSearch([1]).limit(1).toArray()),
    };
  },

  async picks(db, name) {
    const table = await db.createTable(name, people(0, 3), { schema: PEOPLE });
    const branches = await table.branches();
    const exp = await branches.create("exp");
    const empty = await branches.cherryPick("exp", false);
    await exp.addColumns([{ name: "twice", valueSql: "id * 2" }]);
    const before = fieldsOf(await table.schema()).length;
    const preview = await branches.cherryPick("exp", true);
    const looked = fieldsOf(await table.schema()).length;
    const picked = await branches.cherryPick("exp", false);
    await table.checkoutLatest();
    const edits = await branches.create("edits");
    await edits.dropColumns(["name"]);
    await edits.delete("id = 1");
    const difference = await branches.diff("edits");
    const refused = await branches.cherryPick("edits", false);
    return {
      empty: [empty.status, empty.diff.errors.map((one) => one.code)],
      preview: [preview.status, preview.preview.promotedColumns, before === looked],
      picked: [picked.status, picked.preview.promotedColumns],
      after: picked.mainVersionAfter === (await table.version()),
      twice: (await table.query().toArray()).map((row) => Number(row.twice)),
      removed: difference.removedColumns.map((column) => [column.name, column.nullable]),
      refused: [refused.status, refused.diff.errors.map((one) => one.code).sort()],
      left: await table.countRows(),
    };
  },

  async columns(db, name) {
    const table = await db.createTable(name, people(0, 3), { schema: PEOPLE });
    const added = await table.addColumns([
      { name: "half", valueSql: "CAST(id AS DOUBLE) / 2" },
      { name: "letter", valueSql: "'a'" },
    ]);
    const rows = await table.query().select(["id", "half", "letter"]).toArray();
    const altered = await table.alterColumns([{ path: "half", rename: "part" }]);
    await table.alterColumns([{ path: "part", dataType: "float" }]);
    await table.alterColumns([{ path: "name", nullable: false }]);
    const changed = await table.schema();
    const dropped = await table.dropColumns(["letter"]);
    const noted = await table.updateFieldMetadata([{ path: "id", metadata: { unit: "m" } }]);
    const schema = await table.schema();
    return {
      versions: [added.version, altered.version, dropped.version, noted.version],
      rows,
      changed: fieldsOf(changed),
      nullable: changed.fields.map((one) => one.nullable),
      left: fieldsOf(schema),
      metadata: Object.fromEntries(schema.fields[0].metadata),
      values: (await table.query().select(["part"]).toArray()).map((row) => row.part),
      missing: await failure(table.dropColumns(["letter"])),
    };
  },

  async versions(db, name) {
    const table = await db.createTable(name, people(0, 3), { schema: PEOPLE });
    await table.add(people(3, 2));
    const listed = await table.listVersions();
    await table.checkout(1);
    const old = [await table.version(), await table.countRows(), await table.query().toArray()];
    const pinned = await failure(table.add(people(9, 1)));
    await table.checkoutLatest();
    const latest = [await table.version(), await table.countRows()];
    await table.checkout(1);
    await table.restore();
    const restored = [await table.version(), await table.countRows()];
    const opened = await db.openTable(name, [], { version: 2 });
    return {
      listed: listed.map((one) => one.version),
      dated: listed.every((one) => Math.abs(Date.now() - one.timestamp) < 600_000),
      old: [old[0], old[1], old[2].length],
      pinned,
      latest,
      restored,
      opened: [await opened.version(), await opened.countRows()],
      missing: await failure(table.checkout(999)),
    };
  },

  async tags(db, name) {
    const table = await db.createTable(name, people(0, 3), { schema: PEOPLE });
    const tags = await table.tags();
    await tags.create("gold", 1);
    await table.add(people(3, 2));
    const created = await tags.getVersion("gold");
    const listed = Object.entries(await tags.list()).map(([tag, one]) => [tag, one.version]);
    await table.checkout("gold");
    const rows = [await table.countRows(), await table.version()];
    await table.checkoutLatest();
    const twice = await failure(tags.create("gold", 2));
    await tags.update("gold", 2);
    const updated = await tags.getVersion("gold");
    await tags.delete("gold");
    return {
      created,
      listed,
      rows,
      twice,
      updated,
      left: await tags.list(),
      missing: await failure(tags.getVersion("gold")),
    };
  },

  async branches(db, name) {
    const table = await db.createTable(name, people(0, 3), { schema: PEOPLE });
    const branches = await table.branches();
    const none = await branches.list();
    const made = await branches.create("exp");
    await table.add(people(3, 1));
    await made.add(people(10, 4));
    await made.delete("id = 0");
    await made.update({ where: "id = 1", values: { name: "elsewhere" } });
    const merge = made.mergeInsert("id").whenMatchedUpdateAll().whenNotMatchedInsertAll();
    await merge.execute(people(13, 2));
    await made.addColumns([{ name: "extra", valueSql: "1" }]);
    await made.createIndex("id", { config: Index.btree(), waitTimeoutSeconds: 60 });
    const nested = await branches.create("deeper/one", "exp");
    const old = await branches.create("old", "main", 1);
    const listed = await branches.list();
    const opened = await db.openTable(name, [], { branch: "exp" });
    const pinned = await branches.checkout("exp", 2);
    const difference = await branches.diff("exp");
    const tags = await made.tags();
    await tags.create("there", await made.version());
    const result = {
      none,
      current: [table.currentBranch(), made.currentBranch(), opened.currentBranch()],
      rows: sorted(await idsOf(opened.query())),
      main: sorted(await idsOf(table.query())),
      renamed: await made.countRows("name = 'elsewhere'"),
      schemas: [await table.schema(), await made.schema()].map((one) => one.names),
      indexes: [await table.listIndices(), await made.listIndices()].map((all) => all.length),
      nested: await nested.countRows(),
      old: await old.countRows(),
      pinned: [await pinned.version(), await pinned.countRows()],
      tagged: (await tags.getVersion("there")) === (await made.version()),
      listed: Object.entries(listed).map(([branch, one]) => [
        branch,
        one.parentBranch ?? null,
        one.parentVersion,
      ]),
      difference: [difference.fromBranch, difference.baseMoved, difference.rowCountBranch],
      added: difference.addedColumns.map((column) => column.name),
      twice: await failure(branches.create("exp")),
      missing: await failure(branches.checkout("nothing")),
    };
    await branches.delete("old");
    return { ...result, left: Object.keys(await branches.list()).sort() };
  },

  async plans(db, name) {
    const table = await db.createTable(name, people(0, 10), { schema: PEOPLE });
    await table.add(people(10, 5));
    await table.delete("id = 0");
    await table.createIndex("id", { waitTimeoutSeconds: 60 });
    const near = () => table.vectorSearch([1, 9]).where("id > 3").limit(2);
    return {
      plain: await table.query().where("name = 'name 4'").explainPlan(),
      verbose: await near().explainPlan(true),
      analyzed: await near().analyzePlan(),
      full: await near().analyzePlan("full"),
      taken: await table.takeOffsets([1]).explainPlan(),
      stats: await table.stats(),
    };
  },

  async namespaces(db, name) {
    const made = await db.createNamespace([name], { properties: { owner: "us" } });
    await db.createNamespace([name, "inner"]);
    const table = await db.createTable("here", people(0, 2), [name], { schema: PEOPLE });
    await table.add(people(2, 1));
    const schema = new arrow.Schema([field("x", new arrow.Int32())]);
    await db.createEmptyTable("below", schema, [name, "inner"]);
    const opened = await db.openTable("here", [name]);
    const again = await db.createNamespace([name], { mode: "exist_ok" });
    const result = {
      again: again.properties,
      made: made.properties,
      described: (await db.describeNamespace([name])).properties,
      listed: (await db.listNamespaces([name])).namespaces,
      root: (await db.listNamespaces([], { limit: 1000 })).namespaces.includes(name),
      tables: [await db.tableNames([name]), (await db.listTables([name, "inner"])).tables],
      elsewhere: (await db.tableNames({ limit: 1000 })).includes("here"),
      rows: await opened.countRows(),
      twice: await failure(db.createNamespace([name])),
      full: await failure(db.dropNamespace([name])),
    };
    await db.renameTable("here", "moved", {
      namespacePath: [name],
      newNamespacePath: [name, "inner"],
    });
    const moved = [await db.tableNames([name]), await db.tableNames([name, "inner"])];
    for (const one of moved[1]) {
      await db.dropTable(one, [name, "inner"]);
    }
    await db.createTable("left", people(0, 1), [name, "inner"], { schema: PEOPLE });
    await db.dropNamespace([name], { behavior: "cascade" });
    return { ...result, moved, gone: await failure(db.describeNamespace([name])) };
  },

  async blobs(db, name) {
    const schema = new arrow.Schema([field("id", new arrow.Int64()), lancedb.blob("picture")]);
    const pictures = [Buffer.from("hello"), null, Buffer.alloc(0), Buffer.alloc(300_000, 7)];
    const rows = pictures.map((picture, id) => ({ id: BigInt(id), picture }));
    const table = await db.createTable(name, rows, { schema, dataStorageVersion: "2.2" });
    const read = await table.query().select(["id"]).withRowId().toArray();
    const rowIds = read.map((row) => row._rowid);
    const fetched = await table.fetchBlobs("picture", rowIds);
    const files = await table.fetchBlobFiles("picture", rowIds);
    return {
      columns: await table.blobColumns(),
      fetched: fetched.map((one, id) => (one === null ? null : one.equals(pictures[id]))),
      sizes: files.map((file) => (file === null ? null : file.size())),
      whole: (await files[0].read()).toString(),
      range: (await files[0].readRange(1n, 3n)).toString(),
      end: [...(await files[3].readRange(299_998n, 300_000n))],
    };
  },

  async wrong(db, name) {
    const table = await db.createTable(name, people(0, 10), { schema: PEOPLE });
    const stranger = await connect("default", { apiKey: "wrong" });
    db.close();
    return {
      column: await failure(table.query().where("nothing = 1").toArray()),
      syntax: await failure(table.query().where("id = = 1").toArray()),
      selected: await failure(table.query().select(["nothing"]).toArray()),
      counted: await failure(table.countRows("nothing = 1")),
      offset: await table.takeOffsets([99]).toArray(),
      key: await failure(stranger.tableNames()),
      closed: [db.isOpen(), await failure(db.tableNames())],
    };
  },

  async connections(db, name) {
    const one = await connect("one");
    const other = await connect("other");
    await one.createTable(name, people(0, 3));
    const elsewhere = await other.tableNames({ limit: 1000 });
    await other.createTable(name, people(0, 5));
    const strict = await lancedb.connect({
      uri: "db://one",
      apiKey: process.env.LAKEBED_KEY,
      hostOverride: process.env.LAKEBED_URL,
      readConsistencyInterval: 0,
      clientConfig: {
        userAgent: "somebody",
        extraHeaders: { "x-more": "yes" },
        timeoutConfig: { timeout: 60 },
        retryConfig: { retries: 1 },
      },
    });
    const watching = await strict.openTable(name);
    const before = await watching.countRows();
    await (await one.openTable(name)).add(people(3, 4));
    const headers = new lancedb.StaticHeaderProvider({ "x-api-key": process.env.LAKEBED_KEY });
    const provided = await lancedb.connect(
      "db://other",
      { apiKey: "wrong", hostOverride: process.env.LAKEBED_URL },
      undefined,
      headers,
    );
    return {
      elsewhere: elsewhere.includes(name),
      display: db.display(),
      fresh: [before, await watching.countRows()],
      provided: await (await provided.openTable(name)).countRows(),
    };
  },

  // What Python wrote, and what Python is to read.
  async shared(db, name) {
    const theirs = await db.openTable(name);
    const mine = await db.createTable(`${name}_node`, people(0, 4), { schema: PEOPLE });
    await mine.update({ where: "id = 2", values: { name: "two" } });
    return { fields: fieldsOf(await theirs.schema()), rows: (await theirs.toArrow()).toArray() };
  },
};

async function main([name, table]) {
  const seen = await cases[name](await connect(), table);
  const plain = (_, value) => (typeof value === "bigint" ? Number(value) : value);
  // Node would wait seconds for a connection with a provider of headers before it ends.
  process.stdout.write(`${JSON.stringify(seen, plain)}\n`, () => process.exit());
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
