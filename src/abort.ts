/** The reason for which a signal was aborted, as text; `unsaid` if the caller of `abort()` gave none. */
export const reasonOf = ({ reason }: AbortSignal, unsaid: string): string =>
  reason instanceof Error && reason.name !== "AbortError" ? reason.message : unsaid;
