import { EMOTIONS, percent } from "../emotions";
import { counted } from "../exports";
import type { Overview } from "../overview";
import { pattern, Swatch } from "./Patterns";

/** Share of the speaking time of each emotion, as bars with numbers. The unsure part of a bar is half as high. */
export function Shares({ overview: { shares, sure, unanswered } }: { overview: Overview }) {
  return (
    <div className="shares">
      <h3>Share of the speaking time</h3>
      <dl>
        {EMOTIONS.map((emotion) => (
          <div key={emotion}>
            <dt>
              <Swatch emotion={emotion} /> {emotion}
            </dt>
            <dd>
              <svg aria-hidden="true">
                <rect width={`${100 * sure[emotion]}%`} height="100%" fill={pattern(emotion)} />
                <rect
                  x={`${100 * sure[emotion]}%`}
                  y="50%"
                  width={`${100 * (shares[emotion] - sure[emotion])}%`}
                  height="50%"
                  fill={pattern(emotion)}
                />
              </svg>
              <span className="number">{percent(shares[emotion])}</span>
              <small>{percent(sure[emotion])} sure</small>
            </dd>
          </div>
        ))}
      </dl>
      {unanswered > 0 && <p className="fine">Without an emotion: {counted(unanswered)}.</p>}
    </div>
  );
}
