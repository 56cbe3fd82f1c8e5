import { expect, test } from "vitest";

import { csv } from "./csv";

test("csv quotes commas, quotation marks and line breaks", () => {
  expect(csv([["a,b", 'say "so"', "two\nlines", "plain"]])).toBe('\ufeff"a,b","say ""so""","two\nlines",plain\r\n');
});

test("csv writes numbers with a dot, and nothing for absent values", () => {
  expect(csv([["n", "none"], [0.25, null], [-1, undefined]])).toBe("\ufeffn,none\r\n0.25,\r\n-1,\r\n");
});

test.each(["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "＝1"])("csv keeps the text %j from being a formula", (text) => {
  expect(csv([[text]])).toBe(`\ufeff'${text}\r\n`);
});

test("csv quotes a formula that needs quotes after its apostrophe", () => {
  expect(csv([['=HYPERLINK("a,b")']])).toBe('\ufeff"\'=HYPERLINK(""a,b"")"\r\n');
});
