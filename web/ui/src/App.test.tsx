import { act, createEvent, fireEvent, render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import type { Analysis } from "./api";
import { App } from "./App";

const fused = { neutral: 0.08, frustration: 0.13, anger: 0.05, sadness: 0.7, excitement: 0.04 };
const words = { ...fused, sadness: 0.3, neutral: 0.48 };
const answer: Analysis = {
  transcript: null,
  understood: null,
  text: "so it is",
  label: "sadness",
  confidence: 0.93,
  status: "ok",
  probabilities: fused,
  audio_probabilities: null,
  text_probabilities: words,
  seconds: null,
  timeline: [],
  checkpoint: "3fa9c1d20b7e",
  untrained: [],
  timings: { decode_ms: 0, answer_ms: 100, timeline_ms: 0, total_ms: 100 },
};
const ready = { status: "ready", speech: true, limits: { seconds: 60, bytes: 1000, characters: 2000 } };

type Reply = () => Response | Promise<Response>;
let analyses: Reply[];
let sent: FormData[];

function json(body: unknown, status = 200, headers: Record<string, string> = {}): Reply {
  return () => new Response(JSON.stringify(body), { status, headers });
}

beforeEach(() => {
  analyses = [];
  sent = [];
  vi.stubGlobal("fetch", async (path: string, options: RequestInit) => {
    if (path === "/api/health") return json(ready)();
    if (path !== "/api/analyze") return { ok: true, blob: async () => new Blob(["sound"]) }; // an example
    sent.push(options.body as FormData);
    return analyses.shift()!();
  });
});

async function type(text: string) {
  await userEvent.click(screen.getByRole("tab", { name: "Type" }));
  await userEvent.type(screen.getByLabelText("Text to analyse"), text);
  await userEvent.click(screen.getByRole("button", { name: "Analyse" }));
}

/** Waits until an answer with this headline has the focus, which it gets after it is shown. */
async function focused(headline: string) {
  const heading = await screen.findByRole("heading", { name: headline, level: 2 });
  await waitFor(() => expect(heading).toHaveFocus());
}

test("answer shows its numbers, and why a view is absent", async () => {
  analyses = [json(answer)];
  render(<App />);
  await type("so it is");
  await focused("sadness 70 %");
  const rows = within(screen.getByRole("table")).getAllByRole("row").map((row) => row.textContent);
  expect(rows.slice(rows.indexOf("sadness"), rows.indexOf("excitement"))).toEqual(["sadness", "both70 %", "words30 %"]);
  const voice = screen.getByRole("button", { name: "What the voice says" });
  expect(voice).toBeDisabled();
  expect(voice).toHaveAccessibleDescription("There is no recording.");
});

test("view button toggles its view in the chart", async () => {
  analyses = [json(answer)];
  render(<App />);
  await type("so it is");
  const toggle = await screen.findByRole("button", { name: "What the words say" });
  expect(toggle).toHaveAttribute("aria-pressed", "true");
  expect(screen.getByRole("img", { name: /What the words say: neutral 48 %/ })).toBeInTheDocument();
  await userEvent.click(toggle);
  expect(toggle).toHaveAttribute("aria-pressed", "false");
  expect(screen.queryByRole("img", { name: /What the words say/ })).toBeNull();
});

test("corrected transcript is sent with the same recording", async () => {
  analyses = [json({ ...answer, transcript: "so it is", understood: true, audio_probabilities: fused }), json(answer)];
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: /“made amiable” He might even/ }));
  const transcript = await screen.findByLabelText("What was heard");
  expect([...sent[0]!.keys()]).toEqual(["audio"]);
  await userEvent.type(transcript, " not");
  await userEvent.click(screen.getByRole("button", { name: "Analyse again" }));
  await screen.findByLabelText("The words");
  expect(sent[1]!.get("text")).toBe("so it is not");
  expect(sent[1]!.get("audio")).toBeTruthy();
});

test("answer without a transcript says that no words were recognised", async () => {
  analyses = [json({ ...answer, transcript: "", understood: false, text: "", audio_probabilities: fused, text_probabilities: null })];
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: /“made amiable” He might even/ }));
  expect(await screen.findByText(/No words were recognised/)).toBeInTheDocument();
});

