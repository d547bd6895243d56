// The page's state is its address: #/page/part?name=value.
import { computed, signal } from "@preact/signals";
// First: it takes the token out of the address.
import "./session.ts";

const read = () => location.hash.replace(/^#\/?/, "");
const address = signal(read());

addEventListener("hashchange", () => {
  // A token that is pasted into the address of an open page is taken like one that the page was opened with.
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

/** The same page with other parameters; undefined leaves one away. */
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
