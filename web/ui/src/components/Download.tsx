/** Button that saves a recording as a file, with the name of the file that the user chose if there is one. */
export function Download({ audio }: { audio: Blob }) {
  function save() {
    const ending = audio.type.split(";")[0]!.split("/")[1] || "webm";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(audio);
    link.download = audio instanceof File ? audio.name : `recording.${ending}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }
  return (
    <button type="button" onClick={save}>
      Download
    </button>
  );
}
