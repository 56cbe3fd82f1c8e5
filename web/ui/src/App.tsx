/** The page: input, pending analysis, answer and recent analyses. */

import { useCallback, useEffect, useRef, useState } from "react";

import { type Analysis, analyze, ApiError, health, type Health, UNREACHABLE } from "./api";
import { Examples } from "./components/Examples";
import { FileInput } from "./components/FileInput";
import { Problem } from "./components/Problem";
import { RecentAnalyses } from "./components/RecentAnalyses";
import { Result } from "./components/Result";
import { SpeechInput } from "./components/SpeechInput";
import { Tabs } from "./components/Tabs";
import { TextInput } from "./components/TextInput";
import { Waiting } from "./components/Waiting";
import type { Job } from "./job";
import * as recents from "./recent";

const HEALTH_INTERVAL_MS = 15_000;
const LIMITS = { seconds: 60, bytes: 20 * 2 ** 20, characters: 2000 }; // used until /api/health returns the service's own limits

export function App() {
  const service = useHealth();
  const limits = service?.limits ?? LIMITS;
  const [pending, setPending] = useState<{ job: Job; controller: AbortController } | null>(null);
  const [answer, setAnswer] = useState<{ job: Job; analysis: Analysis; id: number } | null>(null);
  const [problem, setProblem] = useState<{ error: ApiError; job?: Job } | null>(null);
  const [recent, setRecent] = useState(recents.load);
  const [draft, setDraft] = useState(""); // kept here, because switching tabs unmounts TextInput
  const working = useRef<AbortController>(null);

  const run = useCallback(async (job: Job) => {
    working.current?.abort();
    const controller = new AbortController();
    working.current = controller;
    setPending({ job, controller });
    setProblem(null);
    try {
      const analysis = await analyze(job, controller.signal);
      const id = Date.now();
      setAnswer({ job, analysis, id });
      const { text, label, status, probabilities } = analysis;
      const when = new Date().toISOString();
      setRecent((kept) => recents.add(kept, { id, when, source: job.source, text, label, status, probabilities }));
    } catch (error) {
      if (!controller.signal.aborted) setProblem({ error: error instanceof ApiError ? error : UNREACHABLE, job });
    }
    if (working.current === controller) setPending(null);
  }, []);

  const fail = useCallback((error: ApiError) => setProblem({ error }), []);
  const send = useCallback((job: Job) => void run(job), [run]);

  return (
    <>
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <header className="top">
        <div>
          <h1>emoserve</h1>
          <p>Speak, and see which emotions are in your voice and in your words.</p>
        </div>
        <p className="service" role="status" data-state={service === undefined ? "unknown" : service ? "ready" : "away"}>
          {service === undefined ? "Connecting" : service ? "Ready" : "Service unavailable"}
        </p>
      </header>
      <main id="main">
        <section className="card input" aria-labelledby="input-heading">
          <h2 id="input-heading">Say something</h2>
          <Tabs
            label="Ways to say it"
            tabs={{
              Speak: <SpeechInput limit={limits.seconds} busy={pending !== null} onJob={send} onError={fail} />,
              File: <FileInput limits={limits} busy={pending !== null} onJob={send} onError={fail} />,
              Type: (
                <TextInput
                  text={draft}
                  onText={setDraft}
                  limit={limits.characters}
                  busy={pending !== null}
                  onJob={send}
                />
              ),
            }}
          />
          {service && !service.speech && (
            <p className="note">
              This service does not recognise speech: it analyses the voice alone, unless you add the words.
            </p>
          )}
          <Examples busy={pending !== null} onJob={send} onError={fail} />
        </section>
        <div className="outcome">
          <div role="status">
            {pending && (
              <Waiting
                activity={activity(pending.job, service?.speech ?? true)}
                onCancel={() => {
                  pending.controller.abort();
                  setPending(null);
                }}
              />
            )}
          </div>
          {problem && (
            <Problem
              error={problem.error}
              onRetry={problem.job && (() => send(problem.job!))}
              onDismiss={() => setProblem(null)}
            />
          )}
          {answer ? (
            <Result
              key={answer.id}
              job={answer.job}
              analysis={answer.analysis}
              busy={pending !== null}
              limit={limits.characters}
              onJob={send}
            />
          ) : (
            !pending && !problem && <Placeholder />
          )}
        </div>
        <RecentAnalyses recent={recent} onClear={() => setRecent(recents.save([]))} />
      </main>
      <footer>
        <p>
          Recordings are analysed and not stored. The model knows five emotions of English speech, and is
          often wrong; do not judge people by it.
        </p>
      </footer>
    </>
  );
}

/** Returns what the service does for a job, in words. */
function activity({ audio, text }: Job, speech: boolean): string {
  if (!audio) return "Reading the words";
  if (text) return "Listening to the voice and reading the words";
  return speech ? "Listening to the voice and writing down the words" : "Listening to the voice";
}

function Placeholder() {
  return (
    <section className="card placeholder" aria-label="Answer">
      <svg viewBox="-60 -60 120 120" aria-hidden="true">
        {[18, 36, 54].map((radius) => (
          <polygon key={radius} points={pentagon(radius)} />
        ))}
      </svg>
      <p>Your answer appears here: what the voice says, what the words say, and both together.</p>
    </section>
  );
}

function pentagon(radius: number): string {
  const corner = (index: number) => (2 * Math.PI * index) / 5 - Math.PI / 2;
  return [0, 1, 2, 3, 4].map((i) => `${radius * Math.cos(corner(i))},${radius * Math.sin(corner(i))}`).join(" ");
}

/** Returns the service's health, polled: undefined until the first answer, null while the service is unavailable. */
function useHealth(): Health | null | undefined {
  const [known, setKnown] = useState<Health | null>();
  useEffect(() => {
    const ask = () =>
      health().then(
        (found) => setKnown(found),
        () => setKnown(null),
      );
    void ask();
    const timer = setInterval(ask, HEALTH_INTERVAL_MS);
    return () => clearInterval(timer);
  }, []);
  return known;
}
