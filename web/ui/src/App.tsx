/** The page: input, pending analysis, answer and recent analyses. */

import { lazy, Suspense, useCallback, useEffect, useRef, useState } from "react";

import { type Rejected, useAnalyses } from "./analyses";
import { ApiError, health, type Health, type Limits } from "./api";
import { Examples } from "./components/Examples";
import { FileInput, megabytes } from "./components/FileInput";
import { KeptRecordings } from "./components/Kept";
import { Live } from "./components/Live";
import { Notice, NoticeDialog, type Topic } from "./components/Notice";
import { Problem } from "./components/Problem";
import { RecentAnalyses } from "./components/RecentAnalyses";
import { RejectedFiles } from "./components/RejectedFiles";
import { SpeechInput } from "./components/SpeechInput";
import { Tabs } from "./components/Tabs";
import { TextInput } from "./components/TextInput";
import { Waiting } from "./components/Waiting";
import { useKeptFocus } from "./focus";
import type { Job } from "./job";
import * as recents from "./recent";
import { useRecorder } from "./recorder";
import { useSetting } from "./settings";
import { type Answer, isLong } from "./utterances";

// most of the page's code draws the answer: it is loaded once the page can be used
const loadResult = () => import("./components/Result");
const Result = lazy(async () => ({ default: (await loadResult()).Result }));
const LongResult = lazy(async () => ({ default: (await import("./components/LongResult")).LongResult }));

const HEALTH_INTERVAL_MS = 1_500;
const LIMITS: Limits = { seconds: 60, long_seconds: 600, bytes: 20 * 2 ** 20, characters: 2000 }; // used until /api/health returns the service's own limits
const UNREAD = new ApiError("unread", "Read the notice and press “I understand” first. Then drop the files again.");

interface Shown {
  job: Job;
  analysis: Answer;
  id: number;
}

export function App() {
  const service = useHealth();
  const limits = service?.limits ?? LIMITS;
  const feedback = service?.feedback ?? false;
  const [recent, setRecent] = useState(recents.load);
  const [answer, setAnswer] = useState<Shown | null>(() => opened(recents.shown(recent)));
  const [draft, setDraft] = useState(""); // kept here, because switching tabs unmounts TextInput
  const [accepted, setAccepted] = useSetting("emoserve.notice", false); // whether the user has read the notice
  const [live, setLive] = useSetting("emoserve.live", true); // whether to show the emotion during a recording
  const [topic, setTopic] = useState<Topic | null>(null); // of the notice, shown in a dialog
  const input = useRef<HTMLElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const outcome = useRef<HTMLDivElement>(null);

  const onStart = useCallback((job: Job) => setAnswer((shown) => (shown?.job === job ? shown : null)), []);
  const onAnswer = useCallback((job: Job, analysis: Answer) => {
    const one = recents.toRecent(job, analysis);
    setAnswer({ job, analysis, id: one.id });
    setRecent((known) => recents.add(known, one));
    recents.remember(one.id);
  }, []);
  const analyses = useAnalyses(limits, onStart, onAnswer);
  const { jobs, finished, partial, failure, rejected, kept, send, fail, keep, retry, dismiss, cancel, discard, close } = analyses;
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
  const shown: Shown | null = pending && partial ? { job: pending, analysis: partial, id: recents.idOf(pending) } : answer;

  const takeFiles = useCallback(
    (files: File[]) => {
      if (!accepted) return fail(UNREAD);
      const problems = files.flatMap((file) => problemOf(file, limits.bytes) ?? []);
      const usable = files.filter((file) => !problemOf(file, limits.bytes));
      if (files.length === 1 && problems[0]) return fail(new ApiError("unusable", `${problems[0].source} ${problems[0].message}`));
      send(usable.map((file) => ({ audio: file, source: file.name, own: true })), problems);
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
  useKeptFocus(outcome);
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
            <Notice feedback={feedback} onAccept={accept} />
          )}
        </section>
        <div className="outcome" ref={outcome} role="group" aria-label="Outcome" tabIndex={-1}>
          {live && recorder.stream && <Live stream={recorder.stream} />}
          <div role="status">
            {pending && (
              <Waiting
                activity={activity(pending, service?.speech ?? true)}
                position={finished + jobs.length > 1 ? `${finished + 1} of ${finished + jobs.length} files` : ""}
                partial={partial}
                onCancel={cancel}
              />
            )}
          </div>
          {failure && (
            <Problem failure={failure} others={jobs.length - 1} onRetry={retry} onDismiss={dismiss} onCancel={cancel} />
          )}
          <RejectedFiles rejected={rejected} onClose={close} />
          <KeptRecordings
            jobs={kept.filter((one) => one !== pending)}
            limits={limits}
            onJobs={send}
            onDiscard={discard}
            onError={fail}
          />
          {shown ? (
            <Suspense>
              {isLong(shown.analysis) ? (
                <LongResult key={shown.id} job={shown.job} analysis={shown.analysis} running={shown.job === pending} />
              ) : (
              <Result
                key={shown.id}
                job={shown.job}
                analysis={shown.analysis}
                busy={busy || !accepted}
                limit={limits.characters}
                feedback={feedback}
                onJob={onJob}
              />
              )}
            </Suspense>
          ) : (
            !recorder.stream && !pending && !failure && !kept.length && !rejected.length && <Placeholder />
          )}
        </div>
        <RecentAnalyses
          recent={recent}
          onOpen={(one) => {
            setAnswer((known) => (known?.id === one.id ? known : opened(one))); // the one that is shown has its recording
            outcome.current?.scrollIntoView?.({ block: "nearest" });
            outcome.current?.querySelector<HTMLElement>("#answer")?.focus(); // another answer takes the focus itself
            recents.remember(one.id);
          }}
          onClear={() => setRecent(recents.save([]))}
        />
      </main>
      <footer>
        <p>
          The model knows five emotions and English words, and is often wrong; do not judge people by it.
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
            <a href="/api-docs.html">API</a>
          </li>
          <li>
            <a href="/LICENSE.txt">Licence</a>
          </li>
        </ul>
      </footer>
      {topic && <NoticeDialog topic={topic} feedback={feedback} onClose={() => setTopic(null)} />}
    </>
  );
}

/** Returns a recent analysis as an answer without its recording. */
function opened(one: recents.Recent | undefined): Shown | null {
  return one?.analysis ? { job: { source: one.source, text: one.text }, analysis: one.analysis, id: one.id } : null;
}

/** Returns why a file can't be sent; null if it can. */
function problemOf({ name, size }: File, limit: number): Rejected | null {
  if (!size) return { source: name, message: "is empty. Choose another recording." };
  const message = `is too large; at most ${megabytes(limit)} are accepted. Save it as MP3, M4A or FLAC, or cut it.`;
  return size > limit ? { source: name, message } : null;
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
