// GraphiQL sends the headers of its tab. If they have no token, the page adds the one that it was opened with, over
// HTTP and WebSocket.

/** The key under which the studio keeps the token of its tab, if chosen. */
const STORAGE_KEY = "strata:token";

/**
 * A script that runs before GraphiQL. It takes the token from the address, else from the studio, else from the page.
 */
export function tokenScript(token: string | undefined, path: string): string {
  return `<script>
    {
      let token = ${JSON.stringify(token ?? null)};
      const given = /^#token=([^&]+)/.exec(location.hash);
      if (given) {
        history.replaceState(null, "", location.pathname + location.search);
        token = decodeURIComponent(given[1]);
      } else {
        try {
          token = sessionStorage.getItem(${JSON.stringify(STORAGE_KEY)}) ?? token;
        } catch {
          // The browser has storage switched off.
        }
      }
      if (token !== null) {
        const authorization = "Bearer " + token;
        const ownFetch = window.fetch;
        window.fetch = (resource, options) => {
          if (String(resource) !== location.origin + ${JSON.stringify(path)}) return ownFetch(resource, options);
          const headers = new Headers(options?.headers);
          if (!headers.has("authorization")) headers.set("authorization", authorization);
          return ownFetch(resource, { ...options, headers });
        };
        window.WebSocket = class extends window.WebSocket {
          send(data) {
            if (typeof data !== "string" || !data.startsWith('{"type":"connection_init"')) return super.send(data);
            const message = JSON.parse(data);
            const names = Object.keys(message.payload ?? {}).map((name) => name.toLowerCase());
            if (!names.includes("authorization")) message.payload = { ...message.payload, authorization };
            super.send(JSON.stringify(message));
          }
        };
      }
    }
  </script>`;
}
