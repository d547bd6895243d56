// The frame of every page: navigation, state of the connection, current role.
import { useEffect, useRef } from "preact/hooks";
import { wantsToken } from "./api.ts";
import { clock } from "./format.ts";
import { goToGraphiql } from "./graphiql.ts";
import { asOf, connection, type Connection } from "./live.ts";
import { Bring } from "./pages/bring.tsx";
import { Explore } from "./pages/explore.tsx";
import { Overview } from "./pages/overview.tsx";
import { Quarantine } from "./pages/quarantine.tsx";
import { Runs } from "./pages/runs.tsx";
import { Who } from "./pages/who.tsx";
import { route } from "./router.ts";
import { claims } from "./session.ts";
import { Icon, Notice, Toasts, type IconName } from "./ui.tsx";

const PAGES: [name: string, title: string, icon: IconName, page: () => unknown][] = [
  ["overview", "Overview", "overview", Overview],
  ["runs", "Runs", "runs", Runs],
  ["quarantine", "Quarantine", "quarantine", Quarantine],
  ["explore", "Explore", "explore", Explore],
  ["bring", "Bring data", "bring", Bring],
  ["who", "Who", "who", Who],
];

const WORDS: Record<Connection, string> = {
  live: "Live",
  connecting: "Connecting",
  reconnecting: "Reconnecting",
  polling: "Polling",
  offline: "Offline",
  stopped: "Not signed in",
};

/** Shows whether the page is live, or as of which time. */
const State = () => {
  const state = connection.value;
  return (
    <div class={`connection ${state}`} role="status" aria-label="State of the data">
      <span class="dot" />
      <span>
        {WORDS[state]}
        {state !== "live" && asOf.value !== undefined && (
          <span class="as-of">
            {" · as of "}
            <time>{clock(asOf.value)}</time>
          </span>
        )}
      </span>
    </div>
  );
};

const Person = () => {
  const { role, subject } = claims.value ?? {};
  const name = claims.value ? (subject ?? "token") : "Anonymous";
  return (
    <a class="person" href="#/who">
      <Icon name="who" />
      <span class="person-name">
        <span class="hidden">Who: </span>
        {name}
      </span>
      {role && <span class="badge">{role}</span>}
    </a>
  );
};

export const Shell = () => {
  const { page, part } = route.value;
  const found = PAGES.find(([name]) => name === page) ?? PAGES[0]!;
  const [name, title, , Page] = found;
  const main = useRef<HTMLElement>(null);
  const isFirst = useRef(true);
  useEffect(() => {
    document.title = `${part ? `${part} – ` : ""}${title} – Strata`;
    // After navigation, move the focus to the page's beginning; not on the first page, which the browser positions.
    if (isFirst.current) isFirst.current = false;
    else main.current?.focus();
  }, [name]);
  const View = Page as () => preact.JSX.Element;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href="#/overview" aria-label="Strata, overview">
          <svg viewBox="0 0 32 32" aria-hidden="true" focusable="false">
            <path class="brand-1" d="M16 3 3 9.500 16 16l13-6.500z" />
            <path class="brand-2" d="m3 14.500 13 6.500 13-6.500v3L16 24 3 17.500z" />
            <path class="brand-3" d="m3 20.500 13 6.500 13-6.500v3L16 30 3 23.500z" />
          </svg>
          <span>Strata</span>
        </a>
        <State />
        <Person />
      </header>
      <nav class="side" aria-label="Pages">
        <ul>
          {PAGES.map(([key, text, icon]) => (
            <li key={key}>
              <a href={`#/${key}`} aria-current={key === name ? "page" : undefined}>
                <Icon name={icon} />
                <span>{text}</span>
              </a>
            </li>
          ))}
          <li class="apart">
            <a
              href="/graphiql"
              onClick={(event) => {
                if (event.ctrlKey || event.metaKey || event.shiftKey) return;
                event.preventDefault();
                goToGraphiql();
              }}
            >
              <Icon name="external" />
              <span>GraphiQL</span>
            </a>
          </li>
        </ul>
      </nav>
      <main id="main" ref={main} tabIndex={-1}>
        {wantsToken.value !== undefined && name !== "who" && (
          <Notice kind="warning">
            {wantsToken.value}. <a href="#/who">Give a token</a>
          </Notice>
        )}
        <View key={name} />
      </main>
      <Toasts />
    </>
  );
};
