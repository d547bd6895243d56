// Input objects of mutations: what a client sends as null is as good as not sent.

/** An input object's type where each of its fields may be null. */
export type Nullable<T> = { [Key in keyof T]?: T[Key] | null };

/** The fields that have a value. */
export const givenOf = <T extends object>(input: Nullable<T>): Partial<T> =>
  Object.fromEntries(Object.entries(input).filter(([, value]) => value !== null)) as Partial<T>;
