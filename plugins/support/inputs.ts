// Helpers for mutations' input objects and their descriptions. A null counts as not given.

/** Type of an input object whose fields may be null. */
export type Nullable<T> = { [Key in keyof T]?: T[Key] | null };

/** Returns the fields that are not null. */
export const givenOf = <T extends object>(input: Nullable<T>): Partial<T> =>
  Object.fromEntries(Object.entries(input).filter(([, value]) => value !== null)) as Partial<T>;

/** Quotes a description for type definitions, on one line. */
export const text = (value: string): string => JSON.stringify(value.replace(/\s+/g, " ").trim());
