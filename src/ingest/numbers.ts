// Checks numbers inside JSON. PostgreSQL stores every digit and writes all of them whenever the value is read:
// 1e131071 becomes 131,072 digits. Numbers beyond a double's range are rejected, since clients cannot hold them.

/** Matches numbers that PostgreSQL may write differently, or that JSON.parse may round. */
export const LOSSY = /[\d.]{16}|\d[eE][+-]?\d\d/;

/** Maximum characters of a row's JSON with its numbers written out; the same as for a record. */
const MAX_WRITTEN = 1024 * 1024;

// Matches strings as well, so that digits inside them are skipped.
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE]([+-]?\d+))?/gs;

export interface NumberFault {
  reason: "out_of_range" | "too_long";
  problem: string;
}

/** Finds what is wrong with the numbers of a valid JSON text: beyond a double's range, or too long written out. */
export function findNumberFault(json: string): NumberFault | undefined {
  if (!LOSSY.test(json)) return undefined;
  let written = json.length;
  for (const [text, exponent] of json.matchAll(STRING_OR_NUMBER)) {
    if (text.startsWith('"')) continue;
    const value = Number(text);
    if (!Number.isFinite(value) || (value === 0 && /^-?[0.]*[1-9]/.test(text)))
      return {
        reason: "out_of_range",
        problem: `the number ${shortened(text)} is beyond what a double can hold (5e-324 to 1.8e308, and negative)`,
      };
    if (exponent !== undefined) written += Math.abs(Number(exponent));
  }
  if (written <= MAX_WRITTEN) return undefined;
  return {
    reason: "too_long",
    problem: `its JSON has ${written} characters with the numbers written out; allowed: ${MAX_WRITTEN}`,
  };
}

const shortened = (text: string): string => (text.length > 40 ? `${text.slice(0, 40)}…` : text);
