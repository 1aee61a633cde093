# Workers of both pools, and the Prefect server: one image, so that versions fit.
#   docker build --file deploy/worker.Dockerfile --tag serac-worker .
#
# CUDA 13 with cuDNN 9, because onnxruntime-gpu 1.31 is built for them (its libraries are not in
# its package) and PyTorch's build of the same CUDA comes from the package index. The host needs a
# driver of branch 580 or later; `serac doctor --provider cuda` says whether all of it fits.
# Where no GPU is meant, give an index with CPU builds of torch:
#   --build-arg BASE=ubuntu:24.04 --build-arg PIP_EXTRA_INDEX_URL=...
ARG BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
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
    DVC_NO_ANALYTICS=1 \
    GX_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
WORKDIR /opt/serac
COPY . .
RUN python3.12 -m venv /opt/venv \
 && pip install --no-cache-dir --constraint constraints.txt --editable . \
 && python -m compileall -q flows serac_core

# Whoever runs a flow writes to /work (home, checkout, clones, caches) and /tmp, nowhere else.
# (The Prefect server, run from this image, writes to /var/lib/prefect.)
RUN useradd --uid 10001 --create-home --home-dir /work serac \
 && install --directory --owner serac /work/home /var/lib/prefect
USER 10001
ENV HOME=/work/home \
    PREFECT_HOME=/work/prefect \
    SERAC_CHECKOUT=/work/checkout
WORKDIR /work
ENTRYPOINT ["tini", "--"]
CMD ["serac", "worker", "--pool", "serac-cpu"]
