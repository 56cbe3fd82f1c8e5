// Fails if the JavaScript of the built page exceeds its size budget. The API page has none: few people load it.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const BUDGET = 300_000; // bytes, gzipped
const dist = new URL("dist/", import.meta.url);
const scripts = readdirSync(new URL("assets/", dist)).filter((name) => name.endsWith(".js"));

/** Returns the scripts that a file names, and those that these name. */
function reachable(file, found = new Set()) {
  const contents = readFileSync(new URL(file, dist), "utf8");
  for (const name of scripts.filter((name) => !found.has(name) && contents.includes(name))) {
    reachable(`assets/${name}`, found.add(name));
  }
  return found;
}

function size(file) {
  const sizes = [...reachable(file)].map((name) => gzipSync(readFileSync(new URL(`assets/${name}`, dist))).length);
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

const kilobytes = (bytes) => (bytes / 1000).toFixed(0);
const page = size("index.html");
console.log(`${kilobytes(page)} kB of JavaScript, gzipped; the budget is ${BUDGET / 1000} kB`);
console.log(`${kilobytes(size("api-docs.html"))} kB on the API page`);
process.exit(page > 0 && page <= BUDGET ? 0 : 1);
