// Changes of the schema, and blobs.
"use strict";

const arrow = require("apache-arrow");
const lancedb = require("@lancedb/lancedb");

const { PEOPLE, field, people } = require("./data");
const { failure, fieldsOf } = require("./seen");

module.exports = {
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
};
