/** Records from the microphone and measures the level. */

import { useCallback, useEffect, useRef, useState } from "react";

import { ApiError } from "./api";

const MIME_TYPES = ["audio/webm;codecs=opus", "audio/mp4"]; // formats that the service decodes
const METER_INTERVAL_MS = 60;
const STOP_EARLY_S = 0.5; // before the service's limit, because a recorder stops late
// the browser's processing changes how a voice sounds, and so the answer (docs/web.md)
const UNPROCESSED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const QUIET_LEVEL = 0.2; // -40 dB; speech into a working microphone is louder
const QUIET_AFTER_S = 3; // without a louder sound

export interface Recorder {
  state: "idle" | "asking" | "recording";
  seconds: number;
  /** The microphone's sound; null unless it is being recorded. */
  stream: MediaStream | null;
  /** Loudness from 0 to 1; null if it can't be measured. */
  level: number | null;
  /** Whether nothing was louder than QUIET_LEVEL so far. */
  quiet: boolean;
  start: () => void;
  /** Ends the recording, and says whether it is to be analysed at once. */
  stop: (analyse: boolean) => void;
}

/**
 * Records from the microphone.
 *
 * @param limit longest recording in seconds; a recording stops shortly before it
 * @param onFinish receives each recording, and whether it is to be analysed at once
 * @param onError receives the reason why nothing could be recorded
 */
export function useRecorder(
  limit: number,
  onFinish: (audio: Blob, analyse: boolean) => void,
  onError: (error: ApiError) => void,
): Recorder {
  const [state, setState] = useState<Recorder["state"]>("idle");
  const [recorded, setRecorded] = useState<MediaStream | null>(null);
  const [seconds, setSeconds] = useState(0);
  const [level, setLevel] = useState<number | null>(0);
  const [quiet, setQuiet] = useState(false);
  const release = useRef<() => void>(() => {});
  const recorder = useRef<MediaRecorder>(null);
  const analyse = useRef(true);
  const unmounted = useRef(false); // also set while the browser still asks for permission

  const start = useCallback(async () => {
    setState("asking");
    try {
      const stream = await microphone();
      release.current = () => stream.getTracks().forEach((track) => track.stop());
      if (unmounted.current) return release.current();
      const chunks: Blob[] = [];
      const type = MIME_TYPES.find((one) => MediaRecorder.isTypeSupported(one));
      const recording = new MediaRecorder(stream, type ? { mimeType: type } : {});
      const meter = startMeter(stream);
      const begin = performance.now();
      let loudest = 0;
      const timer = setInterval(() => {
        const elapsed = (performance.now() - begin) / 1000;
        const now = meter?.level() ?? null;
        loudest = Math.max(loudest, now ?? 1);
        setSeconds(elapsed);
        setLevel(now);
        setQuiet(elapsed > QUIET_AFTER_S && loudest < QUIET_LEVEL);
        if (elapsed >= limit - STOP_EARLY_S && recording.state === "recording") recording.stop();
      }, METER_INTERVAL_MS);
      release.current = () => {
        clearInterval(timer);
        meter?.stop();
        stream.getTracks().forEach((track) => track.stop());
        release.current = () => {};
      };
      recording.ondataavailable = (event) => chunks.push(event.data);
      recording.onstop = () => {
        if (unmounted.current) return; // the page was left: discard the recording
        release.current();
        setState("idle");
        setRecorded(null);
        setLevel(0);
        setQuiet(false);
        const audio = new Blob(chunks, { type: recording.mimeType });
        if (audio.size) onFinish(audio, analyse.current);
        else onError(new ApiError("empty", "Nothing was recorded. Check that your microphone works, and try again."));
      };
      recorder.current = recording;
      analyse.current = true;
      setSeconds(0);
      recording.start();
      setState("recording");
      setRecorded(stream);
    } catch (error) {
      release.current();
      if (unmounted.current) return;
      setState("idle");
      onError(explain(error));
    }
  }, [limit, onFinish, onError]);

  const stop = useCallback((wanted: boolean) => {
    analyse.current = wanted;
    if (recorder.current?.state === "recording") recorder.current.stop();
  }, []);

  useEffect(() => {
    unmounted.current = false;
    return () => {
      unmounted.current = true;
      release.current();
    };
  }, []);

  return { state, stream: recorded, seconds, level, quiet, start, stop };
}

async function microphone(): Promise<MediaStream> {
  if (!navigator.mediaDevices || typeof MediaRecorder === "undefined") {
    throw new ApiError(
      "insecure",
      "This browser records only on pages opened over https or from this computer. You can still send a file or type.",
    );
  }
  return navigator.mediaDevices.getUserMedia({ audio: UNPROCESSED });
}

/** Returns the error message for what getUserMedia or MediaRecorder threw. */
function explain(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
      return new ApiError(
        "denied",
        "The microphone is blocked for this page. Allow it in your browser's address bar, or send a file or type.",
      );
    case "NotFoundError":
      return new ApiError("missing", "No microphone was found. Connect one, or send a file or type.");
    case "NotReadableError":
      return new ApiError("taken", "The microphone is in use by another program. Close that program and try again.");
  }
  return new ApiError("recorder", "The microphone could not be used. You can still send a file or type.");
}

/**
 * Measures the loudness of a stream: root mean square, from -50 dB (0) to full scale (1).
 *
 * Returns null where the browser can't measure it: a recording works without its meter.
 */
function startMeter(stream: MediaStream): { level: () => number; stop: () => void } | null {
  try {
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, { fftSize: 1024 });
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    return {
      level: () => {
        analyser.getFloatTimeDomainData(samples);
        const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
        return Math.min(1, Math.max(0, 1 + Math.log10(power + 1e-10) / 5)); // -50 dB to full scale
      },
      stop: () => void context.close(),
    };
  } catch {
    return null;
  }
}
