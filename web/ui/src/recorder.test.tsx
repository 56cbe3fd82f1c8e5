import { act, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import { SpeechInput } from "./components/SpeechInput";

const track = { stop: vi.fn() };
const microphone = { getTracks: () => [track] };
const onJob = vi.fn();
const onFailure = vi.fn();

/** What a browser has, as far as recording needs it. */
class Recorder {
  static isTypeSupported = () => true;
  state = "inactive";
  ondataavailable?: (event: { data: Blob }) => void;
  onstop?: () => void;
  constructor(
    readonly stream: unknown,
    readonly options: { mimeType: string },
  ) {}
  get mimeType() {
    return this.options.mimeType;
  }
  start() {
    this.state = "recording";
  }
  stop() {
    this.state = "inactive";
    this.ondataavailable?.({ data: new Blob(["sound"]) });
    this.onstop?.();
  }
}

beforeEach(() => {
  vi.stubGlobal("MediaRecorder", Recorder);
  vi.stubGlobal(
    "AudioContext",
    class {
      createMediaStreamSource = () => ({ connect: () => {} });
      close = () => Promise.resolve();
    },
  );
  vi.stubGlobal(
    "AnalyserNode",
    class {
      fftSize = 4;
      getFloatTimeDomainData() {}
    },
  );
  [track.stop, onJob, onFailure].forEach((mock) => mock.mockClear());
});

function open(getUserMedia?: () => Promise<unknown>, limit = 60) {
  vi.stubGlobal("navigator", { ...navigator, mediaDevices: getUserMedia && { getUserMedia } });
  return render(<SpeechInput limit={limit} busy={false} onJob={onJob} onFailure={onFailure} />);
}

const record = () => userEvent.click(screen.getByRole("button", { name: "Record" }));

test("what was recorded is sent, and the microphone goes off", async () => {
  open(async () => microphone);
  await record();
  await userEvent.click(await screen.findByRole("button", { name: "Stop and analyse" }));
  expect(onJob).toHaveBeenCalledOnce();
  expect(onJob.mock.calls[0]![0].audio.type).toBe("audio/webm;codecs=opus");
  expect(track.stop).toHaveBeenCalled();
});

test("a recording ends at the limit", async () => {
  open(async () => microphone, 0.1);
  await record();
  await vi.waitFor(() => expect(onJob).toHaveBeenCalledOnce());
});

test("who goes elsewhere while recording sends nothing, and is not listened to", async () => {
  const started = vi.spyOn(Recorder.prototype, "start");
  const { unmount } = open(async () => microphone);
  await record();
  await screen.findByRole("button", { name: "Stop and analyse" });
  unmount();
  expect(track.stop).toHaveBeenCalled();
  (started.mock.contexts[0] as Recorder).stop(); // as browsers do when the microphone goes off
  expect(onJob).not.toHaveBeenCalled();
});

test("who goes elsewhere while the browser asks is not listened to", async () => {
  let allow: (stream: unknown) => void = () => {};
  const { unmount } = open(() => new Promise((resolve) => (allow = resolve)));
  await record();
  unmount();
  await act(async () => allow(microphone));
  expect(track.stop).toHaveBeenCalled();
});

test("a microphone that can't be recorded goes off", async () => {
  vi.stubGlobal(
    "MediaRecorder",
    class {
      static isTypeSupported = () => false;
      constructor() {
        throw new DOMException("", "NotSupportedError");
      }
    },
  );
  open(async () => microphone);
  await record();
  expect(onFailure.mock.calls[0]![0].message).toContain("could not be used");
  expect(track.stop).toHaveBeenCalled();
});

test.each([
  ["NotAllowedError", "blocked"],
  ["NotFoundError", "No microphone"],
  ["NotReadableError", "another program"],
  ["AbortError", "could not be used"],
])("%s is explained", async (name, words) => {
  open(() => Promise.reject(new DOMException("", name)));
  await record();
  expect(onFailure.mock.calls[0]![0].message).toContain(words);
  expect(screen.getByRole("button", { name: "Record" })).toBeEnabled();
});

test("a page that may not record says why", async () => {
  open();
  await record();
  expect(onFailure.mock.calls[0]![0].message).toContain("https");
});
