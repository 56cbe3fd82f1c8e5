/** Runs jobs one after the other, and keeps the user's recordings until they are answered or discarded. */

import { useCallback, useEffect, useReducer, useRef } from "react";

import { ApiError, type Limits, UNREACHABLE } from "./api";
import type { Job } from "./job";
import { run } from "./run";
import type { Answer, LongAnalysis } from "./utterances";

const AUTOMATIC_RETRIES = 5; // of one job
const RETRIED_CODES = ["busy", "too_often", "away"]; // errors that end by waiting
const BLOCKING_CODES = [...RETRIED_CODES, "key"]; // errors that other jobs would get as well

export interface Failure {
  error: ApiError;
  /** The job that failed; absent if nothing was sent. */
  job?: Job;
  /** Whether the job is sent again by itself after `error.retryAfter`. */
  automatic: boolean;
}

/** A file of several that has no answer. */
export interface Rejected {
  source: string;
  message: string;
}

interface State {
  /** The jobs without an answer; the first one is running unless it failed. */
  jobs: Job[];
  /** Number of jobs that ended since there were none. */
  finished: number;
  /** What has arrived of the answer to a long recording. */
  partial: LongAnalysis | null;
  failure: Failure | null;
  /** Files that got no answer while others were analysed. */
  rejected: Rejected[];
  /** The user's recordings without an answer. */
  kept: Job[];
  /** Automatic retries of the first job so far. */
  retries: number;
}

type Action =
  | { type: "send"; jobs: Job[]; rejected: Rejected[] }
  | { type: "progress"; partial: LongAnalysis }
  | { type: "answered"; job: Job }
  | { type: "failed"; job: Job; error: ApiError }
  | { type: "fail"; error: ApiError }
  | { type: "keep" | "discard"; recordings: Job[] }
  | { type: "retry" | "dismiss" | "cancel" | "close" };

const IDLE: State = { jobs: [], finished: 0, partial: null, failure: null, rejected: [], kept: [], retries: 0 };

export interface Analyses extends State {
  /** Sends jobs after those that wait; a job that failed is given up. `rejected` are files that can't be sent. */
  send: (jobs: Job[], rejected?: Rejected[]) => void;
  fail: (error: ApiError) => void;
  /** Keeps a recording that is not sent yet. */
  keep: (job: Job) => void;
  /** Sends the failed job again. */
  retry: () => void;
  /** Closes the failure; other jobs go on. */
  dismiss: () => void;
  /** Ends all jobs; recordings are kept. */
  cancel: () => void;
  discard: (jobs: Job[]) => void;
  /** Closes the list of rejected files. */
  close: () => void;
}

/**
 * Runs jobs one after the other.
 *
 * @param limits of the service
 * @param onStart called before a job is sent
 * @param onAnswer receives each answer; that of a long recording may be incomplete, and comes again if it is analysed again
 */
