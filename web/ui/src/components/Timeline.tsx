import { memo } from "react";
import { Area, AreaChart, ResponsiveContainer, XAxis, YAxis } from "recharts";

import type { Analysis } from "../api";
import { clock, EMOTIONS, percent, strongest } from "../emotions";
import { pattern, Patterns, Swatch } from "./Patterns";
import { TimeSlider } from "./TimeSlider";

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
      <TimeSlider seconds={seconds} time={time} now={now} onSeek={onSeek}>
        <Chart timeline={timeline} seconds={seconds} />
      </TimeSlider>
      <ul className="legend">
        {EMOTIONS.map((emotion) => (
          <li key={emotion}>
            <Swatch emotion={emotion} />
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
