import { expect, test, vi } from "vitest";

import { long } from "./fakes";
import { add, load, type Recent, save, title, toRecent } from "./recent";

const one: Recent = {
  id: 1,
  when: "2026-01-01T12:00:00Z",
  source: "Typed",
  text: "so it is",
  label: "sadness",
  probabilities: { neutral: 0.1, frustration: 0.1, anger: 0.1, sadness: 0.6, excitement: 0.1 },
};

test("add keeps the last hundred analyses, newest first", () => {
  let kept: Recent[] = [];
  for (let id = 1; id <= 102; id++) kept = add(kept, { ...one, id });
  expect(kept.map(({ id }) => id)).toEqual(Array.from({ length: 100 }, (_, index) => 102 - index));
  expect(load()).toEqual(kept);
});

test("add replaces an earlier answer to the same job", () => {
  expect(add([one, { ...one, id: 2 }], { ...one, text: "now" }).map(({ text }) => text)).toEqual(["now", "so it is"]);
});

test("toRecent of a long recording has the emotion and the shares of its speaking time", () => {
  const job = { source: "talk.flac" };
  const recent = toRecent(job, long);
  expect(recent).toMatchObject({ source: "talk.flac", text: "so it is =no", label: "sadness", seconds: 70, utterances: 3 });
  expect(recent.probabilities).toEqual({ neutral: 0, frustration: 0, anger: 0.25, sadness: 0.5, excitement: 0 });
  expect(title(recent)).toBe("most often sadness");
  expect(toRecent(job, long).id).toBe(recent.id);
  expect(load()).toEqual([]);
  save([recent]);
  expect(load()).toEqual([recent]);
});

test("long recording without any emotion is kept", () => {
  const recent = toRecent({ source: "hum.flac" }, { ...long, utterances: [long.utterances[2]!] });
  expect(title(recent)).toBe("no emotion");
  save([recent]);
  expect(load()).toEqual([recent]);
});

/** Makes the storage hold at most this many characters. */
function limitStorage(characters: number) {
  const setItem = Storage.prototype.setItem;
  return vi.spyOn(Storage.prototype, "setItem").mockImplementation(function (this: Storage, key: string, value: string) {
    if (value.length > characters) throw new DOMException("", "QuotaExceededError");
    setItem.call(this, key, value);
  });
}

test("save stores the oldest analyses without their answers where they do not fit", () => {
  const recent = Array.from({ length: 100 }, () => toRecent({ source: "talk.flac" }, long));
  limitStorage(60_000);
  expect(save(recent)).toEqual(recent);
  const stored = load();
  expect(stored.map(({ id }) => id)).toEqual(recent.map(({ id }) => id));
  const withAnswer = stored.map(({ analysis }) => analysis !== undefined);
  expect(withAnswer[0]).toBe(true);
  expect(withAnswer.indexOf(false)).toBeGreaterThan(1);
  expect(withAnswer.lastIndexOf(true)).toBe(withAnswer.indexOf(false) - 1);
});

test("save stores the newest analyses where not all fit without their answers", () => {
  const recent = Array.from({ length: 100 }, (_, index) => ({ ...one, id: 100 - index }));
  limitStorage(10_000);
  save(recent);
  const ids = load().map(({ id }) => id);
  expect(ids[0]).toBe(100);
  expect(ids.length).toBeGreaterThan(10);
  expect(ids.length).toBeLessThan(100);
});

test("add keeps analyses that could not be stored", () => {
  const storage = limitStorage(0);
  const first = add([], one);
  expect(add(first, { ...one, id: 2 }).map(({ id }) => id)).toEqual([2, 1]);
  storage.mockRestore();
  save([]);
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
