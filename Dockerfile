# syntax=docker/dockerfile:1

# --- The package: what `npm pack` makes of the clone, as on a registry -----------------------------------
FROM node:24-bookworm-slim AS package
WORKDIR /clone
COPY package.json package-lock.json .npmrc ./
COPY package/node ./package/node
RUN npm ci --ignore-scripts
COPY . .
RUN npm pack --pack-destination /
WORKDIR /app
RUN npm init -y && npm install --ignore-scripts /strata-graphql-*.tgz && npm cache clean --force

# --- The image -------------------------------------------------------------------------------------------
FROM node:24-bookworm-slim
LABEL org.opencontainers.image.title="Strata" \
      org.opencontainers.image.description="A GraphQL data layer over a three-layer PostgreSQL pipeline" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
COPY --from=package /app ./
ENV PATH=/app/node_modules/.bin:$PATH

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
ENTRYPOINT ["node", "/app/node_modules/strata-graphql/bin/cli.js"]
CMD ["serve"]
