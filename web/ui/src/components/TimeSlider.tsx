import type { ReactNode } from "react";

import { clock } from "../emotions";
import { timeTicks } from "../ticks";

interface Props {
  seconds: number;
  time: number;
  /** What the picture shows at `time`, in words. */
  now: string;
  onSeek: (to: number) => void;
  children: ReactNode;
}

/** A picture of the recording over time, under a slider whose thumb is the cursor, with a time axis below. */
export function TimeSlider({ seconds, time, now, onSeek, children }: Props) {
  return (
    <>
      <div className="timeline">
        {children}
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
      <TimeAxis seconds={seconds} />
    </>
  );
}

export function TimeAxis({ seconds }: { seconds: number }) {
  return (
    <div className="ticks" aria-hidden="true">
      {timeTicks(seconds).map((tick) => (
        <span key={tick} style={{ left: `${(100 * tick) / seconds}%` }}>
          {clock(tick)}
        </span>
      ))}
    </div>
  );
}
