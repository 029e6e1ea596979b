# One image, one entry point: docker run -p 8080:8080 -p 8081:8081 -v tollkeeper:/data IMAGE

FROM python:3.13-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
RUN python -m venv /opt/tollkeeper && python -m venv /opt/build
COPY requirements.lock /src/
RUN /opt/tollkeeper/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/requirements.lock
COPY tests/requirements.lock /src/tests/
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/tests/requirements.lock
COPY . /src/
RUN TOLLKEEPER_COMPILE=1 /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel /src \
    && /opt/tollkeeper/bin/pip install --no-cache-dir --no-deps /wheel/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin tollkeeper \
    && install -d -m 0700 -o tollkeeper -g tollkeeper /data
COPY --from=build /opt/tollkeeper /opt/tollkeeper
ENV PATH=/opt/tollkeeper/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TOLLKEEPER_DATA_DIR=/data \
    TOLLKEEPER_PROXY__HOST=0.0.0.0 \
    TOLLKEEPER_CONTROL__HOST=0.0.0.0 \
    TOLLKEEPER_LOG_FORMAT=json
USER tollkeeper
WORKDIR /data
VOLUME /data
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["tollkeeper"]
CMD ["serve"]
