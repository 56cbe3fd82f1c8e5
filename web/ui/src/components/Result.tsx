import { type FormEvent, useEffect, useId, useRef, useState } from "react";

import type { Analysis } from "../api";
import { EMOTIONS, percent, type Probabilities, strongest, verdict, type View, VIEW, VIEWS, type Views } from "../emotions";
import { viewsOf } from "../exports";
import { EXAMPLE, type Job } from "../job";
import { EmotionRadar } from "./EmotionRadar";
import { Feedback } from "./Feedback";
import { Numbers } from "./Numbers";
import { Playback } from "./Playback";
import { Save } from "./Save";

const CLEAR_SHARE = 0.6; // from which one emotion of a view is clear

interface Props {
  job: Job;
  analysis: Analysis;
  busy: boolean;
  limit: number;
  /** Whether the service stores feedback. */
  feedback: boolean;
  onJob: (job: Job) => void;
}

export function Result({ job, analysis, busy, limit, feedback, onJob }: Props) {
  const views = viewsOf(analysis);
  const [hidden, setHidden] = useState<Set<View>>(new Set());
  const shown = VIEWS.filter((view) => views[view] && !hidden.has(view));
  const absent = VIEWS.filter((view) => !views[view]);
  const reason = useId();
  const heading = useRef<HTMLHeadingElement>(null);
  const chart = useRef<HTMLDivElement>(null);
  useEffect(() => heading.current?.focus(), []); // screen readers continue at the answer

  function toggle(view: View) {
    const next = new Set(hidden);
    if (!next.delete(view)) next.add(view);
    setHidden(next);
  }

  return (
    <section className="card result" aria-labelledby="answer">
      <h2 id="answer" ref={heading} tabIndex={-1}>
        <span className="label" data-emotion={analysis.label}>
          {verdict(analysis.status, analysis.label, analysis.probabilities)}
        </span>{" "}
        {analysis.status === "ok" && <span className="share">{percent(analysis.probabilities[analysis.label])}</span>}
      </h2>
      {analysis.status === "no_speech" && (
        <p className="note">
          The recording has no sound: the answer uses the words alone, which say {strongest(analysis.probabilities)}.
        </p>
      )}
      {disagree(views) && (
        <p className="note">
          The voice and the words disagree: the voice says {strongest(views.audio)}, the words say {strongest(views.text)}.
        </p>
      )}
      {analysis.untrained.length > 0 && (
        <p className="note">Parts of this model were never trained ({analysis.untrained.join(", ")}): do not rely on its answers.</p>
      )}
      <div className="views" role="group" aria-label="Views in the radar chart">
        {VIEWS.map((view) => (
          <button
            key={view}
            type="button"
            aria-pressed={shown.includes(view)}
            disabled={!views[view]}
            aria-describedby={views[view] ? undefined : reason}
            onClick={() => toggle(view)}
          >
            <svg className="swatch" viewBox="0 0 24 8" aria-hidden="true">
              <line x1="0" y1="4" x2="24" y2="4" stroke={VIEW[view].colour} strokeWidth="3" strokeDasharray={VIEW[view].dash} />
            </svg>
            {VIEW[view].name}
          </button>
        ))}
        {absent.length > 0 && <small id={reason}>{absent.map((view) => VIEW[view].absent).join(" ")}</small>}
      </div>
      <div className="charts">
        <div ref={chart}>
          <EmotionRadar views={views} shown={shown} />
        </div>
        <Numbers views={views} />
      </div>
      <Words job={job} analysis={analysis} busy={busy} limit={limit} onJob={onJob} />
      {job.audio && <Playback audio={job.audio} own={job.own ?? false} seconds={analysis.seconds ?? 0} timeline={analysis.timeline} />}
      {(job.audio || analysis.text) && !job.source.startsWith(EXAMPLE) && (
        <Feedback input={{ audio: job.audio, text: analysis.text }} offered={feedback} />
      )}
      <Save source={job.source} analysis={analysis} shown={shown} chart={chart} />
      <p className="fine">
        Answered in {(analysis.timings.total_ms / 1000).toFixed(1)} s by checkpoint {analysis.checkpoint.slice(0, 8)}.
      </p>
    </section>
  );
}

/** Returns whether voice and words each have one clear emotion, and it is not the same. */
function disagree({ audio, text }: Views): boolean {
  if (!audio || !text) return false;
  const clear = (view: Probabilities) => EMOTIONS.find((emotion) => view[emotion] >= CLEAR_SHARE);
  const [voice, words] = [clear(audio), clear(text)];
  return voice !== undefined && words !== undefined && voice !== words;
}

/** Says why the answer does not use the words. */
function whyWordsAreUnused(transcript: string | null) {
  if (transcript === null) return "The words are not known";
  if (!transcript) return "No words were recognised";
  return `“${transcript}” was heard, but not clearly enough (the service understands English, and judges other languages by the voice alone)`;
}

/** The words of the answer in a form, so that they can be corrected and analysed again. */
function Words({ job, analysis, busy, limit, onJob }: Omit<Props, "feedback">) {
  const [text, setText] = useState(analysis.text);
  const id = useId();
  const changed = text !== analysis.text;

  function submit(event: FormEvent) {
    event.preventDefault();
    onJob({ ...job, text });
  }

  return (
    <form className="words" onSubmit={submit}>
      <label htmlFor={id}>{analysis.transcript === null ? "The words" : "What was heard"}</label>
      {job.audio && !analysis.text && (
        <p className="note">
          {whyWordsAreUnused(analysis.transcript)}: the answer uses the voice alone. You can write the words here.
        </p>
      )}
      <textarea id={id} dir="auto" rows={2} maxLength={limit} value={text} onChange={(event) => setText(event.target.value)} />
      <div className="row">
        <small>{job.audio ? "Not right? Correct it, and analyse the same recording again." : "Change it, and analyse it again."}</small>
        <button type="submit" disabled={busy || !changed || !text.trim()}>
          Analyse again
        </button>
      </div>
    </form>
  );
}
