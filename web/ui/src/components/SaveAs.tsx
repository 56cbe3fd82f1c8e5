import { useId, useState } from "react";

import { download } from "../download";
import { fileName } from "../exports";

/** A kind of file, such as "CSV". */
export interface Format {
  name: string;
  type: string;
  /** Returns the contents; throws an error whose message is for people. */
  contents: () => BlobPart | Promise<BlobPart>;
}

interface Props {
  source: string;
  /** Returns the text for the clipboard. */
  text: () => string;
  formats: Format[];
}

/** Buttons that copy an answer, or save it as a file. */
export function SaveAs({ source, text, formats }: Props) {
  const [message, setMessage] = useState("");
  const heading = useId();

  async function save({ name, type, contents }: Format) {
    setMessage("");
    try {
      download(new Blob([await contents()], { type }), fileName(source, name.toLowerCase()));
    } catch (error) {
      setMessage((error as Error).message);
    }
  }

  async function copy() {
    setMessage(""); // so that screen readers announce a second "Copied" too
    try {
      await navigator.clipboard.writeText(text()); // absent on pages without HTTPS
      setMessage("Copied");
    } catch {
      setMessage("Your browser does not let this page copy; save the answer as a file instead.");
    }
  }

  return (
    <div className="save" role="group" aria-labelledby={heading}>
      <h3 id={heading}>Save the answer</h3>
      <div className="row">
        <button type="button" onClick={() => void copy()}>
          Copy
        </button>
        {formats.map((format) => (
          <button key={format.name} type="button" onClick={() => void save(format)}>
            {format.name}
          </button>
        ))}
        <small role="status">{message}</small>
      </div>
    </div>
  );
}
