/** Why a signal was aborted, for the record of what it ended; `unsaid` where the caller of `abort()` gave no reason. */
export const reasonOf = ({ reason }: AbortSignal, unsaid: string): string =>
  reason instanceof Error && reason.name !== "AbortError" ? reason.message : unsaid;
