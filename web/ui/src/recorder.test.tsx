import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, test, vi } from "vitest";

import { SpeechInput } from "./components/SpeechInput";

function failing(mediaDevices: unknown) {
  vi.stubGlobal("navigator", { ...navigator, mediaDevices });
  vi.stubGlobal("MediaRecorder", class {});
  const onFailure = vi.fn();
  render(<SpeechInput limit={60} busy={false} onJob={vi.fn()} onFailure={onFailure} />);
  return onFailure;
}

test.each([
  ["NotAllowedError", "blocked"],
  ["NotFoundError", "No microphone"],
  ["NotReadableError", "another program"],
  ["AbortError", "could not be used"],
])("%s is explained", async (name, words) => {
  const onFailure = failing({ getUserMedia: () => Promise.reject(new DOMException("", name)) });
  await userEvent.click(screen.getByRole("button", { name: "Record" }));
  expect(onFailure.mock.calls[0]![0].message).toContain(words);
  expect(screen.getByRole("button", { name: "Record" })).toBeEnabled();
});

test("a page that may not record says why", async () => {
  const onFailure = failing(undefined);
  await userEvent.click(screen.getByRole("button", { name: "Record" }));
  expect(onFailure.mock.calls[0]![0].message).toContain("https");
});
