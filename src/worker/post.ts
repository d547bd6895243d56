// Posts a message to an external receiver, with a timeout and without following redirects. Errors omit the URL, whose
// path may be a secret.

/** Timeout of a receiver in ms. Further deliveries to it wait meanwhile; runs do not. */
const TIMEOUT_MS = 10_000;

/** Status codes that a retry of the same message would get again. */
const REJECTIONS = new Set([400, 405, 406, 409, 410, 411, 413, 415, 422]);

export interface Posted {
  status: number;
  host: string;
  ms: number;
}

/** Thrown if the receiver will never accept this message; the next one may be accepted. */
export class Rejected extends Error {}

export async function postJson(
  url: string,
  body: string,
  headers: Record<string, string>,
  signal?: AbortSignal,
): Promise<Posted> {
  const { host } = new URL(url);
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const startedAt = performance.now();
  let response: Response;
  try {
    response = await fetch(url, {
      method: "POST",
      body,
      redirect: "manual",
      headers: { "content-type": "application/json", "user-agent": "strata-graphql", ...headers },
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
  } catch (error) {
    if (signal?.aborted) throw new Error(`${host} was not waited for: the process is shutting down`);
    if (timeout.aborted) throw new Error(`${host} did not answer within ${TIMEOUT_MS / 1000} seconds`);
    const { code } = ((error as Error).cause ?? {}) as { code?: string };
    throw new Error(`${host} cannot be reached${code ? ` (${code})` : ""}`);
  }
  // Do not read the body, which may be endless.
  await response.body?.cancel().catch(() => undefined);
  const { status } = response;
  if (response.ok) return { status, host, ms: Math.round(performance.now() - startedAt) };
  if (status >= 300 && status < 400)
    throw new Error(
      `${host} answered ${status}; redirects are not followed, so give the URL that it leads to`,
    );
  const message = `${host} answered ${status}`;
  throw REJECTIONS.has(status) ? new Rejected(message) : new Error(message);
}
