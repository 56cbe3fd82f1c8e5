/** Writes tables as CSV. */

export type Cell = string | number | null | undefined;

const BYTE_ORDER_MARK = "\ufeff"; // without it, Excel does not read the file as UTF-8
const FORMULA = /^\s*[=+\-@＝＋－＠]|^[\t\r\n]/; // https://owasp.org/www-community/attacks/CSV_Injection
const QUOTED = /[",\r\n]/;

/** Returns a table as CSV (RFC 4180): the first row is the header, and null and undefined are empty cells. */
export function csv(rows: Cell[][]): string {
  return BYTE_ORDER_MARK + rows.map((row) => `${row.map(write).join(",")}\r\n`).join("");
}

/** Returns a cell as text. An apostrophe keeps spreadsheets from running text as a formula. */
function write(cell: Cell): string {
  if (typeof cell !== "string") return String(cell ?? "");
  const text = FORMULA.test(cell) ? `'${cell}` : cell;
  return QUOTED.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
