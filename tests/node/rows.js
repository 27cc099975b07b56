// Writing rows.
"use strict";

const arrow = require("apache-arrow");
const lancedb = require("@lancedb/lancedb");

const { PEOPLE, field, people } = require("./data");
const { failure, fieldsOf } = require("./seen");

module.exports = {
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

  // What Python wrote, and what Python is to read.
  async shared(db, name) {
    const theirs = await db.openTable(name);
    const mine = await db.createTable(`${name}_node`, people(0, 4), { schema: PEOPLE });
    await mine.update({ where: "id = 2", values: { name: "two" } });
    return { fields: fieldsOf(await theirs.schema()), rows: (await theirs.toArrow()).toArray() };
  },
};
