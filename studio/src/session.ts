// Stores the user's token in memory, or in the tab's session storage if chosen. Never in localStorage or a URL.
import { computed, signal } from "@preact/signals";

const STORAGE_KEY = "strata:token";

export interface Claims {
  role: string | undefined;
  subject: string | undefined;
  expiresAt: number | undefined;
}

export const token = signal<string | undefined>(undefined);
export const isKept = signal(false);

/** Decodes the claims for display only; the server verifies the token. */
export function readClaims(given: string): Claims | undefined {
  try {
    const body = given.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    const text = (value: unknown) => (typeof value === "string" ? value : undefined);
    return {
      role: text(claims.role)?.replace(/^strata_/, ""),
      subject: text(claims.sub),
      expiresAt: typeof claims.exp === "number" ? claims.exp : undefined,
    };
  } catch {
    return undefined;
  }
}

export const claims = computed(() => (token.value === undefined ? undefined : readClaims(token.value)));

export function setToken(given: string | undefined, keep: boolean): void {
  token.value = given;
  isKept.value = keep && given !== undefined;
  try {
    if (isKept.value) sessionStorage.setItem(STORAGE_KEY, given!);
    else sessionStorage.removeItem(STORAGE_KEY);
  } catch {
    // The browser has storage switched off, so the token stays in memory.
    isKept.value = false;
  }
}

/** Reads the token from `#token=…` and removes it from the address and its history entry, before anything else runs. */
function startSession(): void {
  const match = /^#token=([^&]+)&?(.*)$/.exec(location.hash);
  if (match) {
    history.replaceState(null, "", `${location.pathname}${location.search}${match[2] ? `#${match[2]}` : ""}`);
    return setToken(decodeURIComponent(match[1]!), false);
  }
  try {
    const kept = sessionStorage.getItem(STORAGE_KEY);
    if (kept) setToken(kept, true);
  } catch {
    // The browser has storage switched off.
  }
}
startSession();
