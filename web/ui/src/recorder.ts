/** Recording from the microphone, with a level to show. */

import { useCallback, useEffect, useRef, useState } from "react";

import { Failure } from "./api";

const TYPES = ["audio/webm;codecs=opus", "audio/mp4"]; // what the service decodes; the browser's own choice otherwise
const LEVEL_EVERY = 60; // ms

export interface Recorder {
  state: "idle" | "asking" | "recording";
  seconds: number;
  /** From 0 to 1. */
  level: number;
  start: () => void;
  stop: () => void;
}

/** `finished` gets each recording, `failed` what prevents one; a recording ends by itself after `limit` seconds. */
export function useRecorder(limit: number, finished: (audio: Blob) => void, failed: (why: Failure) => void): Recorder {
  const [state, setState] = useState<Recorder["state"]>("idle");
  const [seconds, setSeconds] = useState(0);
  const [level, setLevel] = useState(0);
  const release = useRef<() => void>(() => {});
  const recorder = useRef<MediaRecorder>(null);
  const left = useRef(false); // somebody went elsewhere, perhaps while the browser asked for the microphone

  const start = useCallback(async () => {
    setState("asking");
    try {
      const stream = await microphone();
      release.current = () => stream.getTracks().forEach((track) => track.stop());
      if (left.current) return release.current();
      const chunks: Blob[] = [];
      const type = TYPES.find((one) => MediaRecorder.isTypeSupported(one));
      const recording = new MediaRecorder(stream, type ? { mimeType: type } : {});
      const meter = startMeter(stream);
      const begin = performance.now();
      const timer = setInterval(() => {
        const elapsed = (performance.now() - begin) / 1000;
        setSeconds(elapsed);
        setLevel(meter.level());
        if (elapsed >= limit && recording.state === "recording") recording.stop();
      }, LEVEL_EVERY);
      release.current = () => {
        clearInterval(timer);
        meter.stop();
        stream.getTracks().forEach((track) => track.stop());
        release.current = () => {};
      };
      recording.ondataavailable = (event) => chunks.push(event.data);
      recording.onstop = () => {
        if (left.current) return; // it was not meant to be sent
        release.current();
        setState("idle");
        setLevel(0);
        const audio = new Blob(chunks, { type: recording.mimeType });
        if (audio.size) finished(audio);
        else failed(new Failure("empty", "Nothing was recorded. Check that your microphone works, and try again."));
      };
      recorder.current = recording;
      setSeconds(0);
      recording.start();
      setState("recording");
    } catch (error) {
      release.current();
      if (left.current) return;
      setState("idle");
      failed(explain(error));
    }
  }, [limit, finished, failed]);

  const stop = useCallback(() => {
    if (recorder.current?.state === "recording") recorder.current.stop();
  }, []);

  useEffect(() => {
    left.current = false;
    return () => {
      left.current = true;
      release.current();
    };
  }, []);

  return { state, seconds, level, start, stop };
}

async function microphone(): Promise<MediaStream> {
  if (!navigator.mediaDevices || typeof MediaRecorder === "undefined") {
    throw new Failure(
      "insecure",
      "This browser records only on pages opened over https or from this computer. You can still send a file or type.",
    );
  }
  return navigator.mediaDevices.getUserMedia({ audio: true });
}

function explain(error: unknown): Failure {
  if (error instanceof Failure) return error;
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
      return new Failure(
        "denied",
        "The microphone is blocked for this page. Allow it in your browser's address bar, or send a file or type.",
      );
    case "NotFoundError":
      return new Failure("missing", "No microphone was found. Connect one, or send a file or type.");
    case "NotReadableError":
      return new Failure("taken", "The microphone is in use by another program. Close that, and try again.");
  }
  return new Failure("recorder", "The microphone could not be used. You can still send a file or type.");
}

function startMeter(stream: MediaStream): { level: () => number; stop: () => void } {
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
}
