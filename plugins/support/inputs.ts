// Input objects of mutations, and their descriptions. What a client sends as null is as good as not sent.

/** An input object's type where each of its fields may be null. */
export type Nullable<T> = { [Key in keyof T]?: T[Key] | null };

/** The fields that have a value. */
export const givenOf = <T extends object>(input: Nullable<T>): Partial<T> =>
  Object.fromEntries(Object.entries(input).filter(([, value]) => value !== null)) as Partial<T>;

/** A description in a document of type definitions, on one line. */
export const text = (value: string): string => JSON.stringify(value.replace(/\s+/g, " ").trim());
