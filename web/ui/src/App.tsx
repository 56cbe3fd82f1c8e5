/** The page: input, pending analysis, answer and recent analyses. */

import { lazy, Suspense, useCallback, useEffect, useRef, useState } from "react";

import { useAnalyses } from "./analyses";
import { type Analysis, ApiError, health, type Health } from "./api";
import { Examples } from "./components/Examples";
import { FileInput, megabytes } from "./components/FileInput";
import { Kept } from "./components/Kept";
import { Live } from "./components/Live";
import { Notice, NoticeDialog, type Topic } from "./components/Notice";
import { Problem } from "./components/Problem";
import { RecentAnalyses } from "./components/RecentAnalyses";
import { SpeechInput } from "./components/SpeechInput";
import { Tabs } from "./components/Tabs";
import { TextInput } from "./components/TextInput";
import { Waiting } from "./components/Waiting";
import type { Job } from "./job";
import * as recents from "./recent";
import { useRecorder } from "./recorder";
import { useSetting } from "./settings";

// most of the page's code draws the answer: it is loaded once the page can be used
const loadResult = () => import("./components/Result");
const Result = lazy(async () => ({ default: (await loadResult()).Result }));

const HEALTH_INTERVAL_MS = 1_500;
const LIMITS = { seconds: 60, bytes: 20 * 2 ** 20, characters: 2000 }; // used until /api/health returns the service's own limits
const UNREAD = new ApiError("unread", "Read the notice and press “I understand” first. Then drop the files again.");

interface Answer {
  job: Job;
  analysis: Analysis;
  id: number;
}

