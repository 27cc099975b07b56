// What is printed of answers and of errors.
"use strict";

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

module.exports = { failure, fieldsOf, idsOf, named, sorted };
