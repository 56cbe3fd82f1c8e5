import ts from "typescript";
import { expect, test } from "vitest";

const sources = import.meta.glob<string>("./**/*.{ts,tsx}", { query: "?raw", import: "default", eager: true });

/** Returns the modules that a module imports, type imports included, as keys of `sources`. */
function imports(path: string): string[] {
  const named = ts.preProcessFile(sources[path]!).importedFiles.map(({ fileName }) => fileName);
  const resolved = named.filter((name) => name.startsWith(".")).map((name) => new URL(name, `file:///src/${path}`).pathname.slice("/src/".length));
  return Object.keys(sources).filter((file) => resolved.includes(file.slice("./".length).replace(/\.tsx?$/, "")));
}

/** Returns the modules of an import cycle, the first one repeated at the end, or null if there is none. */
function findCycle(): string[] | null {
  const finished = new Set<string>();
  function visit(path: string, from: string[]): string[] | null {
    if (from.includes(path)) return [...from.slice(from.indexOf(path)), path];
    if (finished.has(path)) return null;
    for (const next of imports(path)) {
      const cycle = visit(next, [...from, path]);
      if (cycle) return cycle;
    }
    finished.add(path);
    return null;
  }
  for (const path of Object.keys(sources)) {
    const cycle = visit(path, []);
    if (cycle) return cycle;
  }
  return null;
}

test("imports of the page's modules are found", () => {
  expect(imports("./main.tsx")).toEqual(["./App.tsx"]);
  expect(imports("./components/TextInput.tsx")).toEqual(["./job.ts"]); // a type import
});

test("imports of the page's modules have no cycle", () => {
  expect(findCycle()).toBeNull();
});
