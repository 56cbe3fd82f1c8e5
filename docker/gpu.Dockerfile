# Triton for GPUs: NVIDIA's Triton with its native ONNX Runtime backend, and our Python stages. Never built.
#   docker build --file docker/gpu.Dockerfile --tag emoserve-gpu .
# 26.09 has Triton 2.73, Ubuntu 24.04, Python 3.12, ONNX Runtime 1.28 and CUDA 13 (the nodes' driver must support it).
ARG TRITON=nvcr.io/nvidia/tritonserver:26.09-py3

FROM ${TRITON} AS triton
WORKDIR /slim/opt/tritonserver
# only the two backends that are used; libdcgm reads the GPU's metrics; cp --archive keeps links, which COPY does not
RUN mkdir backends /slim/lib \
    && cp --archive /opt/tritonserver/bin /opt/tritonserver/lib /opt/tritonserver/caches /opt/tritonserver/LICENSE . \
    && cp --archive /opt/tritonserver/backends/python /opt/tritonserver/backends/onnxruntime backends/ \
    && find /usr/lib -name "libdcgm*.so*" -exec cp --archive --target-directory=/slim/lib {} +

FROM ${TRITON} AS packages
WORKDIR /build
COPY docker/requirements.py pyproject.toml requirements/constraints.txt ./
# a virtual environment, because Ubuntu's Python is externally managed (PEP 668); the image's pip installs into it
RUN python3 requirements.py stages serving > wanted.txt \
    && python3 -m venv --without-pip /opt/emoserve \
    && python3 -m pip --python /opt/emoserve/bin/python install --no-cache-dir --no-compile \
        --constraint constraints.txt --requirement wanted.txt

# the same release without backends
FROM ${TRITON}-min
LABEL org.opencontainers.image.title="emoserve-gpu" \
      org.opencontainers.image.description="Multimodal emotion recognition on NVIDIA Triton, for GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
# Triton and its Python backend are linked against these libraries
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libarchive13t64 libb64-0d libcurl4t64 libgomp1 libnuma1 libpython3.12t64 libssl3t64 python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=triton /slim/opt/tritonserver /opt/tritonserver
COPY --from=triton /slim/lib /usr/lib/x86_64-linux-gnu
COPY --from=packages /opt/emoserve /opt/emoserve
WORKDIR /app
COPY emotion emotion
COPY stages stages
COPY serving serving
COPY speech_repository speech_repository
# Triton's stub uses the first python3 on PATH and the packages of its environment
ENV PATH=/opt/emoserve/bin:/opt/tritonserver/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    EMOSERVE_CONFIG=gpu \
    EMOSERVE_TRITON_HOST=0.0.0.0
# fail the build if a library is missing, except the driver's libraries, which the node provides
RUN ldconfig \
    && ldd /opt/tritonserver/bin/tritonserver /opt/tritonserver/backends/python/triton_python_backend_stub \
        /opt/tritonserver/backends/*/libtriton_*.so > /tmp/libraries \
    && ! grep --perl-regexp "^\s*+(?!libcuda\.|libnvidia-ml\.).*not found" /tmp/libraries \
    && python3 -c "import emotion.decoding, emotion.text, serving, stages.admission" \
    && rm /tmp/libraries
USER 1000
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
# NVIDIA's entry point enables CUDA's forward compatibility if the node's driver is older than the image's CUDA
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python3", "-m", "serving", "--repository", "/models"]
