import { act, render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import { setKey } from "./api";
import { App } from "./App";
import { Live } from "./components/Live";
import { Recorder } from "./fakes";
import type { LiveMessage } from "./live";

const probabilities = { neutral: 0.1, frustration: 0.1, anger: 0.7, sadness: 0.05, excitement: 0.05 };
const utterance = {
  type: "utterance" as const,
  start: 63.4,
  end: 65,
  transcript: "so it is",
  label: "anger" as const,
  status: "ok" as const,
  confidence: 0.9,
  probabilities,
  error: null,
};
const track = { stop: () => {} };
const stream = { getTracks: () => [track] } as unknown as MediaStream;
const BATCH = new ArrayBuffer(3200); // 100 ms at 16 kHz

/** Stand-in for WebSocket that the test opens, closes and sends messages through. */
class Socket {
  static CONNECTING = 0;
  static all: Socket[] = [];
  readyState = 0;
  bufferedAmount = 0;
  sent: (string | ArrayBuffer)[] = [];
  close = vi.fn();
  onopen?: () => void;
  onmessage?: (event: { data: string }) => void;
  onclose?: () => void;
  constructor(readonly url: string) {
    Socket.all.push(this);
  }
  send(data: string | ArrayBuffer) {
    this.sent.push(data);
  }
  open() {
    this.readyState = 1;
    this.onopen!();
  }
  receive(message: LiveMessage) {
    act(() => this.onmessage!({ data: JSON.stringify(message) }));
  }
}

/** Stand-in for AudioContext. */
class Context {
  static all: Context[] = [];
  /** Sample rates that a stream can be read at. */
  static supported = [16_000, 48_000];
  readonly sampleRate: number;
  state = "running";
  destination = {};
  audioWorklet = { addModule: vi.fn(async () => {}) };
  constructor({ sampleRate = 48_000 } = {}) {
    this.sampleRate = sampleRate;
    Context.all.push(this);
  }
  createMediaStreamSource() {
    if (!Context.supported.includes(this.sampleRate)) throw new DOMException("", "NotSupportedError");
    return { connect: (node: unknown) => node };
  }
  async resume() {}
  async close() {
    this.state = "closed";
  }
}

/** Stand-in for AudioWorkletNode; `port.onmessage` is the page's. */
class Node {
  static last: Node;
  port: { onmessage?: (event: { data: ArrayBuffer }) => void } = {};
  constructor() {
    Node.last = this;
  }
  connect() {}
  /** Hands over batches of sound. */
  record(batches = 1) {
    for (let batch = 0; batch < batches; batch++) act(() => this.port.onmessage!({ data: BATCH }));
  }
}

beforeEach(() => {
  [Socket.all, Context.all] = [[], []];
  Context.supported = [16_000, 48_000];
  vi.stubGlobal("WebSocket", Socket);
  vi.stubGlobal("AudioContext", Context);
  vi.stubGlobal("AudioWorkletNode", Node);
});

/** Shows the live view and returns its connection and the function that unmounts it. */
async function show() {
  const { unmount } = render(<Live stream={stream} />);
  await vi.waitFor(() => expect(Socket.all).toHaveLength(1));
  return { socket: Socket.all[0]!, unmount };
}

/** Opens the page and starts a recording. Returns the connection, which is undefined while the live view is off. */
async function record(live = true) {
  const sent: unknown[] = [];
  vi.stubGlobal("fetch", async (path: string, options: RequestInit) => {
    if (path === "/api/analyze") sent.push((options.body as FormData).get("audio"));
    return new Response(JSON.stringify({ code: "late", message: "The answer took too long." }), { status: 504 });
  });
  vi.stubGlobal("MediaRecorder", Recorder);
  vi.stubGlobal("navigator", { ...navigator, mediaDevices: { getUserMedia: async () => stream } });
  render(<App />);
  await userEvent.click(screen.getByRole("button", { name: "Record" }));
  if (live) await vi.waitFor(() => expect(Socket.all).toHaveLength(1));
  else await screen.findByRole("button", { name: "Stop and analyse" });
  return { socket: Socket.all[0]!, sent };
}

const stop = () => userEvent.click(screen.getByRole("button", { name: "Stop and analyse" }));

test("connection sends start before the sound that was recorded while it opened", async () => {
  const { socket } = await show();
  expect(socket.url).toBe(`ws://${location.host}/api/live`);
  Node.last.record(2);
  expect(socket.sent).toEqual([]);
  socket.open();
  Node.last.record();
  expect(socket.sent).toEqual(['{"type":"start","rate":16000}', BATCH, BATCH, BATCH]);
});

test("connection sends the access key if one is known", async () => {
  setKey("secret");
  const { socket } = await show();
  socket.open();
  expect(JSON.parse(socket.sent[0] as string)).toEqual({ type: "start", rate: 16_000, key: "secret" });
});

test("browser that does not resample sends its own rate", async () => {
  Context.supported = [48_000];
  const { socket } = await show();
  socket.open();
  expect(socket.sent).toEqual(['{"type":"start","rate":48000}']);
  expect(Context.all.map(({ state }) => state)).toEqual(["closed", "running"]);
});

test("voice shows listening, then the strongest emotion and all shares", async () => {
  const { socket } = await show();
  socket.open();
  expect(screen.getByText("Listening…")).toBeInTheDocument();
  socket.receive({ type: "ready", speech: true });
  socket.receive({ type: "voice", end: 0.5, probabilities: null });
  expect(screen.getByText("no sound")).toBeInTheDocument();
  socket.receive({ type: "voice", end: 1, probabilities });
  expect(screen.getByText("anger 70 %")).toBeInTheDocument();
  expect(screen.getAllByRole("definition").map((one) => one.textContent)).toEqual(["10 %", "10 %", "70 %", "5 %", "5 %"]);
  expect(screen.getByText("anger 70 %").closest("[aria-live], [role=status], [role=log]")).toBeNull(); // it changes too often
});

test("strip shows the updates of the last thirty seconds where they were, and gaps without sound", async () => {
  const { socket } = await show();
  const parts = () => [...document.querySelectorAll(".strip rect")];
  const strip = () => parts().map((one) => [Number(one.getAttribute("x")), Number(one.getAttribute("width"))]);
  socket.receive({ type: "voice", end: 0.5, probabilities });
  expect(strip()).toEqual([[29.5, 0.5]]);
  socket.receive({ type: "voice", end: 1, probabilities: null });
  socket.receive({ type: "voice", end: 3, probabilities }); // a late update
  expect(strip()).toEqual([[27, 0.5], [28, 2]]);
  socket.receive({ type: "voice", end: 31.5, probabilities });
  expect(strip()).toEqual([[0, 1.5], [1.5, 28.5]]);
});

test("utterances show their time, words and emotion in a log", async () => {
  const { socket } = await show();
  const log = within(screen.getByRole("log", { name: "What was said" }));
  expect(log.getByText(/appears here after each pause/)).toBeInTheDocument();
  socket.receive(utterance);
  socket.receive({ ...utterance, start: 66, transcript: "", status: "unsure", probabilities: { ...probabilities, anger: 0.3, sadness: 0.5 } });
  socket.receive({ ...utterance, start: 69, transcript: null, status: "no_speech" });
  socket.receive({ ...utterance, start: 72, label: null, status: null, probabilities: null, error: "The answer took too long." });
  expect(log.getAllByRole("listitem").map((one) => one.textContent)).toEqual([
    "1:03so it isanger 70 %",
    "1:06No words understoodunsure: sadness or anger",
    "1:09Voice onlyno speech heard",
    "1:12Not analysed: The answer took too long.",
  ]);
});

test("error of the service shows a note, keeps the utterances and closes the connection", async () => {
  const { socket } = await show();
  socket.receive(utterance);
  socket.receive({ type: "voice", end: 1, probabilities });
  socket.receive({ type: "error", code: "busy", message: "Many people are using this right now." });
  expect(screen.getByRole("status")).toHaveTextContent(
    "The live view is not available: Many people are using this right now. The recording and its analysis are not affected.",
  );
  expect(screen.getByText("so it is")).toBeInTheDocument();
  expect(screen.queryByText("The voice:")).toBeNull(); // it would be out of date
  expect(socket.close).toHaveBeenCalledWith(1000);
  expect(Context.all[0]!.state).toBe("closed");
  act(() => socket.onclose!());
  expect(screen.getByRole("status")).toHaveTextContent("Many people");
});

test.each([
  ["before it is ready", false, "The service did not accept the connection."],
  ["after it was ready", true, "The connection to the service was lost."],
])("connection closed by the service %s shows a note", async (_, ready, reason) => {
  const { socket } = await show();
  if (ready) socket.receive({ type: "ready", speech: true });
  act(() => socket.onclose!());
  expect(screen.getByRole("status")).toHaveTextContent(reason);
  expect(Context.all[0]!.state).toBe("closed");
});

test.each([
  ["opens", false],
  ["is open", true],
])("five seconds of unsent sound end the live view while the connection %s", async (_, open) => {
  const { socket } = await show();
  if (open) {
    socket.open();
    socket.bufferedAmount = 5 * 2 * 16_000;
    Node.last.record();
    expect(screen.getByRole("status")).toBeEmptyDOMElement();
    socket.bufferedAmount++;
    Node.last.record();
  } else {
    Node.last.record(50);
    expect(screen.getByRole("status")).toBeEmptyDOMElement();
    Node.last.record();
  }
  expect(screen.getByRole("status")).toHaveTextContent("The connection is too slow for it.");
  expect(socket.close).toHaveBeenCalledWith(1000);
});

test("service that sends nothing for fifteen seconds ends the live view", async () => {
  const { socket } = await show();
  const now = vi.spyOn(performance, "now").mockReturnValue(1_000_000);
  socket.open();
  socket.receive({ type: "ready", speech: true });
  now.mockReturnValue(1_015_000);
  Node.last.record();
  expect(screen.getByRole("status")).toBeEmptyDOMElement();
  now.mockReturnValue(1_015_001);
  Node.last.record();
  expect(screen.getByRole("status")).toHaveTextContent("The service does not respond.");
});

test("browser without an audio worklet shows a note", async () => {
  vi.stubGlobal("AudioWorkletNode", undefined);
  render(<Live stream={stream} />);
  expect(await screen.findByText(/This browser can't send sound while it records/)).toBeInTheDocument();
  expect(Context.all[0]!.state).toBe("closed");
});

test("live view unmounted closes the connection and the audio context", async () => {
  const { socket, unmount } = await show();
  socket.open();
  unmount();
  expect(socket.close).toHaveBeenCalledWith(1000);
  expect(Context.all.map(({ state }) => state)).toEqual(["closed"]);
  Node.last.record(); // a batch that was under way
  expect(socket.sent).toHaveLength(1);
});

test("live view unmounted before it connects opens no connection", async () => {
  const { unmount } = render(<Live stream={stream} />);
  unmount();
  await act(async () => {});
  expect(Socket.all).toEqual([]);
  expect(Context.all.map(({ state }) => state)).toEqual(["closed"]);
});

test("recording shows the live view until it ends", async () => {
  const { socket, sent } = await record();
  expect(screen.getByRole("region", { name: "While you speak" })).toBeInTheDocument();
  expect(screen.queryByText(/Your answer appears here/)).toBeNull();
  await userEvent.click(screen.getByRole("tab", { name: "Type" }));
  await userEvent.click(screen.getByRole("tab", { name: "Speak" }));
  expect(socket.close).not.toHaveBeenCalled();
  await stop();
  expect(screen.queryByRole("region", { name: "While you speak" })).toBeNull();
  expect(socket.close).toHaveBeenCalledWith(1000);
  expect(sent).toHaveLength(1);
});

test("recording goes on and is analysed after an error of the live view", async () => {
  const { socket, sent } = await record();
  socket.receive({ type: "error", code: "busy", message: "Many people are using this right now." });
  expect(screen.getByText(/The live view is not available: Many people/)).toBeInTheDocument();
  expect(screen.queryByRole("alert")).toBeNull();
  await stop();
  expect(screen.queryByText(/The live view is not available/)).toBeNull();
  expect(sent).toEqual([expect.any(Blob)]);
});

test("recording goes on and is analysed after a message that can't be shown", async () => {
  const { socket, sent } = await record();
  vi.spyOn(console, "error").mockImplementation(() => {}); // React logs the error
  socket.receive({ ...utterance, transcript: { text: "so it is" } as unknown as string });
  expect(screen.getByText(/The live view is not available: An unexpected error/)).toBeInTheDocument();
  expect(socket.close).toHaveBeenCalledWith(1000);
  await stop();
  expect(sent).toEqual([expect.any(Blob)]);
});

test("live view scrolls into view in browsers where that returns a promise", async () => {
  const scrollIntoView = vi.fn(async () => {});
  Object.assign(HTMLElement.prototype, { scrollIntoView });
  const { unmount } = await show();
  expect(scrollIntoView).toHaveBeenCalledWith({ block: "nearest" });
  unmount();
  Object.assign(HTMLElement.prototype, { scrollIntoView: undefined });
});

const liveSwitch = () => screen.getByRole("checkbox", { name: "Show the emotion while I speak" });

test("switch of the live view is on at first, and is remembered", async () => {
  const { unmount } = render(<App />);
  expect(liveSwitch()).toBeChecked();
  expect(screen.getByText(/The sound is sent to the service while you record/)).toBeInTheDocument();
  await userEvent.click(liveSwitch());
  expect(screen.getByText(/Nothing is sent while you record/)).toBeInTheDocument();
  unmount();
  render(<App />);
  expect(liveSwitch()).not.toBeChecked();
});

test("recording with the live view off opens no connection, shows nothing, and is analysed", async () => {
  localStorage.setItem("emoserve.live", "false");
  const { sent } = await record(false);
  expect(document.querySelector(".outcome")).toHaveTextContent("");
  expect(screen.queryByRole("region", { name: "While you speak" })).toBeNull();
  await stop();
  expect(sent).toEqual([expect.any(Blob)]);
  expect(Socket.all).toEqual([]);
});

test("recording that is stopped to be heard first sends nothing with the live view off", async () => {
  localStorage.setItem("emoserve.live", "false");
  const { sent } = await record(false);
  await userEvent.click(screen.getByRole("button", { name: "Stop and listen first" }));
  expect(await screen.findByText("It is not analysed yet.")).toBeInTheDocument();
  expect(sent).toEqual([]);
  expect(Socket.all).toEqual([]);
});
