// Rows of the cases; the tests compute the same ones.
"use strict";

const arrow = require("apache-arrow");

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

// Rows for indexes.
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

module.exports = { PEOPLE, SCENES, field, people, sceneVector, scenes, vectorOf };
