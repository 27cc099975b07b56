// Indexes and the jobs that build them.
"use strict";

const { Index } = require("@lancedb/lancedb");

const { PEOPLE, SCENES, people, sceneVector, scenes } = require("./data");
const { failure, idsOf, named } = require("./seen");

module.exports = {
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
};
