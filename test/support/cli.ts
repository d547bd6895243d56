import { execFile } from "node:child_process";

export interface CliResult {
  code: number;
  stdout: string;
  stderr: string;
}

const cli = new URL("../../src/cli.ts", import.meta.url).pathname;

/** Runs `strata` as a process; only what is given is in its environment, beside PATH and the cache of compiled modules. */
export function strata(
  args: string[],
  environment: Record<string, string> = {},
  input?: string,
): Promise<CliResult> {
  const { PATH, NODE_COMPILE_CACHE } = process.env;
  return new Promise((done) => {
    const child = execFile(
      process.execPath,
      [cli, ...args],
      { env: { PATH, NODE_COMPILE_CACHE, ...environment } },
      (error, stdout, stderr) =>
        done({
          code: error ? ((error.code as number | undefined) ?? 1) : 0,
          stdout: String(stdout),
          stderr: String(stderr),
        }),
    );
    child.stdin?.end(input);
  });
}
