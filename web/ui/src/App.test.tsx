import { act, createEvent, fireEvent, render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import { App } from "./App";
import { duration } from "./duration";
import { answer, fused, linesOf, long, Stream, words } from "./fakes";

const ready = { status: "ready", speech: true, limits: { seconds: 60, long_seconds: 600, bytes: 1000, characters: 2000 } };

type Reply = () => Response | Promise<Response>;
let analyses: Reply[];
let sent: FormData[];

function json(body: unknown, status = 200, headers: Record<string, string> = {}): Reply {
  return () => new Response(JSON.stringify(body), { status, headers });
}

beforeEach(() => {
  analyses = [];
  sent = [];
  vi.mocked(duration).mockResolvedValue(2);
  vi.stubGlobal("fetch", async (path: string, options: RequestInit) => {
    if (path === "/api/health") return json(ready)();
    if (path !== "/api/analyze" && path !== "/api/utterances") return { ok: true, blob: async () => new Blob(["sound"]) }; // an example
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
  await userEvent.click(screen.getByRole("button", { name: /^neutral \(voice\) English/ }));
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
  await userEvent.click(screen.getByRole("button", { name: /^neutral \(voice\) English/ }));
  expect(await screen.findByText(/No words were recognised/)).toBeInTheDocument();
});

test("transcript that was not understood is shown with a note", async () => {
  const voice = { transcript: "Ten luck and lead", understood: false, text: "", audio_probabilities: fused, text_probabilities: null };
  analyses = [json({ ...answer, ...voice })];
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: /^neutral \(voice\) English/ }));
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
  await userEvent.click(screen.getByRole("button", { name: /^neutral \(voice\)/ }));
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
  analyses = [() => new Promise<Response>(() => {}), json(answer), json(answer)];
  render(<App />);
  await upload(wav("one.wav"), wav("two.wav"), wav("three.wav"));
  await userEvent.click(await screen.findByRole("button", { name: "Cancel" }));
  const kept = within(screen.getByRole("region", { name: "Your recordings" }));
  expect(kept.getAllByRole("listitem").map((one) => one.textContent)).toEqual(["one.wav", "two.wav", "three.wav"]);
  await userEvent.click(kept.getByText("one.wav"));
  await userEvent.click(await kept.findByRole("button", { name: "Discard" }));
  expect(kept.getByText("2 recordings are not analysed yet.")).toBeInTheDocument();
  await userEvent.click(kept.getByRole("button", { name: "Analyse all" }));
  const recent = within(await screen.findByRole("region", { name: "Recent analyses" }));
  expect(await recent.findByText(/^three.wav, /)).toBeInTheDocument();
  expect(recent.getByText(/^two.wav, /)).toBeInTheDocument();
  expect(screen.queryByRole("region", { name: /Your recording/ })).toBeNull();
});

test("file that can't be used is named, and the others of the batch are analysed", async () => {
  let finish: (response: Response) => void = () => {};
  const unusable = json({ code: "unusable", message: "The file is not an audio file." }, 400);
  analyses = [json(answer), unusable, () => new Promise<Response>((resolve) => (finish = resolve))];
  render(<App />);
  await screen.findByText("Ready");
  await upload(wav("one.wav"), wav("notes.wav"), wav("three.wav"), new File([], "empty.wav", { type: "audio/wav" }));
  expect(await screen.findByText("3 of 3 files")).toBeInTheDocument();
  const log = screen.getByRole("log", { name: "Files without an answer" });
  expect(within(log).getAllByRole("listitem").map((one) => one.textContent)).toEqual([
    "empty.wav is empty. Choose another recording.",
    "notes.wav The file is not an audio file.",
  ]);
  finish(await json(answer)());
  const recent = within(await screen.findByRole("region", { name: "Recent analyses" }));
  expect(await recent.findByText(/^three.wav, /)).toBeInTheDocument();
  expect(screen.queryByText("notes.wav is not analysed yet.")).toBeNull();
  await userEvent.click(within(log).getByRole("button", { name: "Close" }));
  expect(log).toBeEmptyDOMElement();
});

