import { memo } from "react";

import { emotionOf } from "../overview";
import type { Utterance } from "../utterances";
import { pattern } from "./Patterns";

interface Props {
  utterances: Utterance[];
  seconds: number;
}

/** The utterances of a recording over time. Sure ones are as high as the strip, unsure ones half as high, and those without an emotion are a line. */
export const Strip = memo(function Strip({ utterances, seconds }: Props) {
  return (
    <svg className="utterances" role="img" aria-label="Emotion over the recording, as in the table of utterances">
      {utterances.map((one) => {
        const emotion = emotionOf(one);
        const height = !emotion ? 10 : one.status === "ok" ? 100 : 50;
        return (
          <rect
            key={one.start}
            x={`${(100 * one.start) / seconds}%`}
            y={`${100 - height}%`}
            width={`${(100 * (one.end - one.start)) / seconds}%`}
            height={`${height}%`}
            fill={emotion ? pattern(emotion) : "var(--soft)"}
          />
        );
      })}
    </svg>
  );
});
