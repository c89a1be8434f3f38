# An image without a shell in its use: one process, no root, nothing to write but the state directory.
#
#   docker build --tag apim-auth-proxy .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#       --volume ./config:/etc/apim-auth-proxy:ro --publish 127.0.0.1:8080:8080 apim-auth-proxy
#
# Any base with Python 3.11 or later and its venv module will do; it is both where the proxy is built and where it runs.
# COMPILE=1 compiles the relay (docs/adr/0008-mypyc.md), for which it needs Debian's compiler; COMPILE=0 leaves it as Python.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG COMPILE=1
# A compiler's version says nothing about what it makes, and Debian keeps no old one; the words of $() are to be split.
# hadolint ignore=DL3008,SC2046
RUN if [ "${COMPILE}" = 1 ]; then \
        apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends gcc libc6-dev \
# Python's own images bring its headers, Debian's python3 does not.
            $(test -e /usr/local/bin/python3 || echo python3-dev) >/dev/null; \
    fi
COPY . /source
# Everything comes as wheels with the hashes of the lock files, also what builds the proxy's own wheel: an sdist would bring build
# requirements that nothing pins. pip works in an environment of its own, so that it does not end up in the image. The two secrets
# are for networks where pip needs settings or a certificate authority to reach a package index; without them it asks PyPI.
# Options in variables are to be split, and WORKDIR would be a layer.
# hadolint ignore=DL3003,SC2086
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    python3 -m venv /build \
    && python3 -m venv --without-pip /opt/apim-auth-proxy \
    && pip="/build/bin/python -m pip --disable-pip-version-check --no-cache-dir" \
    && locked="--no-compile --require-hashes --only-binary=:all:" \
    && cd /source \
# What plays the cloud on one machine is not for a machine that serves.
    && rm -r proxy/sandbox proxy/cli/demo proxy/cli/sandbox.py \
    && $pip install $locked --requirement requirements-build.lock --requirement requirements.lock \
    && HATCH_BUILD_HOOK_ENABLE_MYPYC="${COMPILE}" $pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && pip="$pip --python /opt/apim-auth-proxy/bin/python" \
    && $pip install $locked --requirement requirements.lock \
    && $pip install --no-compile --no-deps --no-index /wheels/*.whl \
# Nothing can write bytecode at run time, and a hash keeps it good whatever a layer does to the times of files.
    && /opt/apim-auth-proxy/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/apim-auth-proxy/lib \
    && mkdir /state

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="apim-auth-proxy" \
      org.opencontainers.image.description="Adds Microsoft Entra ID access tokens for clients that cannot do OAuth" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/apim-auth-proxy /opt/apim-auth-proxy
COPY --from=build --chown=65532:65532 /state /state
# XDG_STATE_HOME leads the default state_directory below the volume: the proxy makes it with the mode it insists on, whatever
# mode a mounted volume has.
ENV PATH=/opt/apim-auth-proxy/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/state
# The interception CA lives here: keep the volume, and clients need to trust it only once.
VOLUME ["/state"]
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 65532:65532
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-I", "-c", "from urllib.request import *; build_opener(ProxyHandler({})).open('http://127.0.0.1:9901/livez', timeout=2)"]
ENTRYPOINT ["apim-auth-proxy"]
CMD ["run", "--config", "/etc/apim-auth-proxy/config.yaml"]
