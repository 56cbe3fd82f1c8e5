import type { Rejected } from "../analyses";

/** The files of several that got no answer, and why. Screen readers announce each one when it is added. */
export function RejectedFiles({ rejected, onClose }: { rejected: Rejected[]; onClose: () => void }) {
  return (
    <div role="log" aria-label="Files without an answer">
      {rejected.length > 0 && (
        <div className="card problem">
          <h2>
            {rejected.length} {rejected.length === 1 ? "file has" : "files have"} no answer
          </h2>
          <ul>
            {rejected.map(({ source, message }, index) => (
              <li key={index}>
                <strong dir="auto">{source}</strong> {message}
              </li>
            ))}
          </ul>
          <div className="row">
            <button type="button" onClick={onClose}>
              Close
            </button>
          </div>
        </div>
      )}
    </div>
  );
}
