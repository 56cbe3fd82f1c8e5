import { COLOUR, type Emotion, EMOTIONS } from "../emotions";

/** SVG paths on an 8 x 8 tile: each emotion has a pattern of its own for people who cannot tell the colours apart. */
const LINES: Record<Emotion, string> = {
  neutral: "",
  frustration: "M-2 2 2 -2M0 8 8 0M6 10 10 6",
  anger: "M0 8 8 0M0 0 8 8",
  sadness: "M0 4H8",
  excitement: "M4 0V8",
};

/** Returns the fill of an emotion; `Patterns` must be on the page. */
export function pattern(emotion: Emotion): string {
  return `url(#pattern-${emotion})`;
}

export function Patterns() {
  return (
    <svg className="hidden" aria-hidden="true">
      <defs>
        {EMOTIONS.map((emotion) => (
          <pattern key={emotion} id={`pattern-${emotion}`} width="8" height="8" patternUnits="userSpaceOnUse">
            <rect width="8" height="8" fill={COLOUR[emotion]} />
            <path d={LINES[emotion]} stroke="var(--surface)" strokeOpacity="0.4" />
          </pattern>
        ))}
      </defs>
    </svg>
  );
}

/** Sample of an emotion's pattern beside its name. */
export function Swatch({ emotion }: { emotion: Emotion }) {
  return (
    <svg className="pattern" aria-hidden="true">
      <rect width="100%" height="100%" rx="3" fill={pattern(emotion)} />
    </svg>
  );
}