test("transcript that was not understood is shown with a note", async () => {
  const voice = { transcript: "Ten luck and lead", understood: false, text: "", audio_probabilities: fused, text_probabilities: null };
  analyses = [json({ ...answer, ...voice })];
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: /“made amiable” He might even/ }));
  expect(await screen.findByText(/“Ten luck and lead” was heard, but not clearly enough/)).toBeInTheDocument();
});

test("unsure answer with a close second emotion names both", async () => {
  const probabilities = { neutral: 0.1, frustration: 0.3, anger: 0.1, sadness: 0.45, excitement: 0.05 };
  analyses = [json({ ...answer, probabilities, confidence: 0.4, status: "unsure" })];
  render(<App />);
  await type("so it is");
  await focused("unsure: sadness or frustration");
  expect(screen.getByRole("heading", { name: "unsure: sadness or frustration", level: 3 })).toBeInTheDocument();
});

test("unsure answer with a distant second emotion names one", async () => {
  const probabilities = { neutral: 0.06, frustration: 0.05, anger: 0.01, sadness: 0.86, excitement: 0.02 };
  analyses = [json({ ...answer, probabilities, confidence: 0.8, status: "unsure" })];
  render(<App />);
  await type("so it is");
  await focused("unsure, perhaps sadness");
});

test("recording without sound says that the answer uses the words alone", async () => {
  analyses = [json({ ...answer, status: "no_speech", seconds: 2 })];
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: /made amiable/ }));
  await focused("no speech heard");
  expect(screen.getByText(/has no sound: the answer uses the words alone, which say sadness 70 %/)).toBeInTheDocument();
});

test("answer of an untrained model shows a warning", async () => {
  analyses = [json({ ...answer, untrained: ["vggish"] })];
  render(<App />);
  await type("so it is");
  expect(await screen.findByText(/never trained \(vggish\)/)).toBeInTheDocument();
});

test("busy error is retried automatically after the time of Retry-After", async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  analyses = [json({ code: "busy", message: "Many people are using this right now." }, 503, { "Retry-After": "2" }), json(answer)];
  render(<App />);
  await type("so it is");
  expect(await screen.findByRole("alert")).toHaveTextContent("Many people are using this right now.");
  expect(screen.getByText("Trying again in 2 s")).toBeInTheDocument();
  for (let second = 0; second < 3; second++) await act(() => vi.advanceTimersByTimeAsync(1000));
  expect(await screen.findByRole("heading", { name: "sadness 70 %", level: 2 })).toBeInTheDocument();
  expect(screen.queryByRole("alert")).toBeNull();
  vi.useRealTimers();
});

test("missing key opens a form, and the entered key is used", async () => {
  analyses = [json({ code: "key", message: "This service needs an access key." }, 401), json(answer)];
  render(<App />);
  await type("so it is");
  await userEvent.type(await screen.findByLabelText("Access key"), "secret");
  await userEvent.click(screen.getByRole("button", { name: "Use this key" }));
  expect(await screen.findByRole("heading", { name: "sadness 70 %", level: 2 })).toBeInTheDocument();
  expect(sessionStorage.getItem("emoserve.key")).toBe("secret");
});

test("file over the limit is not sent", async () => {
  render(<App />);
  await screen.findByText("Ready");
  await userEvent.click(screen.getByRole("tab", { name: "File" }));
  await userEvent.upload(screen.getByLabelText(/Choose recordings/), new File([new Uint8Array(1001)], "long.wav", { type: "audio/wav" }));
  expect(await screen.findByRole("alert")).toHaveTextContent("long.wav is too large");
  expect(sent).toHaveLength(0);
});

function wav(name: string): File {
  return new File([new Uint8Array(10)], name, { type: "audio/wav" });
}

async function upload(...files: File[]) {
  await userEvent.click(screen.getByRole("tab", { name: "File" }));
  await userEvent.upload(screen.getByLabelText(/Choose recordings/), files);
}

test("two files dropped on the page are analysed one after the other", async () => {
  analyses = [json({ ...answer, text: "one" }), json({ ...answer, text: "two" })];
  render(<App />);
  await screen.findByText("Ready");
  const drop = createEvent.drop(document.body, { dataTransfer: { files: [wav("one.wav"), wav("two.wav")] } });
  fireEvent(document.body, drop);
  expect(drop.defaultPrevented).toBe(true); // the browser does not open the file in place of the page
  const recent = within(await screen.findByRole("region", { name: "Recent analyses" }));
  expect(await recent.findByText("two")).toBeInTheDocument();
  expect(recent.getByText("one")).toBeInTheDocument();
});

