# The gateway alone. The document comes from outside: mount it at /etc/anabranch (a ConfigMap, say).
#
#   docker build -t anabranch .
#   docker run --rm -p 8080:8080 -v "$PWD/gateway.yaml:/etc/anabranch/gateway.yaml:ro" anabranch
#
# Routes in Python are looked for from /etc/anabranch. The demo's document with its routes, over services that run on this machine:
#
#   docker run --rm --network host -v "$PWD/demo:/etc/anabranch/demo:ro" -e ANABRANCH_DOCUMENT=demo/gateway.yaml anabranch

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/anabranch
COPY constraints.txt ./
COPY pyproject.toml README.md ./
COPY app ./app
RUN /opt/anabranch/bin/python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[http2]' \
 && /opt/anabranch/bin/python -m pip uninstall --yes --quiet pip \
 && /opt/anabranch/bin/python -m compileall -q /opt/anabranch/lib

FROM python:3.13-slim
COPY --from=build /opt/anabranch /opt/anabranch
ENV PATH=/opt/anabranch/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ANABRANCH_HOST=0.0.0.0 \
    ANABRANCH_PORT=8080 \
    ANABRANCH_DOCUMENT=/etc/anabranch
WORKDIR /etc/anabranch
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['ANABRANCH_PORT']}/readyz\", timeout=1)"]
CMD ["anabranch", "run"]
