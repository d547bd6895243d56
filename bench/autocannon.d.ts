declare module "autocannon" {
  interface Options {
    url: string;
    method: "POST";
    connections: number;
    duration: number;
    headers: Record<string, string>;
    requests: { setupRequest: (request: object) => object }[];
  }
  interface Result {
    duration: number;
    errors: number;
  }
  type Listener = (client: unknown, status: number, bytes: number, milliseconds: number) => void;
  interface Run extends Promise<Result> {
    on(event: "response", listener: Listener): void;
  }
  export default function autocannon(options: Options): Run;
}
