import { expect, test, vi } from "vitest";

import { add, load, type Recent, save } from "./recent";

const one: Recent = {
  id: 1,
  when: "2026-01-01T12:00:00Z",
  source: "Typed",
  text: "so it is",
  label: "sadness",
  probabilities: { neutral: 0.1, frustration: 0.1, anger: 0.1, sadness: 0.6, excitement: 0.1 },
};

test("add keeps the last six analyses, newest first", () => {
  let kept: Recent[] = [];
  for (let id = 1; id <= 8; id++) kept = add(kept, { ...one, id });
  expect(kept.map(({ id }) => id)).toEqual([8, 7, 6, 5, 4, 3]);
  expect(load()).toEqual(kept);
});

test.each(["no JSON", "{}", '[{"label": "joy"}]', '[{"id": 1, "text": "no time"}]', "[null]", "null"])("load of storage that holds %s returns no analyses", (stored) => {
  localStorage.setItem("emoserve.recent", stored);
  expect(load()).toEqual([]);
});

test("save returns the analyses if storage is full", () => {
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("", "QuotaExceededError");
  });
  expect(save([one])).toEqual([one]);
});
