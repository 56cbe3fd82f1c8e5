import { createEvent, fireEvent, render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import { App } from "./App";

const KEY = "emoserve.notice";
let paths: string[];

beforeEach(() => {
  localStorage.clear();
  paths = [];
  vi.stubGlobal("fetch", async (path: string) => {
    paths.push(path);
    return new Response(JSON.stringify({ status: "ready", speech: true, limits: { seconds: 60, bytes: 1000, characters: 2000 } }));
  });
});

const accept = () => userEvent.click(screen.getByRole("button", { name: "I understand" }));

test("notice stands in place of the input until it is accepted", async () => {
  render(<App />);
  const region = within(screen.getByRole("region", { name: "Before you start" }));
  expect(region.getByText("It is often wrong.")).toBeInTheDocument();
  expect(screen.queryByRole("tablist")).toBeNull();
  expect(screen.queryByRole("button", { name: "Record" })).toBeNull();
  await accept();
  expect(screen.getByRole("heading", { name: "Say something" })).toHaveFocus();
  expect(screen.getByRole("button", { name: "Record" })).toBeEnabled();
});

test("accepted notice is not shown again", async () => {
  const { unmount } = render(<App />);
  await accept();
  unmount();
  render(<App />);
  expect(screen.queryByRole("button", { name: "I understand" })).toBeNull();
});

test("notice is accepted until the page is closed where storage is forbidden", async () => {
  const forbid = () => {
    throw new DOMException("", "SecurityError");
  };
  vi.spyOn(Storage.prototype, "getItem").mockImplementation(forbid);
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(forbid);
  const { unmount } = render(<App />);
  await accept();
  expect(screen.getByRole("button", { name: "Record" })).toBeEnabled();
  unmount();
  render(<App />);
  expect(screen.getByRole("button", { name: "I understand" })).toBeInTheDocument();
});

test("file dropped before the notice is accepted is not sent", async () => {
  render(<App />);
  const drop = createEvent.drop(document.body, { dataTransfer: { files: [new File(["sound"], "mine.wav")] } });
  fireEvent(document.body, drop);
  expect(drop.defaultPrevented).toBe(true);
  expect(await screen.findByRole("alert")).toHaveTextContent("Read the notice and press “I understand” first.");
  await accept();
  expect(screen.queryByRole("alert")).toBeNull();
  expect(paths).not.toContain("/api/analyze");
});

test("answer of an earlier version is not analysed again before the notice is accepted", async () => {
  const probabilities = { neutral: 0.1, frustration: 0.1, anger: 0.1, sadness: 0.6, excitement: 0.1 };
  const shared = { text: "so it is", label: "sadness", status: "ok", probabilities };
  const analysis = { ...shared, transcript: null, understood: null, confidence: 0.9, audio_probabilities: null, text_probabilities: probabilities };
  const more = { seconds: null, timeline: [], checkpoint: "3fa9c1d2", untrained: [], timings: { total_ms: 1 } };
  const recent = { id: 1, when: "2026-11-30T00:00:00Z", source: "Typed", ...shared, analysis: { ...analysis, ...more } };
  localStorage.setItem("emoserve.recent", JSON.stringify([recent]));
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: "Open" }));
  await userEvent.type(await screen.findByLabelText("The words"), " not");
  expect(screen.getByRole("button", { name: "Analyse again" })).toBeDisabled();
  await accept();
  expect(screen.getByRole("button", { name: "Analyse again" })).toBeEnabled();
});

test.each([
  ["What is sent and kept", /The last 100 answers, with their texts/],
  ["About the model", /75.5 % of 2,511 test comments/],
])("footer shows %s in a dialog", async (name, words) => {
  localStorage.setItem(KEY, "true");
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name }));
  const dialog = screen.getByRole("dialog", { name });
  expect(within(dialog).getByText(words)).toBeInTheDocument();
  await userEvent.click(within(dialog).getByRole("button", { name: "Close" }));
  expect(screen.queryByRole("dialog")).toBeNull();
});
