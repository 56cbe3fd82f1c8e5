/** Sends the sound of the microphone to the gateway while somebody records, and receives its emotion and words. */

import { useEffect, useReducer } from "react";

import { getKey } from "./api";
import type { Probabilities } from "./emotions";
import type { Utterance } from "./utterances";

/** Emotion of the voice in the last 3 s before `end` seconds, smoothed; null if there was no sound. */
export interface Voice {
  end: number;
  probabilities: Probabilities | null;
}

/** A message of the gateway. After an error the gateway closes the connection. */
export type LiveMessage =
  | { type: "ready"; speech: boolean }
  | ({ type: "voice" } & Voice)
  | ({ type: "utterance" } & Utterance)
  | { type: "error"; code: string; message: string };

export interface LiveView {
  /** The updates of the last HISTORY_S seconds, oldest first. */
  voices: Voice[];
  utterances: Utterance[];
  /** Why there are no more updates, as a sentence; null while the connection is open. */
  problem: string | null;
}

export const HISTORY_S = 30; // for which updates of the voice are kept
const RATE_HZ = 16_000; // the service's own rate
const MAX_BACKLOG_S = 5; // of sound that is not sent yet
const MAX_SILENCE_S = 15; // without a message of the service
const NORMAL_CLOSURE = 1000;

const PROBLEM = {
  browser: "This browser can't send sound while it records.",
  rejected: "The service did not accept the connection.",
  lost: "The connection to the service was lost.",
  slow: "The connection is too slow for it.",
  stalled: "The service does not respond.",
};

/** Returns the live view of a microphone's stream; the connection is closed on unmount. */
export function useLive(stream: MediaStream): LiveView {
  const [view, dispatch] = useReducer(update, { voices: [], utterances: [], problem: null });
  useEffect(() => startLive(stream, dispatch), [stream]);
  return view;
}

function update(view: LiveView, message: LiveMessage): LiveView {
  switch (message.type) {
    case "voice":
      return { ...view, voices: [...view.voices.filter(({ end }) => end > message.end - HISTORY_S), message] };
    case "utterance":
      return { ...view, utterances: [...view.utterances, message] };
    case "error":
      return { ...view, problem: message.message };
    default:
      return view;
  }
}

/**
 * Sends a stream's sound to the gateway.
 *
 * @param onMessage receives the gateway's messages; the last one is an error if the connection ends by itself
 * @returns a function that closes the connection
 */
export function startLive(stream: MediaStream, onMessage: (message: LiveMessage) => void): () => void {
  let ended = false;
  let ready = false;
  let heardAt = performance.now();
  let context: AudioContext | undefined;
  let socket: WebSocket | undefined;
  const unsent: ArrayBuffer[] = []; // sound from before the connection opened

  function end() {
    ended = true;
    unsent.length = 0;
    socket?.close(NORMAL_CLOSURE);
    if (context && context.state !== "closed") void context.close();
  }

  function fail(message: string, code = "live") {
    if (ended) return;
    end();
    onMessage({ type: "error", code, message });
  }

  function send(sound: ArrayBuffer) {
    if (ended || !socket) return;
    if (socket.readyState === WebSocket.CONNECTING) unsent.push(sound);
    else socket.send(sound);
    const backlog = socket.bufferedAmount + unsent.length * sound.byteLength;
    if (backlog > MAX_BACKLOG_S * 2 * context!.sampleRate) fail(PROBLEM.slow);
    else if (performance.now() - heardAt > 1000 * MAX_SILENCE_S) fail(PROBLEM.stalled);
  }

  function receive(data: string) {
    if (ended) return;
    heardAt = performance.now();
    const message = JSON.parse(data) as LiveMessage;
    if (message.type === "error") return fail(message.message, message.code);
    ready ||= message.type === "ready";
    onMessage(message);
  }

  async function start() {
    let source: MediaStreamAudioSourceNode;
    try {
      context = new AudioContext({ sampleRate: RATE_HZ });
      source = context.createMediaStreamSource(stream);
    } catch {
      void context?.close();
      context = new AudioContext(); // Firefox does not resample a stream
      source = context.createMediaStreamSource(stream);
    }
    await context.resume();
    await context.audioWorklet.addModule(new URL("./pcm.worklet.js", import.meta.url));
    if (ended) return;
    const node = new AudioWorkletNode(context, "pcm", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = (event) => send(event.data as ArrayBuffer);
    source.connect(node).connect(context.destination); // browsers run connected nodes only; the output is silent
    const rate = context.sampleRate;
    const opened = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`);
    opened.onopen = () => {
      const key = getKey();
      opened.send(JSON.stringify({ type: "start", rate, ...(key ? { key } : {}) }));
      for (const sound of unsent.splice(0)) opened.send(sound);
    };
    opened.onmessage = (event) => receive(event.data as string);
    opened.onclose = () => fail(ready ? PROBLEM.lost : PROBLEM.rejected);
    socket = opened;
  }

  start().catch(() => fail(PROBLEM.browser));
  return end;
}
