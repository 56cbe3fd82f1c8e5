import { memo } from "react";
import { Area, AreaChart, ResponsiveContainer, XAxis, YAxis } from "recharts";

import type { Analysis } from "../api";
import { clock, COLOUR, type Emotion, EMOTIONS, percent, strongest } from "../emotions";

type Window = Analysis["timeline"][number];

interface Props {
  timeline: Window[];
  seconds: number;
  time: number;
  onSeek: (to: number) => void;
}

/** The voice's emotion over the recording. A slider lies over the chart: its thumb is the cursor. */
export function Timeline({ timeline, seconds, time, onSeek }: Props) {
  const { probabilities } = nearest(timeline, time);
  const now = strongest(probabilities);
  return (
    <>
      <div className="timeline">
        <Chart timeline={timeline} seconds={seconds} />
        <input
          type="range"
          aria-label="Position in the recording"
          aria-valuetext={`${clock(time)}, ${now}`}
          min={0}
          max={seconds}
          step={0.1}
          value={Math.min(time, seconds)}
          onChange={(event) => onSeek(Number(event.target.value))}
        />
      </div>
      <ul className="legend">
        {EMOTIONS.map((emotion) => (
          <li key={emotion}>
            <svg aria-hidden="true">
              <rect width="100%" height="100%" rx="3" fill={pattern(emotion)} />
            </svg>
            {emotion} <span>{probabilities ? percent(probabilities[emotion]) : "–"}</span>
          </li>
        ))}
      </ul>
      <p className="fine">
        The voice alone, three seconds at a time. At {clock(time)}: {now}.
      </p>
    </>
  );
}

/** Apart from the cursor, which moves many times a second. */
const Chart = memo(function Chart({ timeline, seconds }: { timeline: Window[]; seconds: number }) {
  return (
    <div role="img" aria-label={`Emotion of the voice over the recording. ${story(timeline)}`}>
      <Patterns />
      <ResponsiveContainer width="100%" height={112}>
        <AreaChart data={points(timeline, seconds)} margin={{ top: 0, right: 0, bottom: 0, left: 0 }} accessibilityLayer={false}>
          <XAxis dataKey="time" type="number" domain={[0, seconds]} hide />
          <YAxis domain={[0, 1]} hide />
          {EMOTIONS.map((emotion) => (
            <Area
              key={emotion}
              dataKey={emotion}
              stackId="all"
              stroke="var(--surface)"
              fill={pattern(emotion)}
              fillOpacity={1}
              isAnimationActive={false}
            />
          ))}
        </AreaChart>
      </ResponsiveContainer>
    </div>
  );
});

/** Lines on an 8 x 8 tile, for those who can't go by the colour. */
const LINES: Record<Emotion, string> = {
  neutral: "",
  frustration: "M-2 2 2 -2M0 8 8 0M6 10 10 6",
  anger: "M0 8 8 0M0 0 8 8",
  sadness: "M0 4H8",
  excitement: "M4 0V8",
};

function pattern(emotion: Emotion): string {
  return `url(#pattern-${emotion})`;
}

function Patterns() {
  return (
    <svg className="hidden">
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

/** The windows' middles, with the first and the last drawn out to the ends; a window without sound leaves a gap. */
function points(timeline: Window[], seconds: number) {
  const middles = timeline.map(({ start, end, probabilities }) => ({ time: (start + end) / 2, ...probabilities }));
  return [{ ...middles[0]!, time: 0 }, ...middles, { ...middles.at(-1)!, time: seconds }];
}

/** The window whose middle is nearest. */
function nearest(timeline: Window[], time: number): Window {
  const distance = ({ start, end }: Window) => Math.abs((start + end) / 2 - time);
  return timeline.reduce((best, one) => (distance(one) < distance(best) ? one : best));
}

function story(timeline: Window[]): string {
  return timeline.map(({ start, probabilities }) => `From ${clock(start)}: ${strongest(probabilities)}`).join("; ");
}
