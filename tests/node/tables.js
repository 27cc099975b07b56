// Making, listing and dropping tables and namespaces; connections; errors.
"use strict";

const arrow = require("apache-arrow");
const lancedb = require("@lancedb/lancedb");

const { connect } = require("./connection");
const { PEOPLE, field, people } = require("./data");
const { failure, fieldsOf } = require("./seen");

module.exports = {
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
};
