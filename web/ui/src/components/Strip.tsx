import { memo } from "react";

import { clock } from "../emotions";
import { utteranceVerdict } from "../exports";
import { emotionOf } from "../overview";
import type { Utterance } from "../utterances";
import { pattern } from "./Patterns";

interface Props {
  utterances: Utterance[];
  seconds: number;
}

/** The utterances of a recording over time. Sure ones are as high as the strip, unsure ones half as high. */
export const Strip = memo(function Strip({ utterances, seconds }: Props) {
  const summary = utterances.map((one) => `${clock(one.start)}: ${utteranceVerdict(one) ?? "not analysed"}`).join("; ");
  return (
    <svg className="utterances" role="img" aria-label={`Emotion over the recording. ${summary}`}>
      {utterances.map((one) => {
        const emotion = emotionOf(one);
        const height = emotion && (one.status === "ok" ? 100 : 50);
        const place = { x: `${(100 * one.start) / seconds}%`, width: `${(100 * (one.end - one.start)) / seconds}%` };
        return emotion ? (
          <rect key={one.start} {...place} y={`${100 - height!}%`} height={`${height}%`} fill={pattern(emotion)} />
        ) : (
          <rect key={one.start} {...place} y="90%" height="10%" fill="var(--soft)" />
        );
      })}
    </svg>
  );
});
