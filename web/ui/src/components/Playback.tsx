import { useEffect, useRef, useState } from "react";
import WaveSurfer from "wavesurfer.js";

import type { Analysis } from "../api";
import { clock } from "../emotions";
import { Download } from "./Download";
import { Timeline } from "./Timeline";

interface Props {
  audio: Blob;
  own: boolean;
  seconds: number;
  timeline: Analysis["timeline"];
}

/** Player, waveform and emotion timeline of the recording, which share one position. */
export function Playback({ audio, own, seconds, timeline }: Props) {
  const container = useRef<HTMLDivElement>(null);
  const player = useRef<WaveSurfer>(null);
  const [state, setState] = useState<"loading" | "paused" | "playing" | "unplayable">("loading");
  const [time, setTime] = useState(0);

  useEffect(() => {
    const url = URL.createObjectURL(audio);
    const style = getComputedStyle(document.documentElement);
    const waveSurfer = WaveSurfer.create({
      container: container.current!,
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
    waveSurfer.on("ready", () => setState("paused"));
    waveSurfer.on("timeupdate", setTime);
    waveSurfer.on("play", () => setState("playing"));
    waveSurfer.on("pause", () => setState("paused"));
    waveSurfer.on("error", () => setState("unplayable")); // the server decodes more formats than browsers do
    player.current = waveSurfer;
    return () => {
      waveSurfer.destroy();
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
          {own && <Download audio={audio} />}
        </div>
      )}
      <div ref={container} className="waveform" hidden={state === "unplayable"} aria-hidden="true" />
      {timeline.length > 0 && <Timeline timeline={timeline} seconds={seconds} time={time} onSeek={seek} />}
    </div>
  );
}