test("batch waits while the service is away, and can be stopped", async () => {
  analyses = [json(answer), json({ code: "away", message: "The emotion server is not running." }, 503, { "Retry-After": "5" })];
  render(<App />);
  await screen.findByText("Ready");
  await upload(wav("one.wav"), wav("two.wav"), wav("three.wav"));
  expect(await screen.findByRole("alert")).toHaveTextContent("Trying again in 5 s");
  expect(screen.getByRole("button", { name: "Skip this one" })).toBeInTheDocument();
  await userEvent.click(screen.getByRole("button", { name: "Stop all" }));
  expect(screen.queryByRole("alert")).toBeNull();
  expect(screen.getByText("2 recordings are not analysed yet.")).toBeInTheDocument();
  expect(sent).toHaveLength(2);
});

/** Sends a long recording, and returns a function that receives lines of its answer. */
async function uploadLong(seconds: number | null = 70) {
  const stream = new Stream();
  vi.mocked(duration).mockResolvedValue(seconds);
  analyses = [...analyses, () => stream.response];
  const { unmount } = render(<App />);
  await screen.findByText("Ready");
  await upload(wav("talk.wav"));
  return { unmount, receive: (...lines: string[]) => act(async () => stream.send(lines.join(""))) };
}

const rows = async () => within(await screen.findByRole("table", { name: "Utterances" })).getAllByRole("row").slice(1);

test("long recording shows its utterances while they arrive", async () => {
  const { receive } = await uploadLong();
  const lines = linesOf(long);
  await screen.findByText("Listening to the voice and writing down the words");
  await receive(...lines.slice(0, 2));
  expect(await screen.findByText("1 of 3 utterances")).toBeInTheDocument();
  expect(screen.getByRole("progressbar", { name: "Utterances" })).toHaveAttribute("value", "1");
  expect(screen.getByText("25 % of the utterances are analysed").closest("[role=status]")).not.toBeNull();
  expect(await rows()).toHaveLength(1);
  await receive(...lines.slice(2));
  await focused("most often sadness 50 %");
  expect((await rows()).map((row) => row.textContent)).toEqual([
    "0:01so it issadness 93 %",
    "0:05=nounsure: anger or frustration",
    "1:03Not analysed: The answer took too long.",
  ]);
  expect(screen.getAllByRole("definition").slice(0, 5).map((one) => one.textContent)).toEqual([
    ...["0 %0 % sure", "0 %0 % sure", "25 %0 % sure", "50 %50 % sure", "0 %0 % sure"],
  ]);
  expect(screen.getByText("Without an emotion: 1 utterance.")).toBeInTheDocument();
  expect(screen.queryByRole("region", { name: /Your recording/ })).toBeNull();
});

test("time of an utterance plays the recording from there, and its row is marked", async () => {
  const played = vi.spyOn(HTMLMediaElement.prototype, "play").mockResolvedValue();
  const { receive } = await uploadLong();
  await receive(...linesOf(long));
  await userEvent.click(await screen.findByRole("button", { name: "Play from 0:05" }));
  const player = screen.getByLabelText<HTMLAudioElement>("The recording");
  expect(player.currentTime).toBe(5.5);
  expect(played).toHaveBeenCalledOnce();
  expect((await rows()).map((row) => row.getAttribute("aria-current"))).toEqual([null, "true", null]);
  expect(screen.getByRole("slider")).toHaveAttribute("aria-valuetext", "0:05, unsure: anger or frustration");
  fireEvent.error(player);
  expect(screen.getByText("Your browser can't play this kind of recording.")).toBeInTheDocument();
  expect(screen.queryByRole("button", { name: /Play from/ })).toBeNull();
});

test("long recording that is cancelled keeps what arrived, and can be analysed again", async () => {
  const { receive } = await uploadLong();
  const lines = linesOf(long);
  await receive(...lines.slice(0, 2));
  await screen.findByText("1 of 3 utterances");
  await userEvent.click(screen.getByRole("button", { name: "Cancel" }));
  expect(await screen.findByText("The analysis ended early: the answer has 1 of 3 utterances.")).toBeInTheDocument();
  const recent = within(screen.getByRole("region", { name: "Recent analyses" }));
  expect(recent.getByText("1:10 long, 1 utterance")).toBeInTheDocument();
  const kept = within(screen.getByRole("region", { name: "Your recording" }));
  expect(await kept.findByRole("button", { name: "Analyse the first 60 s" })).toBeEnabled();
  analyses = [() => new Response(lines.join(""))];
  await userEvent.click(kept.getByRole("button", { name: "Analyse the recording" }));
  expect(await recent.findByText("1:10 long, 3 utterances")).toBeInTheDocument();
  expect(recent.getAllByRole("listitem")).toHaveLength(1);
  expect(screen.queryByText(/The analysis ended early/)).toBeNull();
});

