/** The five emotions and the three views of them, as the server has them. */

export const EMOTIONS = ["neutral", "frustration", "anger", "sadness", "excitement"] as const;
export type Emotion = (typeof EMOTIONS)[number];
export type Probabilities = Record<Emotion, number>;

export const VIEWS = ["fused", "audio", "text"] as const;
export type View = (typeof VIEWS)[number];

/** Names, and how each is drawn: told apart by colour and by line. Colours are in styles.css. */
export const VIEW: Record<View, { name: string; colour: string; dash?: string; absent: string }> = {
  fused: { name: "Both together", colour: "var(--fused)", absent: "" },
  audio: { name: "What the voice says", colour: "var(--audio)", dash: "7 4", absent: "There is no recording." },
  text: { name: "What the words say", colour: "var(--text-view)", dash: "2 4", absent: "There are no words." },
};

export const COLOUR: Record<Emotion, string> = {
  neutral: "var(--neutral)",
  frustration: "var(--frustration)",
  anger: "var(--anger)",
  sadness: "var(--sadness)",
  excitement: "var(--excitement)",
};

/** "sadness 62 %" */
export function strongest(probabilities: Probabilities): string {
  const emotion = EMOTIONS.reduce((best, one) => (probabilities[one] > probabilities[best] ? one : best));
  return `${emotion} ${percent(probabilities[emotion])}`;
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** "0:07" */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
