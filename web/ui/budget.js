// Fails if the JavaScript of the built page exceeds its size budget.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const BUDGET = 300_000; // bytes, gzipped
const assets = new URL("dist/assets/", import.meta.url);
const scripts = readdirSync(assets).filter((name) => name.endsWith(".js"));
const total = scripts.reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, assets))).length, 0);
console.log(`${(total / 1000).toFixed(0)} kB of JavaScript, gzipped; the budget is ${BUDGET / 1000} kB`);
process.exit(total > 0 && total <= BUDGET ? 0 : 1);
