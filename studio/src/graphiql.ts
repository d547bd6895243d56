// Opens a query in GraphiQL, by adding a tab to its storage, which pages of one origin share.
import { withoutEmpty } from "./api.ts";
import { isKept, token } from "./session.ts";

interface State {
  tabs: { id: string; title: string; query: string }[];
  activeTabIndex: number;
}

export function openInGraphiql(title: string, given: string, variables: object): void {
  // GraphiQL names a tab by its operation.
  const name = title.replaceAll(/(?:^|\W+)(\w)/g, (_, letter: string) => letter.toUpperCase());
  const query = given.replace(/query \w+/, `query ${name}`);
  const key = "graphiql:tabState";
  try {
    const state = JSON.parse(localStorage.getItem(key) ?? '{"tabs":[]}') as State;
    const id = `studio-${name}`;
    const tabs = state.tabs.filter((tab) => tab.id !== id);
    tabs.push({
      id,
      title: name,
      query,
      hash: "",
      variables: JSON.stringify(withoutEmpty({ ...variables }), null, 2),
      headers: null,
      operationName: name,
      response: null,
    } as State["tabs"][number]);
    localStorage.setItem(key, JSON.stringify({ tabs, activeTabIndex: tabs.length - 1 }));
    localStorage.setItem("graphiql:query", query);
  } catch {
    // Without storage GraphiQL opens unchanged.
  }
  goToGraphiql();
}

/** Opens GraphiQL with the same token; it finds one that the tab stores by itself. */
export function goToGraphiql(): void {
  const given = token.value;
  location.href =
    given === undefined || isKept.value ? "/graphiql" : `/graphiql#token=${encodeURIComponent(given)}`;
}
