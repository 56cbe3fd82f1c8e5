import { act, fireEvent, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import { SpeechInput } from "./components/SpeechInput";
import { Recorder } from "./fakes";
import { useRecorder } from "./recorder";

const track = { stop: vi.fn() };
const microphone = { getTracks: () => [track] };
const onFinish = vi.fn();
const onError = vi.fn();

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
  [track.stop, onFinish, onError].forEach((mock) => mock.mockClear());
});

function open(getUserMedia?: () => Promise<unknown>, limit = 60) {
  vi.stubGlobal("navigator", { ...navigator, mediaDevices: getUserMedia && { getUserMedia } });
  return render(<Speech limit={limit} />);
}

function Speech({ limit }: { limit: number }) {
  return <SpeechInput recorder={useRecorder(limit, onFinish, onError)} limit={limit} busy={false} live={false} onLive={() => {}} />;
}

const record = () => userEvent.click(screen.getByRole("button", { name: "Record" }));

test("recorder stopped by the user sends the recording and releases the microphone", async () => {
  open(async () => microphone);
  await record();
  await userEvent.click(await screen.findByRole("button", { name: "Stop and analyse" }));
  expect(onFinish).toHaveBeenCalledOnce();
  expect(onFinish.mock.calls[0]![0].type).toBe("audio/webm;codecs=opus");
  expect(onFinish.mock.calls[0]![1]).toBe(true);
  expect(track.stop).toHaveBeenCalled();
});

test("recorder stops half a second before the limit", async () => {
  open(async () => microphone, 1);
  const begin = performance.now();
  await record();
  await vi.waitFor(() => expect(onFinish).toHaveBeenCalledWith(expect.any(Blob), true));
  expect(performance.now() - begin).toBeLessThan(1000);
});

test("recording that is stopped to be heard first is not analysed", async () => {
  open(async () => microphone);
  await record();
  await userEvent.click(await screen.findByRole("button", { name: "Stop and listen first" }));
  expect(onFinish).toHaveBeenCalledWith(expect.any(Blob), false);
});

test("recorder works where the level can't be measured", async () => {
  vi.stubGlobal("AudioContext", undefined);
  open(async () => microphone);
  await record();
  await userEvent.click(await screen.findByRole("button", { name: "Stop and analyse" }));
  expect(onFinish).toHaveBeenCalledOnce();
  expect(onError).not.toHaveBeenCalled();
});

test("recorder that hears nothing says so", async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  open(async () => microphone);
  fireEvent.click(screen.getByRole("button", { name: "Record" }));
  await act(() => vi.advanceTimersByTimeAsync(3500));
  expect(screen.getByText(/Too quiet to hear/)).toBeInTheDocument();
  vi.useRealTimers();
});

test("recorder unmounted while recording sends nothing and releases the microphone", async () => {
  const started = vi.spyOn(Recorder.prototype, "start");
  const { unmount } = open(async () => microphone);
  await record();
  await screen.findByRole("button", { name: "Stop and analyse" });
  unmount();
  expect(track.stop).toHaveBeenCalled();
  (started.mock.contexts[0] as Recorder).stop(); // as browsers do when the microphone is released
  expect(onFinish).not.toHaveBeenCalled();
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
