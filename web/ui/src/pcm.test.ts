import { expect, test, vi } from "vitest";

interface Processor {
  port: { postMessage: (sound: ArrayBuffer) => void };
  process: (inputs: Float32Array[][]) => boolean;
}

const load = import.meta.glob("./pcm.worklet.js")["./pcm.worklet.js"]!;

test("pcm worklet posts 16-bit samples in batches of 100 ms", async () => {
  let Pcm: (new () => Processor) | undefined;
  const posted: Int16Array[] = [];
  vi.stubGlobal("sampleRate", 40); // a batch has 4 samples
  vi.stubGlobal("AudioWorkletProcessor", class {
    port = { postMessage: (sound: ArrayBuffer) => posted.push(new Int16Array(sound)) };
  });
  vi.stubGlobal("registerProcessor", (_: string, registered: new () => Processor) => (Pcm = registered));
  await load();
  const processor = new Pcm!();
  expect(processor.process([[]])).toBe(true); // no microphone is connected yet
  processor.process([[Float32Array.of(0, 0.5, -0.5)]]);
  expect(posted).toEqual([]);
  processor.process([[Float32Array.of(1.5, -1.5, 1)]]);
  expect(posted).toEqual([Int16Array.of(0, 16384, -16383, 32767)]);
  processor.process([[Float32Array.of(-1, 0)]]);
  expect(posted[1]).toEqual(Int16Array.of(-32767, 32767, -32767, 0));
});
