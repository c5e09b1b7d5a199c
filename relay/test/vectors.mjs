// Checks the JSON form of docs/protocol-vectors.json against the browser module.
//
//     node vectors.mjs VECTORS MODULE
//
// The module exports decodeMessage(text), which returns an object whose keys are those of the JSON form (kind, seq,
// name, flags, the fields, body, text, data, codec) or throws, and encodeMessage(object), which returns the text.
// Held against it:
//   a good text     decodes, and what it is encoded to again means the same
//   a refused one   throws, or decodes to an object with a key "refused"
//   a wrong one     throws (but for those marked strict_only, which a general JSON parser may not notice)

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [vectorsFile, moduleFile] = process.argv.slice(2);
const { decodeMessage, encodeMessage } = await import(pathToFileURL(moduleFile).href);
const { vectors } = JSON.parse(readFileSync(vectorsFile, "utf8"));

// Keys that say what is understood without them.
function meaning(object) {
  const found = { ...object };
  if (!found.seq) delete found.seq;
  if (!found.name) delete found.name;
  if (!found.flags?.length) delete found.flags;
  if (found.data === "" && !("codec" in found)) delete found.data;
  if ("body" in found || "text" in found) delete found.codec;
  return found;
}

function attempt(text) {
  try {
    return { object: decodeMessage(text) };
  } catch (error) {
    return { error };
  }
}

function check(vector) {
  const { object, error } = attempt(vector.json);
  if (vector.error) {
    if (!vector.strict_only) assert.ok(error, "accepted");
    return;
  }
  if (vector.refused) {
    assert.ok(error || object.refused, "neither refused nor thrown");
    return;
  }
  if (error) throw error;
  const again = encodeMessage(object);
  assert.equal(typeof again, "string");
  assert.deepEqual(meaning(JSON.parse(again)), meaning(JSON.parse(vector.again ?? vector.json)));
}

let checked = 0;
let wrong = 0;
for (const vector of vectors) {
  if (vector.json === undefined) continue;
  checked += 1;
  try {
    check(vector);
  } catch (error) {
    wrong += 1;
    console.log(`wrong: ${vector.name}: ${error.message.split("\n")[0]}`);
  }
}
console.log(`${checked} objects, ${wrong} wrong`);
process.exit(wrong || !checked ? 1 : 0);
