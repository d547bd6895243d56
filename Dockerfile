# syntax=docker/dockerfile:1

# --- Packages: everything that runs needs, nothing that only builds or tests do --------------------------
FROM node:24-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# The optional packages bring Node for machines without it; this image has it.
RUN npm ci --omit=dev --omit=optional --ignore-scripts && npm cache clean --force

# --- The studio: scripts and style of the first page, bundled once ---------------------------------------
FROM node:24-bookworm-slim AS studio
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY studio ./studio
RUN node studio/build.ts

# --- The image: no build step, Node runs the sources as they are -----------------------------------------
FROM node:24-bookworm-slim
LABEL org.opencontainers.image.title="Strata" \
      org.opencontainers.image.description="A GraphQL data layer over a three-layer PostgreSQL pipeline" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
COPY --from=packages /app/node_modules ./node_modules
COPY package.json graphile.config.ts schema.sql init.sql ./
COPY sql ./sql
COPY plugins ./plugins
COPY src ./src
COPY studio/build.ts ./studio/
COPY --from=studio /app/studio/dist ./studio/dist

# Only used without DATABASE_URL; the one place that the process writes to.
ENV DATA_DIR=/data HOST=0.0.0.0 PORT=4000
RUN install --directory --owner=node --group=node --mode=0700 /data
VOLUME /data
USER node
EXPOSE 4000

# Alive, not ready: a container that waits for its database must not be killed for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/healthz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]

# Node itself gets the signals: `docker stop` drains. Give it SHUTDOWN_TIMEOUT_MS and some (`--stop-timeout 30`).
ENTRYPOINT ["node", "/app/src/cli.ts"]
CMD ["serve"]
