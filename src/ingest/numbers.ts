// Numbers inside JSON. PostgreSQL keeps every digit, and writes all of them out whenever the value is read: sixteen
// bytes such as 1e131071 become 131,072. What no client can hold is rejected before it is kept.

/** May be written out in another way than it was sent, or be rounded by JSON.parse. */
export const LOSSY = /[\d.]{16}|\d[eE][+-]?\d\d/;

/** Longest JSON of a row in characters, its numbers written out; as long as a record may be. */
const MAX_WRITTEN = 1024 * 1024;

// Strings match as well, so that digits inside them are passed over.
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
