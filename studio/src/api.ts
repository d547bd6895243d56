// The public API and nothing else: GraphQL over HTTP, as whoever the token says.
import { signal } from "@preact/signals";
import { token } from "./session.ts";

export class ApiError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** When the server answered last, and whether it did the last time that it was asked. */
export const answeredAt = signal<number | undefined>(undefined);
export const isReachable = signal(true);
/** The server wants a token, or does not take this one. */
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

/** A filter without conditions is no filter; the API refuses an empty one. */
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

/** Whether the role may read this: asked once, with an answer that costs next to nothing. */
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
