/** The most recent analyses, stored in this browser only and without their recordings. */

import { EMOTIONS, type Emotion, type Probabilities, type Status } from "./emotions";

export interface Recent {
  id: number;
  when: string;
  source: string;
  text: string;
  label: Emotion;
  status?: Status; // absent in entries that an earlier version stored
  probabilities: Probabilities;
}

const STORAGE_KEY = "emoserve.recent";
const MAX_RECENT = 6;

export function load(): Recent[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter(isRecent).slice(0, MAX_RECENT) : [];
  } catch {
    return []; // another version wrote it, or storage is forbidden
  }
}

export function add(recent: Recent[], one: Recent): Recent[] {
  return save([one, ...recent].slice(0, MAX_RECENT));
}

export function save(recent: Recent[]): Recent[] {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(recent));
  } catch {
    // storage is full or forbidden: the list lasts until the page is closed
  }
  return recent;
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
