// Requests to the public API, GraphQL over HTTP, with the user's token. The studio uses nothing else.
import { signal } from "@preact/signals";
import { token } from "./session.ts";

export class ApiError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** Time of the last response, and whether the last request got one. */
export const answeredAt = signal<number | undefined>(undefined);
export const isReachable = signal(true);
/** Set if the server requires a token, or rejects the current one. */
export const wantsToken = signal<string | undefined>(undefined);

export type Variables = Record<string, unknown>;
interface GraphqlError {
  message: string;
  extensions?: { code?: string };
}

export const authorization = (): Record<string, string> =>
  token.value === undefined ? {} : { authorization: `Bearer ${token.value}` };

const WAIT_MS = 30_000;

export async function request<Data = any>(
  query: string,
  variables: Variables = {},
  { signal, isPartialAllowed = false }: { signal?: AbortSignal | undefined; isPartialAllowed?: boolean } = {},
): Promise<Data> {
  const givenToken = token.value;
  let response: Response;
  let text: string;
  try {
    response = await fetch("/graphql", {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/graphql-response+json, application/json;q=0.9",
        ...authorization(),
      },
      body: JSON.stringify({ query, variables: withoutEmpty(variables) }),
      signal: signal ?? AbortSignal.timeout(WAIT_MS),
      cache: "no-store",
      credentials: "omit",
    });
    text = await response.text();
  } catch (error) {
    if ((error as Error).name === "AbortError") throw error;
    isReachable.value = false;
    throw new ApiError("UNREACHABLE", "The server does not answer");
  }
  const body = parse<Data>(text);
  if (!body) {
    isReachable.value = false;
    throw new ApiError(
      "UNREACHABLE",
      `The server answered with status ${response.status} and no GraphQL result`,
    );
  }
  const error = body.errors?.[0];
  if (error && (body.data == null || !isPartialAllowed)) {
    const { code = "INTERNAL_SERVER_ERROR" } = error.extensions ?? {};
    if (code === "UNAUTHENTICATED" && givenToken === token.value) wantsToken.value = error.message;
    isReachable.value = code !== "SERVICE_UNAVAILABLE";
    throw new ApiError(code, error.message);
  }
  isReachable.value = true;
  answeredAt.value = Date.now();
  wantsToken.value = undefined;
  return body.data as Data;
}

/** Removes an empty filter, which the API rejects. */
export const withoutEmpty = (variables: Variables): Variables =>
  Object.fromEntries(
    Object.entries(variables).filter(([, value]) => value !== undefined && JSON.stringify(value) !== "{}"),
  );

function parse<Data>(text: string): { data?: Data | null; errors?: GraphqlError[] } | undefined {
  try {
    const body = JSON.parse(text) as unknown;
    return typeof body === "object" && body !== null ? body : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the role may run this query, found out by running a cheap one. */
export async function mayRead(query: string): Promise<boolean> {
  try {
    await request(query);
    return true;
  } catch (error) {
    if (error instanceof ApiError && ["FORBIDDEN", "BAD_USER_INPUT", "UNAUTHENTICATED"].includes(error.code))
      return false;
    throw error;
  }
}
