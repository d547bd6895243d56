// Faults of single rows, and errors of a whole input or request.

/** The quarantine's reason code, and its explanation. */
export interface Fault {
  reason: string;
  detail: string;
}

const coded = (code: string, message: string): Error => Object.assign(new Error(message), { code });
const has = (error: unknown, code: string): error is Error =>
  error instanceof Error && (error as { code?: unknown }).code === code;

/** The input as a whole is rejected; nothing of it has landed. */
export const badInput = (message: string): Error => coded("BAD_INPUT", message);
export const isBadInput = (error: unknown): error is Error => has(error, "BAD_INPUT");

/** The request cannot be fulfilled, whatever the input holds. */
export const badOption = (message: string): Error => coded("BAD_OPTION", message);
export const isBadOption = (error: unknown): error is Error => has(error, "BAD_OPTION");

/** Thrown if an expression cannot be evaluated for a value. It has no stack, since every row may throw one. */
export function unfitValue(message: string): Error {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  const error = coded("UNFIT_VALUE", message);
  Error.stackTraceLimit = stackTraceLimit;
  return error;
}
export const isUnfitValue = (error: unknown): error is Error => has(error, "UNFIT_VALUE");

export const unknownDataset = (message: string): Error => coded("UNKNOWN_DATASET", message);
export const isUnknownDataset = (error: unknown): error is Error => has(error, "UNKNOWN_DATASET");

/** Maximum names in a message; more make it unreadable. */
const MAX_NAMES = 50;

export function quoted(names: Iterable<string>): string {
  const all = [...names];
  const shown = all.slice(0, MAX_NAMES).map((name) => `"${name.slice(0, 100)}"`);
  return shown.join(", ") + (all.length > MAX_NAMES ? ` and ${all.length - MAX_NAMES} more` : "");
}