test("long recording whose answer breaks off keeps what arrived, and is sent again", async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  const { receive } = await uploadLong();
  const lines = linesOf(long);
  analyses = [() => new Response(lines.join(""))];
  await receive(`${lines[0]}${lines[1]}{"type": "error", "code": "away", "message": "The server stopped."}\n`);
  expect(await screen.findByRole("alert")).toHaveTextContent("The server stopped.");
  expect(screen.getByText(/the answer has 1 of 3 utterances/)).toBeInTheDocument();
  for (let second = 0; second < 11; second++) await act(() => vi.advanceTimersByTimeAsync(1000));
  await focused("most often sadness 50 %");
  expect(screen.queryByRole("alert")).toBeNull();
  vi.useRealTimers();
});

test("attempt that gets less far than the one before does not replace its answer", async () => {
  const { receive } = await uploadLong();
  const lines = linesOf(long);
  const failed = '{"type": "error", "code": "fault", "message": "The server failed."}\n';
  await receive(...lines.slice(0, 3), failed);
  expect(await screen.findByText(/the answer has 2 of 3 utterances/)).toBeInTheDocument();
  analyses = [() => new Response(`${lines[0]}${lines[1]}${failed}`)];
  await userEvent.click(within(screen.getByRole("alert")).getByRole("button", { name: "Try again" }));
  expect(await screen.findByText(/the answer has 2 of 3 utterances/)).toBeInTheDocument();
  expect(screen.getByRole("alert")).toHaveTextContent("The server failed.");
});

test("recent long recording is shown without its sound after a reload", async () => {
  const { receive, unmount } = await uploadLong();
  await receive(...linesOf(long));
  await focused("most often sadness 50 %");
  await userEvent.click(screen.getByRole("button", { name: "Open" }));
  expect(screen.getByLabelText("The recording")).toBeInTheDocument(); // the answer is shown already
  unmount();
  render(<App />);
  expect(await rows()).toHaveLength(3);
  expect(screen.getByRole("img", { name: "Emotion over the recording, as in the table of utterances" })).toBeInTheDocument();
  expect(screen.queryByLabelText("The recording")).toBeNull();
  expect(screen.queryByRole("button", { name: /Play from/ })).toBeNull();
});

test("recording over the longest length is not sent, and its first minute is offered", async () => {
  vi.mocked(duration).mockResolvedValue(660);
  render(<App />);
  await screen.findByText("Ready");
  await upload(wav("talk.wav"));
  expect(await screen.findByRole("alert")).toHaveTextContent("The recording is too long (11:00); at most 10 min are accepted.");
  const kept = within(screen.getByRole("region", { name: "Your recording" }));
  expect(await kept.findByRole("button", { name: "Analyse the first 60 s" })).toBeEnabled();
  expect(kept.queryByRole("button", { name: "Analyse the recording" })).toBeNull();
  expect(sent).toHaveLength(0);
});

test("file whose length the browser can't find is analysed as a long one if it is rejected", async () => {
  analyses = [json({ code: "unusable", message: "The audio has 70 s; at most 60 s are accepted." }, 400)];
  const { receive } = await uploadLong(null);
  await receive(...linesOf(long));
  await focused("most often sadness 50 %");
  expect(sent).toHaveLength(2);
});

test("recent analyses beyond six are shown on request", async () => {
  analyses = Array.from({ length: 8 }, () => json(answer));
  render(<App />);
  await screen.findByText("Ready");
  await upload(...Array.from({ length: 8 }, (_, index) => wav(`${index}.wav`)));
  const recent = within(await screen.findByRole("region", { name: "Recent analyses" }));
  const all = await recent.findByRole("button", { name: "Show all 8" });
  expect(recent.getAllByRole("button", { name: "Open" })).toHaveLength(6);
  await userEvent.click(all);
  expect(recent.getAllByRole("button", { name: "Open" })).toHaveLength(8);
  await userEvent.click(recent.getByRole("button", { name: "Show the last 6" }));
  expect(recent.getAllByRole("button", { name: "Open" })).toHaveLength(6);
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
  await userEvent.click(screen.getByRole("button", { name: /^neutral \(voice\)/ }));
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
  await userEvent.click(screen.getByRole("button", { name: /^neutral \(voice\)/ }));
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
