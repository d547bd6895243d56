import { effect } from "@preact/signals";
import { render } from "preact";
import { startLive } from "./live.ts";
import { token } from "./session.ts";
import { loadFeatures, watchSchema } from "./schema.ts";
import { Shell } from "./shell.tsx";

startLive();
watchSchema();
effect(() => {
  void token.value;
  void loadFeatures();
});
render(<Shell />, document.getElementById("studio")!);
