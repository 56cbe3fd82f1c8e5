import { type Emotion, EMOTIONS, percent, type Probabilities } from "../emotions";

/** List of the five emotions with their probabilities, as bars and numbers; without numbers if there are none. */
export function EmotionBars({ probabilities }: { probabilities: Probabilities | null }) {
  return (
    <dl className="bars">
      {EMOTIONS.map((emotion) => (
        <div key={emotion}>
          <dt>{emotion}</dt>
          <dd>
            <Bar emotion={emotion} share={probabilities?.[emotion] ?? 0} />
            <span className="number">{probabilities ? percent(probabilities[emotion]) : "–"}</span>
          </dd>
        </div>
      ))}
    </dl>
  );
}

/** A share as a bar in the colour of an emotion; the number stands beside it. */
export function Bar({ emotion, share }: { emotion: Emotion; share: number }) {
  return (
    <span className="bar" aria-hidden="true">
      <span style={{ width: `${100 * share}%` }} data-emotion={emotion} />
    </span>
  );
}
