/** The gateway's API, and every way in which it can fail, in a sentence. */

import type { Emotion, Probabilities, Status } from "./emotions";

export interface Analysis {
  transcript: string | null;
  /** Whether the transcript is judged; null where there is none. */
  understood: boolean | null;
  text: string;
  label: Emotion;
  confidence: number;
  status: Status;
  probabilities: Probabilities;
  audio_probabilities: Probabilities | null;
  text_probabilities: Probabilities | null;
  seconds: number | null;
  /** Probabilities are null where there is no sound. */
  timeline: { start: number; end: number; probabilities: Probabilities | null }[];
  checkpoint: string;
  untrained: string[];
  timings: { decode_ms: number; answer_ms: number; timeline_ms: number; total_ms: number };
}

export interface Health {
  speech: boolean;
  limits: { seconds: number; bytes: number; characters: number };
}

export interface Input {
  audio?: Blob;
  text?: string;
}

/** Something that did not work; `message` is a sentence, `retryAfter` in seconds. */
export class Failure extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

const KEY = "emoserve.key"; // in the browser's storage, until its tab is closed
let key: string | null = null; // as well, for where storage is forbidden
export const AWAY = new Failure("away", "The service can't be reached. Check your connection, or try again in a moment.");

export function setKey(given: string): void {
  key = given;
  try {
    sessionStorage.setItem(KEY, given);
  } catch {
    // forbidden: it lasts until the page is closed
  }
}

function getKey(): string | null {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return key;
  }
}

export async function health(): Promise<Health> {
  return call("/api/health", {});
}

export async function analyze(input: Input, signal: AbortSignal): Promise<Analysis> {
  const body = new FormData();
  if (input.audio) body.set("audio", input.audio, "recording");
  if (input.text?.trim()) body.set("text", input.text);
  const held = getKey();
  return call("/api/analyze", { method: "POST", body, signal, headers: held ? { "X-API-Key": held } : {} });
}

async function call<Answer>(path: string, options: RequestInit): Promise<Answer> {
  let response: Response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw AWAY;
  }
  const body: unknown = await response.json().catch(() => null);
  if (response.ok && body) return body as Answer;
  const { code, message } = (body ?? {}) as { code?: string; message?: string };
  if (!code || !message) throw AWAY; // something between us and the gateway answered
  const retryAfter = Number(response.headers.get("Retry-After")) || undefined;
  throw new Failure(code, message, retryAfter);
}
