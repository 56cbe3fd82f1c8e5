# An exported model repository only. An init container copies it into the volume that Triton serves.
#   make export && docker build --file docker/models.Dockerfile --tag emoserve-models .
ARG BASE=docker.io/library/debian:12-slim
FROM ${BASE}
ARG REPOSITORY=build/model_repository
LABEL org.opencontainers.image.title="emoserve-models" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --chown=1000:1000 ${REPOSITORY} /models
USER 1000
HEALTHCHECK NONE
ENTRYPOINT ["cp", "--recursive", "--no-target-directory", "/models", "/target"]
