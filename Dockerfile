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
# For tests that stop, freeze and fill a Redis of their own, that open the page, and that do what the docs say.
RUN apt-get update && apt-get install -y --no-install-recommends redis-server chromium curl openssl && rm -rf /var/lib/apt/lists/*
COPY . .
CMD ["npm", "test"]

FROM manifests AS production
RUN npm ci --omit=dev --no-audit --no-fund \
  # 240 MB of ONNX Runtime are for other platforms than this one.
  && find node_modules/onnxruntime-node/bin -mindepth 3 -maxdepth 3 -type d \
    ! -path "*/$(node -p 'process.platform')/$(node -p 'process.arch')" -exec rm -rf {} +

FROM ${NODE_IMAGE}
ENV NODE_ENV=production
WORKDIR /app
COPY --from=production /app ./
COPY --from=build /app/plugin/dist plugin/dist
COPY --from=build /app/service/dist service/dist
COPY service/web service/web
COPY models models
USER node
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 3000}/health/ready`).then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# No shell and no npm between the signals and the service.
CMD ["node", "service/dist/server.js"]
