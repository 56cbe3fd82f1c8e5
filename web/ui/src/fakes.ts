/** Stand-ins that several tests share. */

import { vi } from "vitest";

import type { Analysis } from "./api";
import type { LongAnalysis, Utterance } from "./utterances";

export const fused = { neutral: 0.08, frustration: 0.13, anger: 0.05, sadness: 0.7, excitement: 0.04 };
export const words = { ...fused, sadness: 0.3, neutral: 0.48 };

/** The answer to a typed text. */
export const answer: Analysis = {
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

export const utterance: Utterance = {
  start: 63.4,
  end: 65.4,
  transcript: "so it is",
  label: "sadness",
  status: "ok",
  confidence: 0.93,
  probabilities: fused,
  error: null,
};

const anger = { neutral: 0.1, frustration: 0.3, anger: 0.45, sadness: 0.1, excitement: 0.05 };

/** The answer to a long recording: a sure utterance of 2 s, an unsure one of 1 s and one of 1 s that failed. */
export const long: LongAnalysis = {
  seconds: 70,
  total: 3,
  speech: true,
  utterances: [
    { ...utterance, start: 1, end: 3 },
    { ...utterance, start: 5.5, end: 6.5, transcript: "=no", label: "anger", status: "unsure", confidence: 0.4, probabilities: anger },
    {
      ...{ start: 63.5, end: 64.5, transcript: null, label: null, status: null, confidence: null, probabilities: null },
      error: "The answer took too long.",
    },
  ],
  complete: true,
  checkpoint: "3fa9c1d20b7e",
  untrained: [],
};

/** Returns the lines of the gateway's response for an answer to a long recording. */
export function linesOf({ seconds, total, speech, utterances, complete, checkpoint, untrained }: LongAnalysis): string[] {
  return [
    { type: "recording", seconds, utterances: total, speech },
    ...utterances.map((one) => ({ type: "utterance", ...one })),
    ...(complete ? [{ type: "end", checkpoint, untrained }] : []),
  ].map((line) => `${JSON.stringify(line)}\n`);
}

/** A response whose lines the test sends one after the other; like the gateway's, it ends after the last one. */
export class Stream {
  private controller!: ReadableStreamDefaultController<Uint8Array>;
  readonly cancel = vi.fn();
  readonly response = new Response(
    new ReadableStream({
      start: (controller) => {
        this.controller = controller;
      },
      cancel: this.cancel,
    }),
  );
  send(text: string) {
    this.controller.enqueue(new TextEncoder().encode(text));
    if (text.includes('"type":"end"')) this.controller.close();
  }
  close() {
    this.controller.close();
  }
  fail(error: unknown) {
    this.controller.error(error);
  }
}

/** Stand-in for MediaRecorder. */
export class Recorder {
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
