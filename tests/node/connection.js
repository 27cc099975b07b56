// Connections to the server that the environment names.
"use strict";

const lancedb = require("@lancedb/lancedb");

function connect(database = "default", options = {}) {
  return lancedb.connect(`db://${database}`, {
    apiKey: process.env.LAKEBED_KEY,
    hostOverride: process.env.LAKEBED_URL,
    ...options,
  });
}

module.exports = { connect };
