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
    non2xx: number;
    errors: number;
    requests: { total: number };
    latency: { p50: number; p99: number };
    statusCodeStats: Record<string, { count: number }>;
  }
  export default function autocannon(options: Options): Promise<Result>;
}
