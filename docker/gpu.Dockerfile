# Triton on a GPU: NVIDIA's image with its native ONNX Runtime backend, and our Python stages. Not run yet: written without a GPU.
#   docker build --file docker/gpu.Dockerfile --tag emoserve-gpu .
FROM nvcr.io/nvidia/tritonserver:24.10-py3
LABEL org.opencontainers.image.title="emoserve-gpu" \
      org.opencontainers.image.description="Multimodal emotion recognition on NVIDIA Triton, for GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /app
COPY docker/requirements.py pyproject.toml requirements/constraints.txt ./
# the image's own Python runs the stages; Triton and ONNX Runtime are there
RUN python3 requirements.py > wanted.txt \
    && sed 's/==1.26.4/<2/' wanted.txt > image.txt \
    && python3 -m pip install --no-cache-dir --requirement image.txt
COPY emotion emotion
COPY stages stages
COPY serving serving
COPY speech_repository speech_repository
ENV PYTHONDONTWRITEBYTECODE=1 \
    EMOSERVE_CONFIG=gpu
USER 1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["python3", "-m", "serving", "--host", "0.0.0.0", "--repository", "/models"]
