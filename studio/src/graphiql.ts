// GraphiQL, of the same origin, takes its tabs from its storage: a query goes there as one more tab.
import { withoutEmpty } from "./api.ts";

interface State {
  tabs: { id: string; title: string; query: string }[];
  activeTabIndex: number;
}

export function openInGraphiql(title: string, query: string, variables: object): void {
  const key = "graphiql:tabState";
  try {
    const state = JSON.parse(localStorage.getItem(key) ?? '{"tabs":[]}') as State;
    const id = `studio-${title}`;
    const operationName = /query (\w+)/.exec(query)?.[1] ?? null;
    const tabs = state.tabs.filter((tab) => tab.id !== id);
    tabs.push({
      id,
      // GraphiQL calls the tab so as soon as it has run.
      title: operationName ?? title,
      query,
      hash: "",
      variables: JSON.stringify(withoutEmpty({ ...variables }), null, 2),
      headers: null,
      operationName,
      response: null,
    } as State["tabs"][number]);
    localStorage.setItem(key, JSON.stringify({ tabs, activeTabIndex: tabs.length - 1 }));
    localStorage.setItem("graphiql:query", query);
  } catch {
    // Without storage GraphiQL opens as it is.
  }
  location.href = "/graphiql";
}
