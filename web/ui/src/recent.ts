/** The most recent analyses, stored in this browser only and without their recordings. */

import type { Analysis } from "./api";
import { EMOTIONS, type Emotion, type Probabilities, type Status } from "./emotions";

export interface Recent {
  id: number;
  when: string;
  source: string;
  text: string;
  label: Emotion;
  status?: Status; // absent in entries that an earlier version stored
  probabilities: Probabilities;
  analysis?: Analysis; // absent in entries that an earlier version stored
}

const STORAGE_KEY = "emoserve.recent";
const SHOWN_KEY = "emoserve.shown"; // in sessionStorage: the answer that this tab shows
const MAX_RECENT = 6;

export function load(): Recent[] {
  return read() ?? [];
}

/** Adds an analysis to the stored ones, which another tab may have changed. */
export function add(recent: Recent[], one: Recent): Recent[] {
  return save([one, ...(read() ?? recent)].slice(0, MAX_RECENT));
}

export function save(recent: Recent[]): Recent[] {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(recent));
  } catch {
    // storage is full or forbidden: the list lasts until the page is closed
  }
  return recent;
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
    EMOTIONS.includes(one.label as Emotion) &&
    EMOTIONS.every((emotion) => typeof one.probabilities?.[emotion] === "number")
  );
}
