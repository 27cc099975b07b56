// Queries, searches and plans.
"use strict";

const arrow = require("apache-arrow");
const {
  BooleanQuery,
  BoostQuery,
  Index,
  MatchQuery,
  MultiMatchQuery,
  Occur,
  Operator,
  PhraseQuery,
  rerankers,
} = require("@lancedb/lancedb");

const { PEOPLE, field, people, vectorOf } = require("./data");
const { failure, fieldsOf, idsOf, sorted } = require("./seen");

module.exports = {
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

  // A vector says by its width which column it is for.
  async widths(db, name) {
    const rows = [0, 1].map((id) => ({ id, two: [id, 1], three: [id, 1, 2] }));
    const schema = new arrow.Schema([
      field("id", new arrow.Int32()),
      field("two", vectorOf(2)),
      field("three", vectorOf(3)),
    ]);
    const table = await db.createTable(name, rows, { schema });
    return {
      two: await idsOf(table.vectorSearch([1, 1]).limit(1)),
      three: await idsOf(table.vectorSearch([0, 1, 2]).limit(1)),
      none: await failure(table.vectorSearch([1]).limit(1).toArray()),
    };
  },

  async text(db, name) {
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
    const reranker = await rerankers.RRFReranker.create();
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
};
