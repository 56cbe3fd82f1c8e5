import { useEffect, useRef, useState } from "react";
import { Area, AreaChart, ReferenceLine, ResponsiveContainer, XAxis, YAxis } from "recharts";
import WaveSurfer from "wavesurfer.js";

import type { Analysis } from "../api";
import { clock, COLOUR, EMOTIONS, percent, type Probabilities } from "../emotions";

interface Props {
  audio: Blob;
  timeline: Analysis["timeline"];
}

/** The recording, its waveform, and the voice's emotion over it; one position for all. */
export function Playback({ audio, timeline }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const player = useRef<WaveSurfer>(null);
  const [duration, setDuration] = useState(0);
  const [time, setTime] = useState(0);
  const [playing, setPlaying] = useState(false);

  useEffect(() => {
    const url = URL.createObjectURL(audio);
    const style = getComputedStyle(document.documentElement);
    const made = WaveSurfer.create({
      container: place.current!,
      url,
      height: 56,
      barWidth: 2,
      barGap: 1,
      barRadius: 2,
      cursorWidth: 2,
      waveColor: style.getPropertyValue("--wave"),
      progressColor: style.getPropertyValue("--accent"),
      cursorColor: style.getPropertyValue("--ink"),
    });
    made.on("ready", setDuration);
    made.on("timeupdate", setTime);
    made.on("play", () => setPlaying(true));
    made.on("pause", () => setPlaying(false));
    player.current = made;
    return () => {
      made.destroy();
      URL.revokeObjectURL(url);
    };
  }, [audio]);

  const now = at(timeline, time);
  return (
    <div className="playback">
      <h3>The recording</h3>
      <div className="row">
        <button type="button" onClick={() => void player.current?.playPause()} disabled={!duration}>
          {playing ? "Pause" : "Play"}
        </button>
        <span className="time">
          {clock(time)} <span>of {clock(duration)}</span>
        </span>
      </div>
      <div ref={place} className="waveform" aria-hidden="true" />
      {timeline.length > 0 && (
        <>
          <div role="img" aria-label={`Emotion of the voice over the recording. ${story(timeline)}`}>
            <ResponsiveContainer width="100%" height={110}>
              <AreaChart data={points(timeline, duration)} margin={{ top: 4, right: 0, bottom: 0, left: 0 }} accessibilityLayer={false}>
                <XAxis dataKey="time" type="number" domain={[0, duration]} hide />
                <YAxis domain={[0, 1]} hide />
                {EMOTIONS.map((emotion) => (
                  <Area
                    key={emotion}
                    dataKey={emotion}
                    stackId="all"
                    stroke="var(--surface)"
                    fill={COLOUR[emotion]}
                    fillOpacity={1}
                    isAnimationActive={false}
                  />
                ))}
                <ReferenceLine x={Math.min(time, duration)} stroke="var(--ink)" strokeWidth={2} />
              </AreaChart>
            </ResponsiveContainer>
          </div>
          <input
            type="range"
            aria-label="Position in the recording"
            aria-valuetext={`${clock(time)}, ${now}`}
            min={0}
            max={duration}
            step={0.1}
            value={Math.min(time, duration)}
            onChange={(event) => player.current?.setTime(Number(event.target.value))}
          />
          <ul className="legend">
            {EMOTIONS.map((emotion) => (
              <li key={emotion}>
                <span style={{ background: COLOUR[emotion] }} aria-hidden="true" />
                {emotion}
              </li>
            ))}
          </ul>
          <p className="fine">
            The voice alone, three seconds at a time. At {clock(time)}: {now}.
          </p>
        </>
      )}
    </div>
  );
}

/** The windows' middles, with the first and the last drawn out to the ends. */
function points(timeline: Analysis["timeline"], duration: number) {
  const middle = timeline.map(({ start, end, probabilities }) => ({ time: (start + end) / 2, ...probabilities }));
  return [{ ...middle[0]!, time: 0 }, ...middle, { ...middle.at(-1)!, time: duration }];
}

function strongest(probabilities: Probabilities): string {
  const emotion = EMOTIONS.reduce((best, one) => (probabilities[one] > probabilities[best] ? one : best));
  return `${emotion} ${percent(probabilities[emotion])}`;
}

/** The window whose middle is nearest. */
function at(timeline: Analysis["timeline"], time: number): string {
  const distance = ({ start, end }: Analysis["timeline"][number]) => Math.abs((start + end) / 2 - time);
  const nearest = timeline.reduce<Analysis["timeline"][number] | undefined>(
    (best, one) => (best && distance(best) <= distance(one) ? best : one),
    undefined,
  );
  return nearest ? strongest(nearest.probabilities) : "";
}

function story(timeline: Analysis["timeline"]): string {
  return timeline.map(({ start, probabilities }) => `From ${clock(start)}: ${strongest(probabilities)}`).join("; ");
}
