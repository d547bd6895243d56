// OpenTelemetry traces, configured by the standard environment variables; the library is loaded only if one is set.
import { setTimeout as sleep } from "node:timers/promises";
import type { Config } from "./config.ts";

interface SpanRecord {
  name: string;
  startedAt: Date;
  attributes: Record<string, string | number | boolean | undefined>;
  failed: boolean;
  /** The caller's traceparent header, to whose trace the span belongs. */
  traceparent?: string | undefined;
}

export interface Tracing {
  /** Records a span after its work has ended, so that no context has to be passed along. */
  record(span: SpanRecord): void;
  stop(): Promise<void>;
}

const FLUSH_MS = 2_000;

export async function startTracing(config: Config): Promise<Tracing | undefined> {
  const { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: traces } = config;
  if (config.OTEL_SDK_DISABLED || !(endpoint ?? traces)) return undefined;
  const [api, sdk, { OTLPTraceExporter }, resources] = await Promise.all([
    import("@opentelemetry/api"),
    import("@opentelemetry/sdk-trace"),
    import("@opentelemetry/exporter-trace-otlp-http"),
    import("@opentelemetry/resources"),
  ]);
  const provider = new sdk.TracerProvider({
    resource: resources
      .detectResources({ detectors: [resources.envDetector] })
      .merge(resources.resourceFromAttributes({ "service.name": config.OTEL_SERVICE_NAME })),
    sampler: new sdk.ParentBasedSampler({
      root: new sdk.TraceIdRatioBasedSampler(config.OTEL_TRACES_SAMPLER_ARG),
    }),
    // It reads the other OTEL_EXPORTER_OTLP_ variables itself: headers, time-out, compression.
    spanProcessors: [new sdk.BatchSpanProcessor({ exporter: new OTLPTraceExporter() })],
  });
  const tracer = provider.getTracer("strata");
  return {
    record({ name, startedAt, attributes, failed, traceparent }) {
      const [, traceId, spanId, flags] =
        /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(traceparent ?? "") ?? [];
      const parent =
        traceId && spanId
          ? api.trace.setSpanContext(api.ROOT_CONTEXT, {
              traceId,
              spanId,
              traceFlags: parseInt(flags!, 16),
              isRemote: true,
            })
          : api.ROOT_CONTEXT;
      const span = tracer.startSpan(
        name,
        { kind: api.SpanKind.SERVER, startTime: startedAt, attributes },
        parent,
      );
      if (failed) span.setStatus({ code: api.SpanStatusCode.ERROR });
      span.end();
    },
    // Do not wait for a collector that does not answer.
    stop: () => Promise.race([provider.shutdown().catch(() => undefined), sleep(FLUSH_MS)]),
  };
}
