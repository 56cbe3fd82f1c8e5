# The web page and its gateway.
#   docker build --file docker/web.Dockerfile --tag emoserve-web .
# With tracing (docs/tracing.md): --build-arg EXTRAS="web tracing".
ARG BASE=docker.io/library/debian:12-slim
ARG NODE=docker.io/library/node:24-slim

FROM ${NODE} AS page
WORKDIR /web/ui
COPY web/ui/package.json web/ui/package-lock.json web/ui/.npmrc ./
RUN npm ci
COPY examples/speech /examples/speech
COPY web/ui ./
RUN npm run build

FROM ${BASE} AS packages
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY docker/requirements.py pyproject.toml requirements/constraints.txt ./
COPY clients clients
ARG EXTRAS=web
RUN python3 -m venv /opt/emoserve \
    && python3 requirements.py ${EXTRAS} > wanted.txt \
    && /opt/emoserve/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt --requirement wanted.txt ./clients \
    && /opt/emoserve/bin/pip uninstall --yes pip setuptools

# The installed packages as CycloneDX: docker build --file docker/web.Dockerfile --target sbom --output build/sbom .
FROM packages AS inventory
RUN python3 -m venv /opt/cyclonedx \
    && /opt/cyclonedx/bin/pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/cyclonedx/bin/cyclonedx-py environment --output-file /web.cdx.json /opt/emoserve/bin/python

FROM scratch AS sbom
COPY --from=inventory /web.cdx.json /

FROM ${BASE}
LABEL org.opencontainers.image.title="emoserve-web" \
      org.opencontainers.image.description="The page of emoserve, and the gateway between it and Triton" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home emoserve
COPY --from=packages /opt/emoserve /opt/emoserve
WORKDIR /app
COPY emotion emotion
COPY web/__init__.py web/__init__.py
COPY web/gateway web/gateway
COPY --from=page /web/ui/dist web/ui/dist
ENV PATH=/opt/emoserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    EMOSERVE_HOST=0.0.0.0
USER 1000
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/', timeout=4)"]
ENTRYPOINT ["python", "-m", "web.gateway"]
