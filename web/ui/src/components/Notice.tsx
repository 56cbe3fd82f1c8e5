/** What people are told before they send anything. The footer shows it again. */

import { useEffect, useRef } from "react";

export type Topic = "terms" | "model";

const TITLE: Record<Topic, string> = { terms: "What is sent and kept", model: "About the model" };

interface Props {
  /** Whether the service stores feedback. */
  feedback: boolean;
}

/** The notice before the first input of a browser. */
export function Notice({ feedback, onAccept }: Props & { onAccept: () => void }) {
  return (
    <div className="notice">
      <Terms feedback={feedback} />
      <details>
        <summary>{TITLE.model}</summary>
        <Model />
      </details>
      <button type="button" className="primary" onClick={onAccept}>
        I understand
      </button>
    </div>
  );
}

/** One part of the notice in a dialog over the page. */
export function NoticeDialog({ topic, feedback, onClose }: Props & { topic: Topic; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (!dialog.current!.open) dialog.current!.showModal(); // in strict mode React runs this twice
  }, []);

  return (
    <dialog ref={dialog} className="notice" aria-labelledby="notice" onClose={onClose}>
      <div className="row">
        <h2 id="notice">{TITLE[topic]}</h2>
        <button type="button" onClick={() => dialog.current!.close()}>
          Close
        </button>
      </div>
      {topic === "terms" ? <Terms feedback={feedback} /> : <Model />}
    </dialog>
  );
}

function Terms({ feedback }: Props) {
  return (
    <>
      <p>
        A machine infers emotions from your voice and from your words. <strong>It is often wrong.</strong>
      </p>
      <dl>
        <dt>Sent to the service</dt>
        <dd>
          The recordings, files and texts that you let it analyse. While “Show the emotion while I speak” is on, as it is
          at first, also the sound while you record.
        </dd>
        <dt>Stored by the service</dt>
        <dd>
          No recordings and no texts{feedback && ", except those that you send with “This is wrong”"}. They are held in memory
          until they are answered.
        </dd>
        {feedback && (
          <>
            <dt>Stored with “This is wrong”</dt>
            <dd>
              The recording, its words and the emotion that you choose, on the service’s disk, to train later models. Only if
              you agree, each time. You get an id by which whoever runs this service can delete them.
            </dd>
          </>
        )}
        <dt>Kept in this browser</dt>
        <dd>
          The last 100 answers, with their texts and the names of their files, until you press “Clear”. Your settings. An
          access key, if you enter one, until you close the tab. No recordings.
        </dd>
        <dt>Do not judge people by it</dt>
        <dd>
          It must not be used to judge anybody at work or at school: the European Union’s AI Act prohibits inferring
          emotions there, recruitment included, except for medical or safety reasons (Article 5). Tell other people before
          you record them (Article 50).
        </dd>
      </dl>
    </>
  );
}

/** Facts of docs/model-card.md; tests/web/test_page.py compares the figures. */
function Model() {
  return (
    <>
      <p>These facts are about emoserve’s demo model. Ask whoever runs this service whether they use another one.</p>
      <dl>
        <dt>Knows</dt>
        <dd>
          Neutral, frustration, anger, sadness and excitement. It answers every other emotion as one of these, and never
          answers frustration from a voice alone.
        </dd>
        <dt>Words</dt>
        <dd>Learnt from English comments on Reddit (GoEmotions). 75.5&nbsp;% of 2,511 test comments are named right.</dd>
        <dt>Voice</dt>
        <dd>
          Learnt from German actors (EmoDB) in clips of two seconds. 80.2&nbsp;% of 339 clips are named right, each by a model
          that never heard the speaker.
        </dd>
        <dt>Both</dt>
        <dd>
          81.7&nbsp;% of 1,000 test pairs are named right. A pair is a recording and a comment with the same label: the figure
          does not say how voice and words go together in one person.
        </dd>
        <dt>Not measured</dt>
        <dd>Other accents, dialects and ages, and speech that is natural, noisy or far from the microphone.</dd>
      </dl>
    </>
  );
}
