import { act, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import { SpeechInput } from "./components/SpeechInput";

const track = { stop: vi.fn() };
const microphone = { getTracks: () => [track] };
const onJob = vi.fn();
const onError = vi.fn();

/** Stand-in for MediaRecorder. */
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
  [track.stop, onJob, onError].forEach((mock) => mock.mockClear());
});

function open(getUserMedia?: () => Promise<unknown>, limit = 60) {
  vi.stubGlobal("navigator", { ...navigator, mediaDevices: getUserMedia && { getUserMedia } });
  return render(<SpeechInput limit={limit} busy={false} onJob={onJob} onError={onError} />);
}

const record = () => userEvent.click(screen.getByRole("button", { name: "Record" }));

test("recorder stopped by the user sends the recording and releases the microphone", async () => {
  open(async () => microphone);
  await record();
  await userEvent.click(await screen.findByRole("button", { name: "Stop and analyse" }));
  expect(onJob).toHaveBeenCalledOnce();
  expect(onJob.mock.calls[0]![0].audio.type).toBe("audio/webm;codecs=opus");
  expect(track.stop).toHaveBeenCalled();
});

test("recorder at the limit sends the recording", async () => {
  open(async () => microphone, 0.1);
  await record();
  await vi.waitFor(() => expect(onJob).toHaveBeenCalledOnce());
});

test("recorder unmounted while recording sends nothing and releases the microphone", async () => {
  const started = vi.spyOn(Recorder.prototype, "start");
  const { unmount } = open(async () => microphone);
  await record();
  await screen.findByRole("button", { name: "Stop and analyse" });
  unmount();
  expect(track.stop).toHaveBeenCalled();
  (started.mock.contexts[0] as Recorder).stop(); // as browsers do when the microphone is released
  expect(onJob).not.toHaveBeenCalled();
});

test("recorder unmounted while the browser asks for permission releases the microphone", async () => {
  let allow: (stream: unknown) => void = () => {};
  const { unmount } = open(() => new Promise((resolve) => (allow = resolve)));
  await record();
  unmount();
  await act(async () => allow(microphone));
  expect(track.stop).toHaveBeenCalled();
});

test("recorder that MediaRecorder rejects releases the microphone", async () => {
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
  expect(onError.mock.calls[0]![0].message).toContain("could not be used");
  expect(track.stop).toHaveBeenCalled();
});

test.each([
  ["NotAllowedError", "blocked"],
  ["NotFoundError", "No microphone"],
  ["NotReadableError", "another program"],
  ["AbortError", "could not be used"],
])("recorder error %s gets a message", async (name, words) => {
  open(() => Promise.reject(new DOMException("", name)));
  await record();
  expect(onError.mock.calls[0]![0].message).toContain(words);
  expect(screen.getByRole("button", { name: "Record" })).toBeEnabled();
});

test("recorder on an insecure page reports that https is needed", async () => {
  open();
  await record();
  expect(onError.mock.calls[0]![0].message).toContain("https");
});
