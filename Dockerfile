# Splatgate as one image. Three stages: the page's packages, the Python packages (gsplat compiled here, never at run
# time), and a final stage without CUDA's compiler, build tools or caches.
#
#   docker compose build
#   docker build --build-arg CUDA_ARCHITECTURES="8.9" .    # for your GPU only: minutes instead of an hour
#   docker build --build-arg CUDA_ARCHITECTURES="" .       # no CUDA rasteriser: profile shapes, CPU only

# 13.0 because torch 2.11.0 from PyPI is built against it; the base needs a host driver of 580 or newer.
# The digest decides, the tag is for readers. scripts/renew-base-images renews the digests.
ARG BUILD_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04@sha256:7d2f6a8c2071d911524f95061a0db363e24d27aa51ec831fcccf9e76eb72bc92
ARG RUN_BASE=nvidia/cuda:13.0.1-base-ubuntu24.04@sha256:f8ef28f579ea42a44b415d2c5d46f788e6a9b395c6c83f2929416e1fc192c143

FROM ${BUILD_BASE} AS page
# The pinned base determines the versions of distribution packages: a pin here would break with every security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates nodejs npm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY scripts/page scripts/page
COPY app/web/package.json app/web/package-lock.json app/web/.npmrc app/web/
RUN scripts/page

FROM ${BUILD_BASE} AS python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-dev g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/splatgate
ENV PATH=/opt/splatgate/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY scripts/image.lock scripts/image.lock
RUN pip install --require-hashes -r scripts/image.lock
# gsplat's wheel would compile itself at first use, which a read-only container without a compiler cannot. From its
# source archive it compiles now, for every architecture named: A100, A10/30x0, L4/40x0, H100/H200, B200, 50x0.
ARG CUDA_ARCHITECTURES="8.0;8.6;8.9;9.0;10.0;12.0"
ARG MAX_JOBS=8
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN if [ -n "$CUDA_ARCHITECTURES" ]; then \
        awk '/^[a-z]/ { ours = /^gsplat==/ } ours' scripts/image.lock > /tmp/gsplat.lock \
        && TORCH_CUDA_ARCH_LIST="$CUDA_ARCHITECTURES" MAX_JOBS="$MAX_JOBS" pip install --require-hashes --no-deps \
            --force-reinstall --no-binary gsplat --no-build-isolation -r /tmp/gsplat.lock \
        && test -n "$(find /opt/splatgate -name 'csrc*.so')"; \
    fi

# Our own files: readable whatever the umask of the checkout, and compiled, because nothing can be written later.
FROM python AS app
WORKDIR /srv/splatgate
COPY config.toml LICENSE THIRD_PARTY_LICENCES.md ./
COPY app app
COPY --from=page /src/app/web/static/vendor app/web/static/vendor
RUN chmod -R a+rX . && python -m compileall -q app

FROM ${RUN_BASE}
ARG RUN_BASE
ARG VERSION=dev
ARG REVISION=unknown
ARG CUDA_ARCHITECTURES="8.0;8.6;8.9;9.0;10.0;12.0"
LABEL org.opencontainers.image.title="Splatgate" \
      org.opencontainers.image.description="Text to judged 3D Gaussian splats, self-hosted" \
      org.opencontainers.image.licenses="MIT AND GPL-3.0-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${RUN_BASE}" \
      splatgate.cuda-architectures="${CUDA_ARCHITECTURES}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
        # Triton needs a C compiler to build the launcher of each of its kernels
        gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 splatgate \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin splatgate \
    && install -d -o 10001 -g 10001 /data /models \
    && printf '#!/bin/sh\nexec python -m app "$@"\n' > /usr/local/bin/splatgate \
    && chmod 755 /usr/local/bin/splatgate
COPY --from=python /opt/splatgate /opt/splatgate
WORKDIR /srv/splatgate
COPY --from=app /srv/splatgate .
# Everything that is written is on the data volume or in /tmp (a tmpfs under compose); the rest may be read-only.
ENV PATH=/opt/splatgate/bin:$PATH \
    PYTHONPATH=/srv/splatgate \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    XDG_CACHE_HOME=/data/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/data/cache/numba \
    TRITON_CACHE_DIR=/data/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/data/cache/inductor \
    SPLATGATE_CONFIG=/srv/splatgate/config.toml \
    SPLATGATE__PROFILE__NAME=full \
    SPLATGATE__MODELS__FOLDER=/models \
    SPLATGATE__SERVE__DATA=/data \
    SPLATGATE__SERVE__HOST=0.0.0.0
USER 10001:10001
VOLUME ["/data", "/models"]
EXPOSE 10010
STOPSIGNAL SIGTERM
# Ready means: an engine has loaded its models and its scorer has passed the self-test. Loading 30 GB from a slow disk
# takes minutes, during which the state is "starting"; afterwards three failures in a row (45 s) mean "unhealthy".
HEALTHCHECK --start-period=600s --interval=15s --timeout=10s --retries=3 CMD ["splatgate", "health"]
ENTRYPOINT ["splatgate"]
CMD ["serve"]
