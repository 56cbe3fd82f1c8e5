/** The most recent analyses, stored in this browser only and without their recordings. */

import { EMOTIONS, type Emotion, type Probabilities, type Status, verdict } from "./emotions";
import type { Job } from "./job";
import { overviewOf } from "./overview";
import { type Answer, isLong } from "./utterances";

export interface Recent {
  id: number;
  when: string;
  source: string;
  /** What was said; of a long recording, what was said in all of its utterances. */
  text: string;
  /** The emotion; of a long recording, that with the largest share of the speaking time, null if there is none. */
  label: Emotion | null;
  status?: Status; // absent for long recordings, and in entries that an earlier version stored
  /** Probabilities of the emotions; of a long recording, their shares of the speaking time. */
  probabilities: Probabilities;
  // the next three are absent in entries that an earlier version stored
  confidence?: number;
  seconds?: number | null;
  /** Number of utterances; present for long recordings only. */
  utterances?: number;
  analysis?: Answer; // absent in entries that an earlier version stored, or whose answer no longer fitted into the storage
}

const STORAGE_KEY = "emoserve.recent";
const SHOWN_KEY = "emoserve.shown"; // in sessionStorage: the answer that this tab shows
const MAX_RECENT = 100;
const MAX_CHARACTERS = 4_000_000; // browsers store about 5 million for a site
let stored = true; // whether the storage has all analyses that this tab knows

const ids = new WeakMap<Job, number>();
let lastId = 0;

/** Returns the id of a job's analysis, which stays the same if the job is sent again. */
export function idOf(job: Job): number {
  if (!ids.has(job)) ids.set(job, (lastId = Math.max(Date.now(), lastId + 1)));
  return ids.get(job)!;
}

/** Returns the entry for the answer to a job. */
export function toRecent(job: Job, answer: Answer): Recent {
  const common = { id: idOf(job), when: new Date().toISOString(), source: job.source, analysis: answer };
  if (!isLong(answer)) {
    const { text, label, status, confidence, probabilities, seconds } = answer;
    return { ...common, text, label, status, confidence, probabilities, seconds };
  }
  const { seconds, utterances } = answer;
  const { label, shares } = overviewOf(utterances);
  const text = utterances.map(({ transcript }) => transcript).filter(Boolean).join(" ");
  return { ...common, text, label, probabilities: shares, seconds, utterances: utterances.length };
}

/** Returns the headline of an entry, such as "sadness" or "most often sadness". */
export function title({ label, status, probabilities, utterances }: Recent): string {
  if (!label) return "no emotion";
  return utterances === undefined ? verdict(status, label, probabilities) : `most often ${label}`;
}

export function load(): Recent[] {
  return read() ?? [];
}

/** Adds an analysis to the stored ones, which another tab may have changed; it replaces an earlier one of the same job. */
export function add(recent: Recent[], one: Recent): Recent[] {
  const known = (stored && read()) || recent;
  return save([one, ...known.filter(({ id }) => id !== one.id)].slice(0, MAX_RECENT));
}

/**
 * Stores the analyses and returns them.
 *
 * If they do not fit, the oldest ones are stored without their answers, then not at all.
 */
export function save(recent: Recent[]): Recent[] {
  stored = false;
  for (let size = MAX_CHARACTERS; size > 1000 && !stored; size /= 2) stored = write(fit(recent, size));
  return recent;
}

function write(recent: Recent[]): boolean {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(recent));
    return true;
  } catch {
    return false; // storage is full or forbidden
  }
}

/** Returns the analyses that fit into a number of characters: the newest ones with their answers. */
function fit(recent: Recent[], characters: number): Recent[] {
  const bare = recent.map((one) => ({ ...one, analysis: undefined }));
  const sizes = bare.map(sizeOf);
  const count = fitting(sizes, characters);
  const spare = characters - sum(sizes.slice(0, count));
  const answers = fitting(recent.map((one, index) => sizeOf(one) - sizes[index]!), spare);
  return bare.slice(0, count).map((one, index) => (index < answers ? recent[index]! : one));
}

function sizeOf(one: Recent): number {
  return JSON.stringify(one).length + 1;
}

/** Returns how many of these sizes, from the first one, have a sum of at most `most`. */
function fitting(sizes: number[], most: number): number {
  const over = sizes.findIndex((_, index) => sum(sizes.slice(0, index + 1)) > most);
  return over < 0 ? sizes.length : over;
}

function sum(sizes: number[]): number {
  return sizes.reduce((all, one) => all + one, 0);
}

/** Calls back when another tab has changed the list. Returns a function that ends this. */
export function watch(onChange: (recent: Recent[]) => void): () => void {
  const changed = (event: StorageEvent) => event.key === STORAGE_KEY && onChange(load());
  addEventListener("storage", changed);
  return () => removeEventListener("storage", changed);
}

/** Returns the analysis that this tab showed before it was reloaded; undefined if there is none. */
export function shown(recent: Recent[]): Recent | undefined {
  try {
    const id = Number(sessionStorage.getItem(SHOWN_KEY));
    return recent.find((one) => one.id === id && one.analysis);
  } catch {
    return undefined;
  }
}

/** Remembers which analysis this tab shows. */
export function remember(id: number): void {
  try {
    sessionStorage.setItem(SHOWN_KEY, String(id));
  } catch {
    // storage is forbidden: a reload shows no answer
  }
}

/** Returns the stored list; null if nothing is stored or can be read. */
function read(): Recent[] | null {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "null");
    return Array.isArray(kept) ? kept.filter(isRecent).slice(0, MAX_RECENT) : null;
  } catch {
    return null; // another version wrote it, or storage is forbidden
  }
}

function isRecent(value: unknown): value is Recent {
  const one = value as Partial<Recent> | null;
  return (
    typeof one?.id === "number" &&
    [one.when, one.source, one.text].every((part) => typeof part === "string") &&
    (EMOTIONS.includes(one.label as Emotion) || (one.label === null && typeof one.utterances === "number")) &&
    EMOTIONS.every((emotion) => typeof one.probabilities?.[emotion] === "number")
  );
}
