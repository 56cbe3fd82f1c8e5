/** Client of the gateway's HTTP API. Every error it throws has a message for people. */

import type { Emotion, Probabilities, Status } from "./emotions";

export interface Analysis {
  transcript: string | null;
  /** Whether the answer uses the transcript; null if there is none. */
  understood: boolean | null;
  text: string;
  label: Emotion;
  confidence: number;
  status: Status;
  probabilities: Probabilities;
  audio_probabilities: Probabilities | null;
  text_probabilities: Probabilities | null;
  seconds: number | null;
  /** Windows of the recording; probabilities are null in a window without sound. */
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

/** An error with a `message` for people, a `code` for programs and, if a retry may help, `retryAfter` in seconds. */
export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

const STORAGE_KEY = "emoserve.key"; // in sessionStorage: kept until the tab is closed
let key: string | null = null; // fallback if the browser forbids storage
export const UNREACHABLE = new ApiError("away", "The service can't be reached. Check your connection, or try again in a moment.");

export function setKey(given: string): void {
  key = given;
  try {
    sessionStorage.setItem(STORAGE_KEY, given);
  } catch {
    // storage is forbidden: the key lasts until the page is closed
  }
}

/** Returns the access key that the user entered. */
export function getKey(): string | null {
  try {
    return sessionStorage.getItem(STORAGE_KEY);
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
  const apiKey = getKey();
  return call("/api/analyze", { method: "POST", body, signal, headers: apiKey ? { "X-API-Key": apiKey } : {} });
}

async function call<Answer>(path: string, options: RequestInit): Promise<Answer> {
  let response: Response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw UNREACHABLE;
  }
  const body: unknown = await response.json().catch(() => null);
  if (response.ok && body) return body as Answer;
  const { code, message } = (body ?? {}) as { code?: string; message?: string };
  if (!code || !message) throw UNREACHABLE; // the answer comes from a proxy, not from the gateway
  const retryAfter = Number(response.headers.get("Retry-After")) || undefined;
  throw new ApiError(code, message, retryAfter);
}
