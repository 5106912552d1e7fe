FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/crossfade && /opt/crossfade/bin/pip install --no-cache-dir .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin crossfade
COPY --from=build /opt/crossfade /opt/crossfade
ENV PATH=/opt/crossfade/bin:$PATH PYTHONUNBUFFERED=1
USER crossfade
EXPOSE 6432 9632
# The admin side must listen on port 9632 of every interface, as in config/docker.yaml.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9632/healthz', timeout=2)"]
# SIGTERM drains: the proxy ends when its clients have, at most limits.drain_timeout later.
STOPSIGNAL SIGTERM
ENTRYPOINT ["crossfade"]
CMD ["serve", "-c", "/etc/crossfade/crossfade.yaml"]
