import { memo } from "react";
import { Area, AreaChart, ResponsiveContainer, XAxis, YAxis } from "recharts";

import type { Analysis } from "../api";
import { clock, COLOUR, type Emotion, EMOTIONS, percent, strongest } from "../emotions";
import { timeTicks } from "../ticks";

type Window = Analysis["timeline"][number];

interface Props {
  timeline: Window[];
  seconds: number;
  time: number;
  onSeek: (to: number) => void;
}

/** Emotion of the voice over the recording, as a stacked chart under a slider whose thumb is the cursor. */
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
      <div className="ticks" aria-hidden="true">
        {timeTicks(seconds).map((tick) => (
          <span key={tick} style={{ left: `${(100 * tick) / seconds}%` }}>
            {clock(tick)}
          </span>
        ))}
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

/** The chart alone, memoised because the cursor moves many times a second. */
const Chart = memo(function Chart({ timeline, seconds }: { timeline: Window[]; seconds: number }) {
  return (
    <div role="img" aria-label={`Emotion of the voice over the recording. ${summarise(timeline)}`}>
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

/** SVG paths on an 8 x 8 tile: each emotion has a pattern of its own for people who cannot tell the colours apart. */
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

/** Chart points at the middle of each window. The first and last are repeated at the ends; a window without sound is a gap. */
function points(timeline: Window[], seconds: number) {
  const middles = timeline.map(({ start, end, probabilities }) => ({ time: (start + end) / 2, ...probabilities }));
  return [{ ...middles[0]!, time: 0 }, ...middles, { ...middles.at(-1)!, time: seconds }];
}

/** Returns the window whose middle is nearest to a time in seconds. */
function nearest(timeline: Window[], time: number): Window {
  const distance = ({ start, end }: Window) => Math.abs((start + end) / 2 - time);
  return timeline.reduce((best, one) => (distance(one) < distance(best) ? one : best));
}

/** Returns the most probable emotion of each window as a text for screen readers. */
function summarise(timeline: Window[]): string {
  return timeline.map(({ start, probabilities }) => `From ${clock(start)}: ${strongest(probabilities)}`).join("; ");
}