export function App() {
  const service = useHealth();
  const limits = service?.limits ?? LIMITS;
  const [recent, setRecent] = useState(recents.load);
  const [answer, setAnswer] = useState<Answer | null>(() => opened(recents.shown(recent)));
  const [draft, setDraft] = useState(""); // kept here, because switching tabs unmounts TextInput
  const [accepted, setAccepted] = useSetting("emoserve.notice", false); // whether the user has read the notice
  const [live, setLive] = useSetting("emoserve.live", true); // whether to show the emotion during a recording
  const [topic, setTopic] = useState<Topic | null>(null); // of the notice, shown in a dialog
  const input = useRef<HTMLElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const outcome = useRef<HTMLDivElement>(null);

  const onStart = useCallback(() => setAnswer(null), []);
  const onAnswer = useCallback((job: Job, analysis: Analysis) => {
    const id = Date.now();
    const { text, label, status, probabilities } = analysis;
    const when = new Date().toISOString();
    setAnswer({ job, analysis, id });
    setRecent((known) => recents.add(known, { id, when, source: job.source, text, label, status, probabilities, analysis }));
    recents.remember(id);
  }, []);
  const { jobs, failure, kept, send, fail, keep, retry, dismiss, cancel, discard } = useAnalyses(onStart, onAnswer);
  const onFinish = useCallback(
    (audio: Blob, analyse: boolean) => {
      const job = { audio, source: "Spoken", own: true };
      if (analyse) send([job]);
      else keep(job);
    },
    [send, keep],
  );
  const recorder = useRecorder(limits.seconds, onFinish, fail);
  const pending = failure?.job ? undefined : jobs[0];
  const busy = pending !== undefined;
  const onJob = useCallback((job: Job) => send([job]), [send]);

  const takeFiles = useCallback(
    (files: File[]) => {
      if (!accepted) return fail(UNREAD);
      const large = files.find((file) => file.size > limits.bytes);
      const empty = files.find((file) => !file.size);
      if (large) fail(new ApiError("too_large", `${large.name} is too large; at most ${megabytes(limits.bytes)} are accepted.`));
      else if (empty) fail(new ApiError("empty", `${empty.name} is empty. Choose another recording.`));
      const usable = files.filter((file) => file.size && file.size <= limits.bytes);
      if (usable.length) send(usable.map((file) => ({ audio: file, source: file.name, own: true })));
    },
    [accepted, limits.bytes, fail, send],
  );
  useDrop(takeFiles);

  function accept() {
    setAccepted(true);
    dismiss();
    heading.current?.focus(); // the button is gone
  }

  useQuestionBeforeLeaving(recorder.state === "recording" || kept.length > 0 || jobs.some((job) => job.own));
  useEffect(() => recents.watch(setRecent), []);
  useEffect(() => void loadResult(), []);

  useEffect(() => {
    // the live view has scrolled itself into view; on a small screen the button that stops is more important
    if (recorder.stream) input.current?.querySelector(".record")?.scrollIntoView?.({ block: "nearest" });
  }, [recorder.stream]);

  const news = pending ?? failure ?? kept.at(-1);
  useEffect(() => {
    if (news) outcome.current?.scrollIntoView?.({ block: "nearest" });
  }, [news]);

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
        <section className="card input" data-live={live && recorder.stream !== null} ref={input} aria-labelledby="input-heading">
          <h2 id="input-heading" ref={heading} tabIndex={-1}>
            {accepted ? "Say something" : "Before you start"}
          </h2>
          {accepted ? (
            <>
              <Tabs
                label="Ways to say it"
                marked={recorder.state === "recording" ? "Speak" : undefined}
                tabs={{
                  Speak: (
                    <SpeechInput recorder={recorder} limit={limits.seconds} busy={busy} live={live} onLive={setLive} />
                  ),
                  File: <FileInput limits={limits} busy={busy} onFiles={takeFiles} />,
                  Type: <TextInput text={draft} onText={setDraft} limit={limits.characters} busy={busy} onJob={onJob} />,
                }}
              />
              {service && !service.speech && (
                <p className="note">
                  This service does not recognise speech: it analyses the voice alone, unless you add the words.
                </p>
              )}
              <Examples busy={busy} onJob={onJob} onError={fail} />
            </>
          ) : (
            <Notice onAccept={accept} />
          )}
        </section>
        <div className="outcome" ref={outcome}>
          {live && recorder.stream && <Live stream={recorder.stream} />}
          <div role="status">
            {pending && (
              <Waiting
                activity={activity(pending, service?.speech ?? true)}
                others={jobs.length - 1}
                onCancel={cancel}
              />
            )}
          </div>
          {failure && <Problem failure={failure} onRetry={retry} onDismiss={dismiss} />}
          {kept.map(
            (one, index) =>
              one !== pending && (
                <Kept
                  key={index}
                  job={one}
                  limit={limits.seconds}
                  onJob={(job) => {
                    discard(one); // it is kept again if it fails
                    send([job]);
                  }}
                  onDiscard={() => discard(one)}
                  onError={fail}
                />
              ),
          )}
          {answer ? (
            <Suspense>
              <Result
                key={answer.id}
                job={answer.job}
                analysis={answer.analysis}
                busy={busy || !accepted}
                limit={limits.characters}
                onJob={onJob}
              />
            </Suspense>
          ) : (
            !recorder.stream && !pending && !failure && !kept.length && <Placeholder />
          )}
        </div>
        <RecentAnalyses
          recent={recent}
          onOpen={(one) => {
            setAnswer(opened(one));
            recents.remember(one.id);
          }}
          onClear={() => setRecent(recents.save([]))}
        />
      </main>
      <footer>
        <p>
          The model knows five emotions of English speech, and is often wrong; do not judge people by it.
        </p>
        <ul>
          <li>
            <button type="button" onClick={() => setTopic("terms")}>
              What is sent and kept
            </button>
          </li>
          <li>
            <button type="button" onClick={() => setTopic("model")}>
              About the model
            </button>
          </li>
          <li>
            <a href="/LICENSE.txt">Licence</a>
          </li>
        </ul>
      </footer>
      {topic && <NoticeDialog topic={topic} onClose={() => setTopic(null)} />}
    </>
  );
}

/** Returns a recent analysis as an answer without its recording. */
function opened(one: recents.Recent | undefined): Answer | null {
  return one?.analysis ? { job: { source: one.source, text: one.text }, analysis: one.analysis, id: one.id } : null;
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

/** Takes files that are dropped anywhere on the page, which the browser would otherwise open in its place. */
function useDrop(onFiles: (files: File[]) => void) {
  useEffect(() => {
    const over = (event: DragEvent) => event.preventDefault();
    const drop = (event: DragEvent) => {
      event.preventDefault();
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length) onFiles(files);
    };
    addEventListener("dragover", over);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("dragover", over);
      removeEventListener("drop", drop);
    };
  }, [onFiles]);
}

/** Lets the browser ask before the page is left or reloaded, while a recording would be lost. */
function useQuestionBeforeLeaving(unsaved: boolean) {
  useEffect(() => {
    if (!unsaved) return;
    const ask = (event: BeforeUnloadEvent) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [unsaved]);
}

/** Returns the service's health, polled: undefined until the first answer, null while the service is unavailable. */
function useHealth(): Health | null | undefined {
  const [known, setKnown] = useState<Health | null>();
  useEffect(() => {
    const ask = () => {
      if (document.hidden) return;
      health().then(setKnown, () => setKnown(null));
    };
    ask();
    const timer = setInterval(ask, HEALTH_INTERVAL_MS);
    document.addEventListener("visibilitychange", ask);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", ask);
    };
  }, []);
  return known;
}
