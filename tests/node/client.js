// The Node client against a server: `node client.js CASE TABLE` runs one case and prints what it
// saw as JSON. The tests in ../test_lancedb_node.py start it and say what is right; a case makes
// only tables whose names begin with TABLE, and namespaces of that name.
"use strict";

const { connect } = require("./connection");

const cases = {
  ...require("./tables"),
  ...require("./rows"),
  ...require("./reads"),
  ...require("./indexes"),
  ...require("./history"),
  ...require("./columns"),
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