export function useAnalyses(limits: Limits, onStart: (job: Job) => void, onAnswer: (job: Job, answer: Answer) => void): Analyses {
  const [state, dispatch] = useReducer(reduce, IDLE);
  const latest = useRef(limits); // the running job is not sent again when the limits are polled
  useEffect(() => {
    latest.current = limits;
  }, [limits]);
  const { jobs, partial } = state;
  const job = jobs[0];
  const failed = state.failure?.job !== undefined;
  const longest = useRef(new WeakMap<Blob, LongAnalysis>()); // incomplete answer to each recording
  const onPartial = useCallback(
    (job: Job, answer: LongAnalysis) => {
      const known = longest.current.get(job.audio!);
      const best = known && known.utterances.length > answer.utterances.length ? known : answer; // an attempt may get less far
      longest.current.set(job.audio!, best);
      if (best.utterances.length) onAnswer(job, best);
    },
    [onAnswer],
  );

  useEffect(() => {
    if (!job || failed) return;
    const controller = new AbortController();
    const { signal } = controller;
    let arrived: LongAnalysis | undefined;
    onStart(job);
    run(job, latest.current, signal, (answer) => {
      arrived = answer;
      if (!signal.aborted) dispatch({ type: "progress", partial: answer });
    }).then(
      (answer) => {
        if (signal.aborted) return;
        dispatch({ type: "answered", job });
        onAnswer(job, answer);
      },
      (reason: unknown) => {
        if (signal.aborted) return;
        if (arrived) onPartial(job, arrived);
        dispatch({ type: "failed", job, error: reason instanceof ApiError ? reason : UNREACHABLE });
      },
    );
    return () => controller.abort();
  }, [job, failed, onStart, onAnswer, onPartial]);

  const send = useCallback((given: Job[], rejected: Rejected[] = []) => dispatch({ type: "send", jobs: given, rejected }), []);
  const fail = useCallback((error: ApiError) => dispatch({ type: "fail", error }), []);
  const keep = useCallback((recording: Job) => dispatch({ type: "keep", recordings: [recording] }), []);
  const discard = useCallback((recordings: Job[]) => dispatch({ type: "discard", recordings }), []);
  const retry = useCallback(() => dispatch({ type: "retry" }), []);
  const dismiss = useCallback(() => dispatch({ type: "dismiss" }), []);
  const close = useCallback(() => dispatch({ type: "close" }), []);
  const cancel = useCallback(() => {
    if (job && partial) onPartial(job, partial);
    dispatch({ type: "cancel" });
  }, [job, partial, onPartial]);
  return { ...state, send, fail, keep, retry, dismiss, cancel, discard, close };
}

function reduce(state: State, action: Action): State {
  const { jobs, finished, failure, rejected, kept, retries } = state;
  switch (action.type) {
    case "send": {
      const waiting = jobs.filter((one) => one !== failure?.job);
      const sent = action.jobs.map(({ source }) => source);
      return {
        ...state,
        jobs: [...waiting, ...action.jobs],
        finished: waiting.length ? finished : 0,
        failure: null,
        rejected: [...rejected.filter(({ source }) => !sent.includes(source)), ...action.rejected],
        retries: 0,
      };
    }
    case "progress":
      return { ...state, partial: action.partial };
    case "answered":
      return { ...without(state, action.job), kept: kept.filter((one) => one !== action.job) };
    case "failed": {
      const { job, error } = action;
      // a file that can never be used is on the user's disk
      const useless = error.code === "unusable" && job.audio instanceof File;
      const next = { ...state, partial: null, kept: useless ? kept : including(kept, [job]) };
      if (finished + jobs.length > 1 && !BLOCKING_CODES.includes(error.code)) {
        return { ...without(next, job), rejected: [...rejected, { source: job.source, message: error.message }] };
      }
      const automatic = RETRIED_CODES.includes(error.code) && !!error.retryAfter && retries < AUTOMATIC_RETRIES;
      return { ...next, failure: { error, job, automatic }, retries: retries + 1 };
    }
    case "fail":
      return failure?.job ? state : { ...state, failure: { error: action.error, automatic: false } };
    case "keep":
      return { ...state, kept: including(kept, action.recordings) };
    case "discard":
      return { ...state, kept: kept.filter((one) => !action.recordings.includes(one)) };
    case "retry":
      return { ...state, failure: null };
    case "dismiss":
      return { ...(failure?.job ? without(state, failure.job) : state), failure: null };
    case "cancel":
      return { ...state, jobs: [], finished: 0, partial: null, failure: null, kept: including(kept, jobs) };
    case "close":
      return { ...state, rejected: [] };
  }
}

/** Returns the state after a job has ended. */
function without(state: State, job: Job): State {
  return { ...state, jobs: state.jobs.filter((one) => one !== job), finished: state.finished + 1, partial: null, retries: 0 };
}

/** Returns recordings with the user's own ones among some jobs. */
function including(recordings: Job[], some: Job[]): Job[] {
  return [...recordings, ...some.filter((one) => one.own && !recordings.includes(one))];
}
