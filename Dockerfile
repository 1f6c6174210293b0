# The service, and with --target test its tests. glibc: ONNX Runtime does not load on Alpine.
ARG NODE_IMAGE=node:22-bookworm-slim

FROM ${NODE_IMAGE} AS manifests
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY plugin/package.json plugin/
COPY service/package.json service/
# npm links a program only where its file is.
COPY service/bin service/bin

FROM manifests AS build
RUN npm ci --no-audit --no-fund
COPY tsconfig.json ./
COPY scripts scripts
COPY plugin plugin
COPY service service
RUN npm run build

FROM build AS test
# For tests that stop, freeze and fill a Redis, start the proxy, open the page, and do what the docs say.
RUN apt-get update && apt-get install -y --no-install-recommends redis-server nginx-light chromium curl openssl && rm -rf /var/lib/apt/lists/*
COPY . .
CMD ["npm", "test"]

FROM manifests AS production
RUN npm ci --omit=dev --no-audit --no-fund \
  # 240 MB of ONNX Runtime are for other platforms than this one.
  && find node_modules/onnxruntime-node/bin -mindepth 3 -maxdepth 3 -type d \
    ! -path "*/$(node -p 'process.platform')/$(node -p 'process.arch')" -exec rm -rf {} +

# Text pipelines of scikit-learn ask the operating system for this locale, and do not load without it.
FROM ${NODE_IMAGE} AS locale
RUN apt-get update && apt-get install -y --no-install-recommends locales \
  && localedef -i en_US -f UTF-8 en_US.UTF-8

FROM ${NODE_IMAGE}
ARG NODE_IMAGE
# A release gives these; see docs/releasing.md.
ARG VERSION=0.0.0-dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=
LABEL org.opencontainers.image.title="ml-api-rate-limiter" \
      org.opencontainers.image.description="An HTTP inference service for ONNX models with exact rate limits" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${NODE_IMAGE}"
ENV NODE_ENV=production
WORKDIR /app
COPY --from=locale /usr/lib/locale/locale-archive /usr/lib/locale/
COPY --from=production /app ./
COPY --from=build /app/plugin/dist plugin/dist
COPY --from=build /app/service/dist service/dist
COPY service/web service/web
COPY models models
COPY LICENSE deploy/healthcheck.mjs ./
# API keys and usage, where KEYS_STORE does not name a Redis.
RUN mkdir data && chown node:node data
VOLUME /app/data
USER node
EXPOSE 3000
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s --retries=3 CMD ["node", "healthcheck.mjs"]
# No shell and no npm between the signals and the service.
CMD ["node", "service/dist/server.js"]
