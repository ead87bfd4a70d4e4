# The gateway, without a document: mount a folder with one at /etc/anabranch (from a ConfigMap, for example). See docs/operations.md. An image with
# code of your own begins with this one: deploy/template.
#
#   docker build -t anabranch .
#   docker run --rm --read-only --cap-drop ALL --tmpfs /tmp -p 8080:8080 -v "$PWD/gateway:/etc/anabranch:ro" anabranch
#
# `--target demo` builds an image that also contains the demo's five services. EXTRAS: extras of pyproject.toml to install.

ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ARG EXTRAS=basic,cel,html,http2,jwt,otel,redis
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/wheel && /opt/wheel/bin/python -m pip install --quiet -c constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY app ./app
RUN /opt/wheel/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /opt/wheel/made . \
 && python -m venv /opt/anabranch \
 && /opt/anabranch/bin/python -m pip install --quiet --no-compile -c constraints.txt "$(echo /opt/wheel/made/*.whl)[${EXTRAS}]" \
 && cp constraints.txt /opt/anabranch/constraints.txt
# Compile all bytecode, including the standard library's: slim images lack it, and a read-only container cannot write it.
# Python compares it with the time and size of its source, so a file that a later image copies over another one is never run as it was.
ENV PYTHONPYCACHEPREFIX=/opt/bytecode
RUN /opt/anabranch/bin/python -m compileall -q -j 0 --invalidation-mode timestamp /opt/anabranch/lib \
 && /opt/anabranch/bin/python -m compileall -q -j 0 --invalidation-mode timestamp \
    -x '/(test|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|site-packages|dist-packages)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && mkdir -p /var/lib/anabranch

FROM ${BASE} AS runtime
# `pip install` in an image that begins with this one installs into the gateway's environment, and changes none of its versions.
ENV PATH=/opt/anabranch/bin:$PATH \
    PIP_CONSTRAINT=/opt/anabranch/constraints.txt \
    PYTHONPYCACHEPREFIX=/opt/bytecode \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ANABRANCH_HOST=0.0.0.0 \
    ANABRANCH_PORT=8080 \
    ANABRANCH_DOCUMENT=/etc/anabranch \
    ANABRANCH_JOURNAL_PATH=/var/lib/anabranch
COPY --from=build /opt/bytecode /opt/bytecode
COPY --from=build /opt/anabranch /opt/anabranch
COPY --from=build --chown=10001:10001 /var/lib/anabranch /var/lib/anabranch
WORKDIR /etc/anabranch
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# Takes about 10 ms of CPU: no curl, and no import of urllib, which takes 100 ms. It checks liveness, not readiness: an engine that restarts
# unhealthy containers must not do so because an upstream is down.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-SsP", "-c", "import _socket, os; s = _socket.socket(); s.settimeout(2); s.connect(('127.0.0.1', int(os.environ['ANABRANCH_PORT']))); s.send(b'GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n'); raise SystemExit(s.recv(64)[8:12] != b' 200')"]
CMD ["anabranch", "run"]

FROM runtime AS demo
COPY demo /opt/demo/demo
WORKDIR /opt/demo

FROM runtime AS gateway
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Anabranch" \
      org.opencontainers.image.description="An API aggregation gateway: one request branches out to many services and rejoins as one JSON document" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
