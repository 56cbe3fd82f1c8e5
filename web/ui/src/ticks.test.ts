import { expect, test } from "vitest";

import { timeTicks } from "./ticks";

test.each([
  [0.4, [0]],
  [3, [0, 1, 2]],
  [7.1, [0, 2, 4, 6]],
  [28, [0, 5, 10, 15, 20]],
  [60, [0, 10, 20, 30, 40, 50]],
])("timeTicks of %d s are at %j", (seconds, ticks) => {
  expect(timeTicks(seconds)).toEqual(ticks);
});

test("timeTicks leaves room for each label at a page width of 320 px", () => {
  const [axis, label] = [251, 33]; // px
  for (let seconds = 0.1; seconds < 4000; seconds += 0.7) {
    const left = [...timeTicks(seconds).map((tick) => (axis * tick) / seconds), axis];
    expect(left[0]).toBe(0);
    for (let index = 1; index < left.length; index++) expect(left[index]! - left[index - 1]!).toBeGreaterThanOrEqual(label);
  }
});
