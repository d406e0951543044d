# The gateway alone, its path of a request compiled: no torch, no build tools, no pip. Runs with a read-only root:
#   docker run --read-only --tmpfs /tmp -v gearshift:/data -p 8080:8080 gearshift

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
COPY . /source
RUN /source/deploy/image/build.sh /opt/gearshift

FROM python:3.11-slim-bookworm
COPY --from=build /opt/gearshift /opt/gearshift
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin gearshift \
    && install --directory --owner=gearshift --group=gearshift --mode=0750 /data
USER 10001
WORKDIR /data
VOLUME /data
ENV PATH=/opt/gearshift/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GEARSHIFT_HOST=0.0.0.0 \
    GEARSHIFT_DATA_DIR=/data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "/opt/gearshift/health.py"]
ENTRYPOINT ["gearshift"]
CMD ["serve"]
