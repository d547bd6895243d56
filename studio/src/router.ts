// Keeps the page's state in its address: #/page/part?name=value.
import { computed, signal } from "@preact/signals";
// Imported first, since it removes the token from the address.
import "./session.ts";

const read = () => location.hash.replace(/^#\/?/, "");
const address = signal(read());

addEventListener("hashchange", () => {
  // Handle a token pasted into an open page's address like one that the page was opened with.
  if (location.hash.startsWith("#token=")) location.reload();
  else address.value = read();
});

export interface Route {
  page: string;
  part: string | undefined;
  query: URLSearchParams;
}

export const route = computed<Route>(() => {
  const [path = "", search = ""] = address.value.split(/\?(.*)/s);
  const [page, part] = path.split("/").map(decodeURIComponent);
  return { page: page || "overview", part: part || undefined, query: new URLSearchParams(search) };
});

type Parameters = Record<string, string | string[] | undefined>;

export function hrefOf(page: string, part?: string, parameters: Parameters = {}): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters))
    for (const item of [value ?? []].flat()) if (item !== "") query.append(name, item);
  const text = query.toString();
  return `#/${page}${part ? `/${encodeURIComponent(part)}` : ""}${text ? `?${text}` : ""}`;
}

/** Returns the address of the same page with other parameters; undefined removes one. */
export function hrefWith(changes: Parameters): string {
  const { page, part, query } = route.value;
  const all: Parameters = {};
  for (const name of new Set(query.keys())) all[name] = query.getAll(name);
  return hrefOf(page, part, { ...all, ...changes });
}

export function go(href: string, { replace = false } = {}): void {
  if (href === location.hash) return;
  if (!replace) location.hash = href;
  else {
    history.replaceState(null, "", href);
    address.value = read();
  }
}
