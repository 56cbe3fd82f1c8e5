import { download } from "../download";

/** Button that saves a recording as a file, with the name of the file that the user chose if there is one. */
export function Download({ audio }: { audio: Blob }) {
  function save() {
    const ending = audio.type.split(";")[0]!.split("/")[1] || "webm";
    download(audio, audio instanceof File ? audio.name : `recording.${ending}`);
  }
  return (
    <button type="button" onClick={save}>
      Download
    </button>
  );
}
