// Versions, tags and branches.
"use strict";

const { Index } = require("@lancedb/lancedb");

const { PEOPLE, people } = require("./data");
const { failure, fieldsOf, idsOf, sorted } = require("./seen");

module.exports = {
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
};
