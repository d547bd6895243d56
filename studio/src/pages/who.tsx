import { useSignal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { mayRead, wantsToken } from "../api.ts";
import { ago, title, utc } from "../format.ts";
import { features } from "../schema.ts";
import { claims, isKept, readClaims, setToken, token } from "../session.ts";
import { Button, Icon, Notice, now } from "../ui.tsx";

/** Shows the role's rights, found out by a minimal read of each list. */
const Rights = () => {
  const { entities = [], isClosed } = features.value ?? {};
  const [rights, setRights] = useState<Record<string, boolean>>({});
  const shown = entities.filter(({ isLive }) => !isLive);
  useEffect(() => {
    let isCurrent = true;
    for (const { field } of shown)
      mayRead(`query StudioRights { ${field}(first: 1) { nodes { __typename } totalCount } }`).then(
        (may) => isCurrent && setRights((before) => ({ ...before, [field]: may })),
        () => undefined,
      );
    return () => {
      isCurrent = false;
    };
  }, [token.value, entities]);
  if (isClosed)
    return (
      <Notice kind="info">Your role may not read the schema (introspection), so Explore has no lists.</Notice>
    );
  return (
    <ul class="rights" aria-label="What you may read">
      {shown.map(({ field }) => (
        <li key={field} class={rights[field] === false ? "no" : ""}>
          <Icon name={rights[field] === false ? "lock" : rights[field] ? "ok" : "clock"} />
          {rights[field] ? <a href={`#/explore/${field}`}>{title(field)}</a> : <span>{title(field)}</span>}
          <span class="hidden">{rights[field] === false ? "may not be read" : ""}</span>
        </li>
      ))}
    </ul>
  );
};

export const Who = () => {
  const given = useSignal("");
  const keep = useSignal(isKept.value);
  const [error, setError] = useState<string>();
  const known = claims.value;
  const submit = (event: Event): void => {
    event.preventDefault();
    const text = given.value.trim().replace(/^Bearer\s+/i, "");
    const read = readClaims(text);
    if (!read) return setError("That is no token: one has three parts with dots between them");
    if (read.expiresAt !== undefined && read.expiresAt * 1000 <= Date.now())
      return setError(`That token expired ${ago(new Date(read.expiresAt * 1000).toISOString(), Date.now())}`);
    setError(undefined);
    given.value = "";
    setToken(text, keep.value);
  };
  return (
    <>
      <div class="page-head">
        <h1>Who</h1>
      </div>
      <div class="columns">
        <section class="panel" aria-labelledby="you">
          <h2 id="you">You</h2>
          <dl class="facts">
            <dt>Role</dt>
            <dd>{known ? (known.role ?? "none in the token") : "anonymous"}</dd>
            <dt>Subject</dt>
            <dd>{known?.subject ?? "–"}</dd>
            {known?.expiresAt !== undefined && (
              <>
                <dt>Token expires</dt>
                <dd>
                  {ago(new Date(known.expiresAt * 1000).toISOString(), now.value)},{" "}
                  {utc(new Date(known.expiresAt * 1000).toISOString())} UTC
                </dd>
              </>
            )}
            {known && (
              <>
                <dt>Kept</dt>
                <dd>
                  {isKept.value
                    ? "in this tab, until it is closed"
                    : "in memory, until the page is loaded again"}
                </dd>
              </>
            )}
          </dl>
          {wantsToken.value !== undefined && <Notice kind="warning">{wantsToken.value}</Notice>}
          {known && (
            <Button icon="close" onClick={() => setToken(undefined, false)}>
              Forget the token
            </Button>
          )}
        </section>
        <section class="panel" aria-labelledby="token-title">
          <h2 id="token-title">{known ? "Another token" : "Give a token"}</h2>
          <form onSubmit={submit} class="stack">
            <label class="field">
              <span>Token</span>
              <textarea
                rows={4}
                spellcheck={false}
                autocomplete="off"
                class="code"
                value={given.value}
                aria-describedby="token-hint"
                onInput={(event) => (given.value = event.currentTarget.value)}
              />
            </label>
            <p id="token-hint" class="hint">
              From <code>npx strata-graphql token --role operator</code>, or in the address:{" "}
              <code>/#token=…</code>. It is sent to this server alone.
            </p>
            <label class="check">
              <input type="checkbox" checked={keep.value} onChange={() => (keep.value = !keep.value)} />
              Keep it in this tab when the page is loaded again
            </label>
            {error && <Notice kind="error">{error}</Notice>}
            <Button type="submit" kind="primary" disabled={given.value.trim() === ""}>
              Use this token
            </Button>
          </form>
        </section>
      </div>
      <section class="panel" aria-labelledby="may">
        <h2 id="may">What {known ? "you" : "anonymous"} may read</h2>
        <Rights />
      </section>
    </>
  );
};
