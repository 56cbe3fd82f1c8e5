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

export interface Limits {
  /** Longest recording that gets one answer. */
  seconds: number;
  /** Longest recording that is answered utterance by utterance. */
  long_seconds: number;
  bytes: number;
  characters: number;
}

export interface Health {
  speech: boolean;
  /** Whether the service stores feedback. */
  feedback: boolean;
  limits: Limits;
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
export const RETRY_S = 10; // after a failure of which the service does not say when to retry
export const UNREACHABLE = new ApiError("away", "The service can't be reached. Check your connection, or try again in a moment.", RETRY_S);

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
  return call("/api/analyze", upload(body, signal));
}

/** Returns the options of a request that sends a form, with the access key. */
export function upload(body: FormData, signal?: AbortSignal): RequestInit {
  const apiKey = getKey();
  return { method: "POST", body, signal, headers: apiKey ? { "X-API-Key": apiKey } : {} };
}

export async function call<Body>(path: string, options: RequestInit): Promise<Body> {
  const response = await request(path, options);
  const body: unknown = response.ok ? await response.json().catch(() => null) : null;
  if (body) return body as Body;
  throw await failure(response);
}

/** Sends a request. Throws UNREACHABLE if there is no response. */
export async function request(path: string, options: RequestInit): Promise<Response> {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw isAbort(error) ? error : UNREACHABLE;
  }
}

/** Returns the error in a response of the gateway; anything else comes from a proxy. */
export async function failure(response: Response): Promise<ApiError> {
  const body = response.bodyUsed ? null : ((await response.json().catch(() => null)) as { code?: string; message?: string } | null);
  if (!body?.code || !body.message) return UNREACHABLE;
  return new ApiError(body.code, body.message, Number(response.headers.get("Retry-After")) || undefined);
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
