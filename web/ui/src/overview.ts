/** What a long recording sounds like as a whole: the share of its speaking time that each emotion has. */

import { type Emotion, EMOTIONS, type Probabilities, strongestEmotion } from "./emotions";
import type { Utterance } from "./utterances";

export interface Overview {
  /** Seconds in which somebody speaks. */
  speaking: number;
  /** Share of the speaking time of each emotion, unsure answers included. */
  shares: Probabilities;
  /** The part of each share whose answers are sure. */
  sure: Probabilities;
  /** Number of utterances without an emotion. */
  unanswered: number;
  /** The emotion with the largest share; null if no utterance has one. */
  label: Emotion | null;
}

/** Returns the emotion of an utterance; null if it has no answer or no sound. */
export function emotionOf({ label, status }: Utterance): Emotion | null {
  return status === "no_speech" ? null : label;
}

export function overviewOf(utterances: Utterance[]): Overview {
  const total = (some: Utterance[]) => some.reduce((sum, { start, end }) => sum + end - start, 0);
  const speaking = total(utterances);
  const share = (wanted: (one: Utterance) => boolean) => (speaking ? total(utterances.filter(wanted)) / speaking : 0);
  const each = (of: (emotion: Emotion) => number) => Object.fromEntries(EMOTIONS.map((emotion) => [emotion, of(emotion)])) as Probabilities;
  const shares = each((emotion) => share((one) => emotionOf(one) === emotion));
  const sure = each((emotion) => share((one) => emotionOf(one) === emotion && one.status === "ok"));
  const unanswered = utterances.filter((one) => emotionOf(one) === null).length;
  const label = EMOTIONS.some((emotion) => shares[emotion]) ? strongestEmotion(shares) : null;
  return { speaking, shares, sure, unanswered, label };
}
