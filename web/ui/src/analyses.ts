/** Runs jobs one after the other, and keeps the user's recordings until they are answered or discarded. */

import { useCallback, useEffect, useRef, useState } from "react";

import { type Analysis, analyze, ApiError, UNREACHABLE } from "./api";
import type { Job } from "./job";

const AUTOMATIC_RETRIES = 5; // of one job
const RETRIED_CODES = ["busy", "too_often"]; // errors that end by waiting

export interface Failure {
  error: ApiError;
  /** The job that failed; absent if nothing was sent. */
  job?: Job;
  /** Whether the job is sent again by itself after `error.retryAfter`. */
  automatic: boolean;
}

export interface Analyses {
  /** The jobs without an answer; the first one is running unless it failed. */
  jobs: Job[];
  failure: Failure | null;
  /** The user's recordings without an answer. */
  kept: Job[];
  /** Sends jobs after those that wait; a job that failed is given up. */
  send: (jobs: Job[]) => void;
  fail: (error: ApiError) => void;
  /** Keeps a recording that is not sent yet. */
  keep: (job: Job) => void;
  /** Sends the failed job again. */
  retry: () => void;
  /** Closes the failure; other jobs go on. */
  dismiss: () => void;
  cancel: () => void;
  discard: (job: Job) => void;
}

/**
 * Runs jobs one after the other.
 *
 * @param onStart called before a job is sent
 * @param onAnswer receives each answer
 */
export function useAnalyses(onStart: () => void, onAnswer: (job: Job, analysis: Analysis) => void): Analyses {
  const [jobs, setJobs] = useState<Job[]>([]);
  const [failure, setFailure] = useState<Failure | null>(null);
  const [kept, setKept] = useState<Job[]>([]);
  const retries = useRef(0);
  const job = jobs[0];
  const failed = failure?.job !== undefined;

  useEffect(() => {
    if (!job || failed) return;
    const controller = new AbortController();
    onStart();
    analyze(job, controller.signal).then(
      (analysis) => {
        retries.current = 0;
        setKept((recordings) => recordings.filter((one) => one !== job));
        setJobs((waiting) => waiting.filter((one) => one !== job));
        onAnswer(job, analysis);
      },
      (reason: unknown) => {
        if (controller.signal.aborted) return;
        if (job.own) setKept((recordings) => including(recordings, [job]));
        const error = reason instanceof ApiError ? reason : UNREACHABLE;
        const automatic = RETRIED_CODES.includes(error.code) && !!error.retryAfter && retries.current++ < AUTOMATIC_RETRIES;
        setFailure({ error, job, automatic });
      },
    );
    return () => controller.abort();
  }, [job, failed, onStart, onAnswer]);

  const send = useCallback(
    (given: Job[]) => {
      retries.current = 0;
      setJobs((waiting) => [...waiting.filter((one) => one !== failure?.job), ...given]);
      setFailure(null);
    },
    [failure],
  );
  const fail = useCallback((error: ApiError) => setFailure((shown) => (shown?.job ? shown : { error, automatic: false })), []);
  const keep = useCallback((recording: Job) => setKept((recordings) => including(recordings, [recording])), []);
  const retry = useCallback(() => setFailure(null), []);
  const dismiss = useCallback(() => {
    setJobs((waiting) => waiting.filter((one) => one !== failure?.job));
    setFailure(null);
  }, [failure]);
  const cancel = useCallback(() => {
    setKept((recordings) => including(recordings, jobs.filter((one) => one.own)));
    setJobs([]);
  }, [jobs]);
  const discard = useCallback((recording: Job) => setKept((recordings) => recordings.filter((one) => one !== recording)), []);
  return { jobs, failure, kept, send, fail, keep, retry, dismiss, cancel, discard };
}

/** Returns recordings with those of `others` that are not among them. */
function including(recordings: Job[], others: Job[]): Job[] {
  return [...recordings, ...others.filter((one) => !recordings.includes(one))];
}
