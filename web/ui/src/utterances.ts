/** Utterances of long recordings and live streams, and the client of `POST /api/utterances`. */

import { type Analysis, ApiError, failure, isAbort, request, RETRY_S, upload, UNREACHABLE } from "./api";
import type { Emotion, Probabilities, Status } from "./emotions";

/** What was said without a pause, from `start` to `end` seconds. Fields are null if `error` says why there is no answer. */
export interface Utterance {
  start: number;
  end: number;
  /** Empty if no words were understood; null if the service does not recognise speech. */
  transcript: string | null;
  label: Emotion | null;
  status: Status | null;
  confidence: number | null;
  probabilities: Probabilities | null;
  error: string | null;
}

/** The answer to a long recording: its utterances in the order of time. */
export interface LongAnalysis {
  seconds: number;
  /** Number of utterances in the recording; `utterances` has fewer of them while the answer arrives, or if it broke off. */
  total: number;
  /** Whether utterances have a transcript. */
  speech: boolean;
  utterances: Utterance[];
  /** Whether everything has arrived; if not, `checkpoint` and `untrained` are not known. */
  complete: boolean;
  /** Digest of the weights that computed the answer; null if no utterance was answered. */
  checkpoint: string | null;
  untrained: string[];
}

export type Answer = Analysis | LongAnalysis;

export function isLong(answer: Answer): answer is LongAnalysis {
  return "utterances" in answer;
}

const LOST = new ApiError("away", "The connection to the service was lost before the answer was complete.", RETRY_S);

/** A line of the response. */
type Line =
  | { type: "recording"; seconds: number; utterances: number; speech: boolean }
  | ({ type: "utterance" } & Utterance)
  | { type: "end"; checkpoint: string | null; untrained: string[] }
  | { type: "error"; code: string; message: string };

/**
 * Analyses a long recording, utterance by utterance.
 *
 * @param onProgress receives the answer so far whenever more of it has arrived
 * @returns the complete answer
 */
export async function analyzeLong(audio: Blob, signal: AbortSignal, onProgress: (answer: LongAnalysis) => void): Promise<LongAnalysis> {
  const body = new FormData();
  body.set("audio", audio, "recording");
  const response = await request("/api/utterances", upload(body, signal));
  if (!response.ok || !response.body) throw await failure(response);
  let answer: LongAnalysis | undefined;
  try {
    for await (const lines of readLines(response.body)) {
      for (const line of lines) {
        if (line.type === "error") {
          if (answer) onProgress(answer);
          throw new ApiError(line.code, line.message, RETRY_S);
        }
        answer = add(answer, line);
      }
      // the response is read to its end: the gateway would count one that is cut off as cancelled
      if (answer && !answer.complete && lines.length) onProgress(answer);
    }
  } catch (error) {
    if (!answer?.complete) throw error;
  }
  if (!answer?.complete) throw LOST;
  return answer;
}

/** Returns the answer with one more line. */
function add(answer: LongAnalysis | undefined, line: Exclude<Line, { type: "error" }>): LongAnalysis {
  if (line.type === "recording") {
    const { seconds, utterances, speech } = line;
    return { seconds, total: utterances, speech, utterances: [], complete: false, checkpoint: null, untrained: [] };
  }
  if (!answer) throw UNREACHABLE; // the response comes from a proxy, not from the gateway
  if (line.type === "end") return { ...answer, complete: true, checkpoint: line.checkpoint, untrained: line.untrained };
  const { start, end, transcript, label, status, confidence, probabilities, error } = line;
  const utterance = { start, end, transcript, label, status, confidence, probabilities, error };
  return { ...answer, utterances: [...answer.utterances, utterance] };
}

/** Yields the lines that became complete with each part of a response. Throws LOST if the connection breaks. */
async function* readLines(stream: ReadableStream<Uint8Array>): AsyncGenerator<Line[]> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (rest + decoder.decode(value, { stream: !done })).split("\n");
      rest = done ? "" : lines.pop()!;
      yield lines.filter(Boolean).map((line) => JSON.parse(line) as Line);
      if (done) return;
    }
  } catch (error) {
    throw isAbort(error) ? error : LOST;
  } finally {
    reader.cancel().catch(() => {}); // after an error there is nothing to cancel
  }
}
