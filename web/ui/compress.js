// Writes NAME.br and NAME.gz beside each text file of the built page; the gateway sends them (web/gateway/page.py).
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";

const page = fileURLToPath(new URL("dist/", import.meta.url));
for (const name of readdirSync(page, { recursive: true })) {
  if (!/\.(css|html|js|svg)$/.test(name)) continue;
  const contents = readFileSync(page + name);
  writeFileSync(`${page}${name}.br`, brotliCompressSync(contents));
  writeFileSync(`${page}${name}.gz`, gzipSync(contents, { level: 9 }));
}
