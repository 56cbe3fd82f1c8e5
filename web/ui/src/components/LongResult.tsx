import { useCallback, useEffect, useMemo, useRef, useState } from "react";

import { clock, percent } from "../emotions";
import { answerJson, longCsv, longSummary, utteranceCount, utteranceVerdict } from "../exports";
import type { Job } from "../job";
import { overviewOf } from "../overview";
import type { LongAnalysis, Utterance } from "../utterances";
import { Download } from "./Download";
import { Patterns } from "./Patterns";
import { Player } from "./Player";
import { SaveAs } from "./SaveAs";
import { Shares } from "./Shares";
import { Strip } from "./Strip";
import { TimeAxis, TimeSlider } from "./TimeSlider";
import { UtteranceTable } from "./UtteranceTable";

const SEEK_TOLERANCE_S = 0.05; // players seek to a time near the one that is wanted

interface Props {
  job: Job;
  analysis: LongAnalysis;
  /** Whether more of the answer is to come. */
  running: boolean;
}

/** The answer to a long recording: the emotion of each utterance over time, as shares, and in a table. */
export function LongResult({ job, analysis, running }: Props) {
  const { seconds, utterances, complete, checkpoint, untrained } = analysis;
  const overview = useMemo(() => overviewOf(utterances), [utterances]);
  const [time, setTime] = useState(0);
  const [broken, setBroken] = useState(false); // whether the browser can't play the recording
  const playable = job.audio !== undefined && !broken;
  const player = useRef<HTMLAudioElement>(null);
  const section = useRef<HTMLElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const current = utterances.find(({ start, end }) => time > 0 && start - SEEK_TOLERANCE_S <= time && time < end);

  useEffect(() => {
    const isUsed = section.current!.contains(document.activeElement);
    if (!running && !isUsed) heading.current!.focus(); // screen readers continue at the answer
  }, [running]);

  const seek = useCallback((to: number) => {
    setTime(to);
    player.current!.currentTime = to;
  }, []);
  const play = useCallback(
    ({ start }: Utterance) => {
      seek(start);
      player.current!.play().catch(() => {}); // a player that fails reports an error itself
    },
    [seek],
  );
  const strip = <Strip utterances={utterances} seconds={seconds} />;

  return (
    <section className="card result long" aria-labelledby="answer" ref={section}>
      <Patterns />
      <h2 id="answer" ref={heading} tabIndex={-1}>
        {overview.label ? (
          <>
            most often{" "}
            <span className="label" data-emotion={overview.label}>
              {overview.label}
            </span>{" "}
            <span className="share">{percent(overview.shares[overview.label])}</span>
          </>
        ) : (
          running ? "no emotion yet" : "no emotion"
        )}
      </h2>
      <p className="fine" dir="auto">
        {job.source}: {utteranceCount(analysis)}, {clock(overview.speaking)} of speech in {clock(seconds)}
      </p>
      {!running && !complete && (
        <p className="note">The analysis ended early: the answer has {utteranceCount(analysis)}.</p>
      )}
      {untrained.length > 0 && (
        <p className="note">Parts of this model were never trained ({untrained.join(", ")}): do not rely on its answers.</p>
      )}
      {job.audio && (
        <div className="playback">
          {playable ? (
            <Player
              audio={job.audio}
              label="The recording"
              playerRef={player}
              onTimeUpdate={(event) => setTime(event.currentTarget.currentTime)}
              onError={() => setBroken(true)}
            />
          ) : (
            <p className="note">Your browser can't play this kind of recording.</p>
          )}
          {job.own && <Download audio={job.audio} />}
        </div>
      )}
      <div>
        {playable ? (
          <TimeSlider seconds={seconds} time={time} now={(current && utteranceVerdict(current)) ?? "no speech"} onSeek={seek}>
            {strip}
          </TimeSlider>
        ) : (
          <>
            <div className="timeline">{strip}</div>
            <TimeAxis seconds={seconds} />
          </>
        )}
        <p className="fine">Each utterance has the colour of its emotion. It is half as high if the answer is unsure.</p>
      </div>
      <Shares overview={overview} />
      <UtteranceTable utterances={utterances} current={current} onPlay={playable ? play : undefined} />
      <SaveAs
        source={job.source}
        text={() => longSummary(analysis)}
        formats={[
          { name: "JSON", type: "application/json", contents: () => answerJson(analysis) },
          { name: "CSV", type: "text/csv", contents: () => longCsv(analysis) },
        ]}
      />
      {checkpoint && <p className="fine">Answered by checkpoint {checkpoint.slice(0, 8)}.</p>}
    </section>
  );
}
