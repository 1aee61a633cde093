# The router server.
#   docker build --file deploy/router.Dockerfile --tag serac-router .
#
# On CPUs: a query takes milliseconds there. For CUDA, give the base of deploy/worker.Dockerfile:
#   --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
# An index with CPU builds of torch saves gigabytes: --build-arg PIP_EXTRA_INDEX_URL=...
ARG BASE=ubuntu:24.04
# hadolint ignore=DL3006
FROM ${BASE}

# Versions of Ubuntu's packages can't be pinned: its archive keeps the newest alone.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates git openssh-client python3.12 python3.12-venv tini \
 && rm -rf /var/lib/apt/lists/*

ARG PIP_EXTRA_INDEX_URL=""
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1
WORKDIR /opt/serac
COPY . .
RUN python3.12 -m venv /opt/venv \
 && pip install --no-cache-dir --constraint constraints.txt --editable . \
 && python -m compileall -q flows serac_core

# Releases are fetched to /work.
RUN useradd --uid 10001 --create-home --home-dir /work serac \
 && install --directory --owner serac /work/home
USER 10001
ENV HOME=/work/home
WORKDIR /work
EXPOSE 8100
ENTRYPOINT ["tini", "--"]
CMD ["serac", "serve", "--config", "/etc/serac/router.yaml"]
