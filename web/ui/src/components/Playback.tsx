import { useEffect, useRef, useState } from "react";
import WaveSurfer from "wavesurfer.js";

import type { Analysis } from "../api";
import { clock } from "../emotions";
import { Timeline } from "./Timeline";

interface Props {
  audio: Blob;
  seconds: number;
  timeline: Analysis["timeline"];
}

/** The recording, its waveform, and the voice's emotion over it; one position for all. */
export function Playback({ audio, seconds, timeline }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const player = useRef<WaveSurfer>(null);
  const [state, setState] = useState<"loading" | "paused" | "playing" | "unplayable">("loading");
  const [time, setTime] = useState(0);

  useEffect(() => {
    const url = URL.createObjectURL(audio);
    const style = getComputedStyle(document.documentElement);
    const made = WaveSurfer.create({
      container: place.current!,
      url,
      height: 56,
      normalize: true,
      barWidth: 2,
      barGap: 1,
      barRadius: 2,
      cursorWidth: 2,
      waveColor: style.getPropertyValue("--wave"),
      progressColor: style.getPropertyValue("--accent"),
      cursorColor: style.getPropertyValue("--ink"),
    });
    made.on("ready", () => setState("paused"));
    made.on("timeupdate", setTime);
    made.on("play", () => setState("playing"));
    made.on("pause", () => setState("paused"));
    made.on("error", () => setState("unplayable")); // the server reads more formats than browsers do
    player.current = made;
    return () => {
      made.destroy();
      URL.revokeObjectURL(url);
    };
  }, [audio]);

  function seek(to: number) {
    setTime(to);
    if (state !== "unplayable") player.current?.setTime(to);
  }

  return (
    <div className="playback">
      <h3>The recording</h3>
      {state === "unplayable" ? (
        <p className="note">Your browser can't play this kind of recording.</p>
      ) : (
        <div className="row">
          <button type="button" onClick={() => void player.current?.playPause()} disabled={state === "loading"}>
            {state === "playing" ? "Pause" : "Play"}
          </button>
          <span className="time">
            {clock(time)} <span>of {clock(seconds)}</span>
          </span>
        </div>
      )}
      <div ref={place} className="waveform" hidden={state === "unplayable"} aria-hidden="true" />
      {timeline.length > 0 && <Timeline timeline={timeline} seconds={seconds} time={time} onSeek={seek} />}
    </div>
  );
}