test("file whose analysis fails is kept until it is answered", async () => {
  analyses = [json({ code: "late", message: "The answer took too long." }, 504), json(answer)];
  render(<App />);
  await upload(wav("mine.wav"));
  expect(await screen.findByRole("alert")).toHaveTextContent("took too long");
  const kept = within(screen.getByRole("region", { name: "Your recording" }));
  expect(kept.getByText("mine.wav is not analysed yet.")).toBeInTheDocument();
  expect(kept.getByRole("button", { name: "Download" })).toBeEnabled();
  const leaving = new Event("beforeunload", { cancelable: true });
  window.dispatchEvent(leaving);
  expect(leaving.defaultPrevented).toBe(true); // the browser asks before the page is left
  await userEvent.click(kept.getByRole("button", { name: "Analyse the recording" }));
  expect(await screen.findByRole("heading", { name: "sadness 70 %", level: 2 })).toBeInTheDocument();
  expect(screen.queryByRole("region", { name: "Your recording" })).toBeNull();
  expect(screen.queryByRole("alert")).toBeNull();
});

test("kept recording can be discarded", async () => {
  analyses = [() => new Promise<Response>(() => {})];
  render(<App />);
  await upload(wav("mine.wav"));
  await userEvent.click(await screen.findByRole("button", { name: "Cancel" }));
  await userEvent.click(screen.getByRole("button", { name: "Discard" }));
  expect(screen.queryByRole("region", { name: "Your recording" })).toBeNull();
  const leaving = new Event("beforeunload", { cancelable: true });
  window.dispatchEvent(leaving);
  expect(leaving.defaultPrevented).toBe(false);
});

test("every file is kept when several are cancelled", async () => {
  analyses = [() => new Promise<Response>(() => {})];
  render(<App />);
  await upload(wav("one.wav"), wav("two.wav"));
  await userEvent.click(await screen.findByRole("button", { name: "Cancel" }));
  expect(screen.getByText("one.wav is not analysed yet.")).toBeInTheDocument();
  expect(screen.getByText("two.wav is not analysed yet.")).toBeInTheDocument();
  await userEvent.click(screen.getAllByRole("button", { name: "Discard" })[0]!);
  expect(screen.queryByText("one.wav is not analysed yet.")).toBeNull();
  expect(screen.getByText("two.wav is not analysed yet.")).toBeInTheDocument();
});

test("failure replaces the answer before it", async () => {
  analyses = [json(answer), json({ code: "late", message: "The answer took too long." }, 504)];
  render(<App />);
  await type("so it is");
  await screen.findByRole("heading", { name: "sadness 70 %", level: 2 });
  await userEvent.click(screen.getByRole("button", { name: "Analyse" }));
  await screen.findByRole("alert");
  expect(screen.queryByRole("heading", { name: "sadness 70 %", level: 2 })).toBeNull();
});

test("answer is shown again after a reload", async () => {
  analyses = [json(answer)];
  const { unmount } = render(<App />);
  await type("so it is");
  await screen.findByRole("heading", { name: "sadness 70 %", level: 2 });
  unmount();
  render(<App />);
  expect(await screen.findByRole("heading", { name: "sadness 70 %", level: 2 })).toBeInTheDocument();
});

test("recent analyses can be opened, and two can be compared", async () => {
  analyses = [json(answer), json({ ...answer, label: "neutral", text: "well", probabilities: words })];
  render(<App />);
  await type("so it is");
  await screen.findByRole("heading", { name: "sadness 70 %", level: 2 });
  await userEvent.click(screen.getByRole("button", { name: "Analyse" }));
  await screen.findByRole("heading", { name: "neutral 48 %", level: 2 });
  const recent = within(screen.getByRole("region", { name: "Recent analyses" }));
  await userEvent.click(recent.getAllByRole("button", { name: "Open" })[1]!);
  expect(screen.getByRole("heading", { name: "sadness 70 %", level: 2 })).toBeInTheDocument();
  for (const button of recent.getAllByRole("button", { name: "Compare" })) await userEvent.click(button);
  const comparison = within(screen.getByRole("region", { name: "Comparison" }));
  expect(comparison.getByRole("row", { name: "sadness 30 % 70 %" })).toBeInTheDocument();
});

