/** The page: what goes in, what is going on, what came out, what came before. */

import { useCallback, useEffect, useRef, useState } from "react";

import { type Analysis, analyze, AWAY, Failure, health, type Health, type Input } from "./api";
import { Examples } from "./components/Examples";
import { FileInput } from "./components/FileInput";
import { Problem } from "./components/Problem";
import { RecentAnalyses } from "./components/RecentAnalyses";
import { Result } from "./components/Result";
import { SpeechInput } from "./components/SpeechInput";
import { Tabs } from "./components/Tabs";
import { TextInput } from "./components/TextInput";
import { Waiting } from "./components/Waiting";
import * as recents from "./recent";

const HEALTH_EVERY = 15_000; // ms
const LIMITS = { seconds: 60, bytes: 20 * 2 ** 20, characters: 2000 }; // until the service says its own

/** What is sent, and what to call it. */
export interface Job extends Input {
  source: string;
}

export function App() {
  const service = useHealth();
  const limits = service?.limits ?? LIMITS;
  const [pending, setPending] = useState<{ job: Job; controller: AbortController } | null>(null);
  const [answer, setAnswer] = useState<{ job: Job; analysis: Analysis; id: number } | null>(null);
  const [problem, setProblem] = useState<{ failure: Failure; job?: Job } | null>(null);
  const [recent, setRecent] = useState(recents.load);
  const [draft, setDraft] = useState(""); // here, so that it outlives a look at another tab
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
      if (!controller.signal.aborted) setProblem({ failure: error instanceof Failure ? error : AWAY, job });
    }
    if (working.current === controller) setPending(null);
  }, []);

  const fail = useCallback((failure: Failure) => setProblem({ failure }), []);
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
          {service === undefined ? "Connecting" : service ? "Ready" : "Service away"}
        </p>
      </header>
      <main id="main">
        <section className="card input" aria-labelledby="input-heading">
          <h2 id="input-heading">Say something</h2>
          <Tabs
            label="Ways to say it"
            tabs={{
              Speak: <SpeechInput limit={limits.seconds} busy={pending !== null} onJob={send} onFailure={fail} />,
              File: <FileInput limits={limits} busy={pending !== null} onJob={send} onFailure={fail} />,
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
              This service does not recognise speech: a recording is judged by its voice alone, unless you add the words.
            </p>
          )}
          <Examples busy={pending !== null} onJob={send} onFailure={fail} />
        </section>
        <div className="outcome">
          <div role="status">
            {pending && (
              <Waiting
                doing={activity(pending.job, service?.speech ?? true)}
                onCancel={() => {
                  pending.controller.abort();
                  setPending(null);
                }}
              />
            )}
          </div>
          {problem && (
            <Problem
              failure={problem.failure}
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
          Recordings are analysed and forgotten: they are not stored. The model knows five emotions of English speech, and is
          often wrong; do not judge people by it.
        </p>
      </footer>
    </>
  );
}

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

/** What the service says of itself, asked now and then: undefined until it is known, null while it is away. */
function useHealth(): Health | null | undefined {
  const [known, setKnown] = useState<Health | null>();
  useEffect(() => {
    const ask = () =>
      health().then(
        (found) => setKnown(found),
        () => setKnown(null),
      );
    void ask();
    const timer = setInterval(ask, HEALTH_EVERY);
    return () => clearInterval(timer);
  }, []);
  return known;
}
