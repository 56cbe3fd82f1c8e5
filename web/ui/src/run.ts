/** Sends a job to the endpoint for its length. */

import { analyze, ApiError, type Limits } from "./api";
import { duration } from "./duration";
import { clock, span } from "./emotions";
import type { Job } from "./job";
import { analyzeLong, type Answer, type LongAnalysis } from "./utterances";

export const GRACE_S = 1; // by which the service accepts longer recordings

/**
 * Returns the answer to a job. Files that are too long for one answer are analysed utterance by utterance.
 *
 * @param onProgress receives the answer to a long recording so far
 */
export async function run(job: Job, limits: Limits, signal: AbortSignal, onProgress: (answer: LongAnalysis) => void): Promise<Answer> {
  const { audio, text } = job;
  // recordings made on the page, and examples, are no files and never too long
  if (!(audio instanceof File) || text?.trim()) return analyze(job, signal);
  const seconds = await duration(audio);
  signal.throwIfAborted();
  if (seconds !== null && seconds > limits.long_seconds + GRACE_S) throw tooLong(seconds, limits);
  if (seconds !== null && seconds > limits.seconds + GRACE_S) return analyzeLong(audio, signal, onProgress);
  try {
    return await analyze(job, signal);
  } catch (error) {
    // browsers can't read every format, and only estimate the length of some MP3 files
    const maybeLong = seconds === null || seconds > limits.seconds / 2;
    if (maybeLong && error instanceof ApiError && error.code === "unusable") return analyzeLong(audio, signal, onProgress);
    throw error;
  }
}

function tooLong(seconds: number, limits: Limits): ApiError {
  return new ApiError(
    "too_long",
    `The recording is too long (${clock(seconds)}); at most ${span(limits.long_seconds)} are accepted. ` +
      `Cut it into shorter files, or analyse its first ${span(limits.seconds)}.`,
  );
}
