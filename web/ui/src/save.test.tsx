import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import { Save } from "./components/Save";
import { answer } from "./fakes";

let saved: { name: string; contents: Blob }[];

beforeEach(() => {
  saved = [];
  let contents: Blob;
  vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => {
    contents = blob as Blob;
    return "blob:test";
  });
  vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function (this: HTMLAnchorElement) {
    saved.push({ name: this.download, contents });
  });
});

function show() {
  const user = userEvent.setup();
  render(<Save source="Typed" analysis={answer} shown={["fused", "text"]} chart={{ current: document.createElement("div") }} />);
  return user;
}

test("JSON saves the answer as it came", async () => {
  const user = show();
  await user.click(screen.getByRole("button", { name: "JSON" }));
  expect(saved[0]!.name).toBe("Typed-emotions.json");
  expect(JSON.parse(await saved[0]!.contents.text())).toEqual(answer);
});

test("CSV saves a table with a header", async () => {
  const user = show();
  await user.click(screen.getByRole("button", { name: "CSV" }));
  expect(saved[0]!.name).toBe("Typed-emotions.csv");
  expect(await saved[0]!.contents.text()).toMatch(/view,start,end,neutral,.*\r\nboth,,,0.08,/);
});

test("copying puts one line on the clipboard and says so", async () => {
  const user = show();
  await user.click(screen.getByRole("button", { name: "Copy" }));
  expect(await navigator.clipboard.readText()).toBe("sadness 70 % (words: neutral 48 %)");
  expect(screen.getByRole("status")).toHaveTextContent(/^Copied$/);
});

test("copying without access to the clipboard shows a sentence", async () => {
  const user = show();
  vi.spyOn(navigator.clipboard, "writeText").mockRejectedValue(new DOMException("", "NotAllowedError"));
  await user.click(screen.getByRole("button", { name: "Copy" }));
  expect(screen.getByRole("status")).toHaveTextContent("Your browser does not let this page copy; save");
});

test("chart that cannot be drawn shows a sentence", async () => {
  const user = show();
  await user.click(screen.getByRole("button", { name: "PNG" }));
  expect(screen.getByRole("status")).toHaveTextContent("Your browser can't draw the chart as an image.");
  expect(saved).toHaveLength(0);
});
