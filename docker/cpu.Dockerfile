# Triton for CPUs from the pip wheel, without GPU libraries, compiler and torch.
#   docker build --file docker/cpu.Dockerfile --tag emoserve-cpu .
# The models are a volume on /models (docker/models.Dockerfile). With speech recognition: --build-arg EXTRAS="server speech".
ARG BASE=docker.io/library/debian:12-slim

FROM ${BASE} AS packages
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY docker/requirements.py pyproject.toml requirements/constraints.txt requirements/whisper.txt ./
ARG EXTRAS=server
RUN python3 -m venv /opt/emoserve \
    && python3 requirements.py ${EXTRAS} > wanted.txt \
    && /opt/emoserve/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt --requirement wanted.txt \
    && case " ${EXTRAS} " in *" speech "*) \
        /opt/emoserve/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes --requirement whisper.txt ;; esac \
    && /opt/emoserve/bin/pip uninstall --yes pip setuptools

# The installed packages as CycloneDX: docker build --file docker/cpu.Dockerfile --target sbom --output build/sbom .
FROM packages AS inventory
RUN python3 -m venv /opt/cyclonedx \
    && /opt/cyclonedx/bin/pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/cyclonedx/bin/cyclonedx-py environment --output-file /cpu.cdx.json /opt/emoserve/bin/python

FROM scratch AS sbom
COPY --from=inventory /cpu.cdx.json /

FROM ${BASE}
LABEL org.opencontainers.image.title="emoserve-cpu" \
      org.opencontainers.image.description="Multimodal emotion recognition on NVIDIA Triton, for CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
# Triton's Python backend is linked against libpython
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 libpython3.11 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home emoserve
COPY --from=packages /opt/emoserve /opt/emoserve
WORKDIR /app
COPY emotion emotion
COPY stages stages
COPY serving serving
COPY speech_repository speech_repository
ENV PATH=/opt/emoserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    EMOSERVE_TRITON_HOST=0.0.0.0
USER 1000
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["python", "-m", "serving", "--repository", "/models"]
