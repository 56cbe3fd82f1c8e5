import { Component, type ReactNode, useEffect, useRef } from "react";

import { clock, COLOUR, percent, strongest, strongestEmotion, verdict } from "../emotions";
import { HISTORY_S, useLive, type Voice } from "../live";
import type { Utterance } from "../utterances";
import { EmotionBars } from "./EmotionBars";
import { UtteranceWords } from "./UtteranceWords";

/** Emotion of the voice and words so far, while somebody records. */
export function Live({ stream }: { stream: MediaStream }) {
  return (
    <ErrorBoundary>
      <LiveView stream={stream} />
    </ErrorBoundary>
  );
}

/** Shows a note in place of a live view with an error, which would otherwise remove the page and its recording. */
class ErrorBoundary extends Component<{ children: ReactNode }> {
  state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  render() {
    return this.state.failed ? <Note problem="An unexpected error occurred." /> : this.props.children;
  }
}

function Note({ problem }: { problem: string }) {
  return (
    <p className="note">
      The live view is not available: {problem} The recording and its analysis are not affected.
    </p>
  );
}

function LiveView({ stream }: { stream: MediaStream }) {
  const { voices, utterances, problem } = useLive(stream);
  const section = useRef<HTMLElement>(null);
  useEffect(() => {
    section.current?.scrollIntoView?.({ block: "nearest" });
  }, []);

  return (
    <section className="card live" aria-labelledby="live" ref={section}>
      <h2 id="live">While you speak</h2>
      {!problem && <VoiceNow voices={voices} />}
      {(!problem || utterances.length > 0) && <Words utterances={utterances} />}
      <div role="status">{problem && <Note problem={problem} />}</div>
    </section>
  );
}

function VoiceNow({ voices }: { voices: Voice[] }) {
  const now = voices.at(-1);
  const probabilities = now?.probabilities ?? null;
  return (
    <div className="voice">
      <p>
        {now ? "The voice: " : "Listening…"}
        {now && (
          <strong className="label" data-emotion={probabilities ? strongestEmotion(probabilities) : undefined}>
            {strongest(probabilities)}
          </strong>
        )}
      </p>
      <EmotionBars probabilities={probabilities} />
      <Strip voices={voices} />
    </div>
  );
}

/** The strongest emotion over the last seconds as a colour, the newest on the right, with a gap where there was no sound. */
function Strip({ voices }: { voices: Voice[] }) {
  const start = (voices.at(-1)?.end ?? 0) - HISTORY_S;
  return (
    <div className="strip" aria-hidden="true">
      <span>last {HISTORY_S} s</span>
      <svg viewBox={`0 0 ${HISTORY_S} 1`} preserveAspectRatio="none" shapeRendering="crispEdges">
        {voices.map(({ end, probabilities }, index) => {
          if (!probabilities) return null;
          const begin = voices[index - 1]?.end ?? Math.max(0, start);
          return (
            <rect key={end} x={begin - start} width={end - begin} height={1} fill={COLOUR[strongestEmotion(probabilities)]} />
          );
        })}
      </svg>
    </div>
  );
}

/** The utterances in a box that scrolls to the newest one. Screen readers read each new one, and not the voice's updates. */
function Words({ utterances }: { utterances: Utterance[] }) {
  const log = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (log.current) log.current.scrollTop = log.current.scrollHeight;
  }, [utterances]);

  return (
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- the box is scrolled with the arrow keys
    <div className="log" role="log" aria-label="What was said" tabIndex={0} ref={log}>
      {!utterances.length && <p className="fine">What you say appears here after each pause, with its emotion.</p>}
      <ul>
        {utterances.map((one) => (
          <li key={one.start}>
            <small>{clock(one.start)}</small>
            <Line utterance={one} />
          </li>
        ))}
      </ul>
    </div>
  );
}

function Line({ utterance }: { utterance: Utterance }) {
  const { label, status, probabilities } = utterance;
  return (
    <>
      <UtteranceWords utterance={utterance} />
      {label && probabilities && (
        <span className="label" data-emotion={label}>
          {verdict(status ?? undefined, label, probabilities)}
          {status === "ok" && ` ${percent(probabilities[label])}`}
        </span>
      )}
    </>
  );
}