test("voice and words that disagree are pointed out", async () => {
  const angry = { neutral: 0.1, frustration: 0.1, anger: 0.7, sadness: 0.05, excitement: 0.05 };
  analyses = [json({ ...answer, audio_probabilities: angry, text_probabilities: fused })];
  render(<App />);
  await type("so it is");
  expect(await screen.findByText(/the voice says anger 70 %, the words say sadness 70 %/)).toBeInTheDocument();
});

test("pending analysis can be cancelled", async () => {
  analyses = [() => new Promise<Response>(() => {})];
  render(<App />);
  await type("so it is");
  await userEvent.click(await screen.findByRole("button", { name: "Cancel" }));
  expect(screen.queryByText("Reading the words")).toBeNull();
  expect(screen.getByRole("button", { name: "Analyse" })).toBeEnabled();
});

test("recent analyses are listed until they are cleared", async () => {
  analyses = [json(answer), json({ ...answer, label: "neutral", text: "well" })];
  render(<App />);
  await type("so it is");
  await screen.findByRole("heading", { name: "sadness 70 %", level: 2 });
  await userEvent.click(screen.getByRole("button", { name: "Analyse" }));
  await screen.findByRole("heading", { name: "neutral 8 %", level: 2 });
  const recent = within(screen.getByRole("region", { name: "Recent analyses" }));
  expect(recent.getAllByRole("heading", { level: 3 }).map((one) => one.textContent)).toEqual(["neutral 8 %", "sadness 70 %"]);
  await userEvent.click(recent.getByRole("button", { name: "Clear" }));
  expect(screen.queryByRole("region", { name: "Recent analyses" })).toBeNull();
  expect(localStorage.getItem("emoserve.recent")).toBe("[]");
});

test("timeline shows the emotion at the slider's position", async () => {
  const timeline = [
    { start: 0, end: 3, probabilities: fused },
    { start: 1.2, end: 4.2, probabilities: words },
  ];
  analyses = [json({ ...answer, audio_probabilities: fused, seconds: 4.2, timeline })];
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: /made amiable/ }));
  const slider = await screen.findByRole("slider", { name: "Position in the recording" });
  expect(slider).toHaveAttribute("aria-valuetext", "0:00, sadness 70 %");
  fireEvent.change(slider, { target: { value: "4" } });
  expect(slider).toHaveAttribute("aria-valuetext", "0:04, neutral 48 %");
  expect(screen.getByRole("img", { name: /From 0:00: sadness 70 %; From 0:01: neutral 48 %/ })).toBeInTheDocument();
});

test("timeline window without sound shows no emotion", async () => {
  const timeline = [
    { start: 0, end: 3, probabilities: null },
    { start: 1.2, end: 4.2, probabilities: words },
  ];
  analyses = [json({ ...answer, audio_probabilities: fused, seconds: 4.2, timeline })];
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: /made amiable/ }));
  const slider = await screen.findByRole("slider", { name: "Position in the recording" });
  expect(slider).toHaveAttribute("aria-valuetext", "0:00, no sound");
  expect(screen.getByRole("img", { name: /From 0:00: no sound; From 0:01: neutral 48 %/ })).toBeInTheDocument();
  expect(screen.getByText(/At 0:00: no sound/)).toBeInTheDocument();
});

test("typed text survives switching tabs", async () => {
  render(<App />);
  await userEvent.click(screen.getByRole("tab", { name: "Type" }));
  await userEvent.type(screen.getByLabelText("Text to analyse"), "so it is");
  await userEvent.click(screen.getByRole("tab", { name: "Speak" }));
  await userEvent.click(screen.getByRole("tab", { name: "Type" }));
  expect(screen.getByLabelText("Text to analyse")).toHaveValue("so it is");
});

test("tabs move with the arrow keys", async () => {
  render(<App />);
  screen.getByRole("tab", { name: "Speak" }).focus();
  await userEvent.keyboard("{ArrowRight}");
  expect(screen.getByRole("tab", { name: "File" })).toHaveFocus();
  await userEvent.keyboard("{ArrowLeft}{ArrowLeft}");
  expect(screen.getByRole("tab", { name: "Type", selected: true })).toHaveFocus();
});
