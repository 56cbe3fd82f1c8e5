/** The last analyses, kept in this browser and nowhere else; recordings are not kept. */

import { EMOTIONS, type Emotion, type Probabilities, type Status } from "./emotions";

export interface Recent {
  id: number;
  when: string;
  source: string;
  text: string;
  label: Emotion;
  status?: Status; // absent where an earlier version kept it
  probabilities: Probabilities;
}

const PLACE = "emoserve.recent";
const KEPT = 6;

export function load(): Recent[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
    return Array.isArray(kept) ? kept.filter(isRecent).slice(0, KEPT) : [];
  } catch {
    return []; // written by another version, or storage is forbidden
  }
}

export function add(recent: Recent[], one: Recent): Recent[] {
  return save([one, ...recent].slice(0, KEPT));
}

export function save(recent: Recent[]): Recent[] {
  try {
    localStorage.setItem(PLACE, JSON.stringify(recent));
  } catch {
    // full or forbidden: they last until the page is closed
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
