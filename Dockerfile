# Image of the server, for docker, podman and buildah:
#
#     docker build -t zkdns .
#     docker run -p 53:53/udp -p 53:53/tcp -e ZKDNS_ZOOKEEPER=zk01:2181 zkdns
#
# With podman and buildah, use --format docker: the OCI format has no health checks. BASE is an image with Python 3.11
# or newer, or an image of Debian or Ubuntu, in which Python is then installed with apt.

ARG BASE=python:3.11-slim

FROM ${BASE} AS base
RUN command -v python3 >/dev/null || { \
        apt-get update && \
        apt-get install --yes --no-install-recommends python3 && \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb; }

FROM base AS build
# Debian's python3 has neither venv nor pip.
RUN python3 -c 'import ensurepip' 2>/dev/null || { apt-get update && \
        apt-get install --yes --no-install-recommends python3-venv; }
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/zkdns
COPY pyproject.toml README.md /src/
COPY systemd /src/systemd
COPY zkdns /src/zkdns
# pip also compiles the modules. The user of the image cannot write there, and would compile them at each start.
# Deleted are kazoo's tests, and word lists of languages that no page of zkdns shows.
RUN /pip/bin/pip --python /opt/zkdns/bin/python install --no-cache-dir --no-input '/src[sasl,server]' && \
    cd /opt/zkdns/lib/python3*/site-packages && rm -r kazoo/tests && \
    find pygments/lexers -name '_*_builtins*' -delete

FROM base
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="zkdns" \
      org.opencontainers.image.description="A DNS server for one machine that answers from ZooKeeper server sets." \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/zkdns /opt/zkdns
# The configuration file is empty until another one is mounted over it.
RUN ln -s /opt/zkdns/bin/zkdns /usr/local/bin/zkdns && \
    mkdir -p /etc/zkdns /run/zkdns /var/lib/zkdns && \
    touch /etc/zkdns/zkdns.toml && \
    chown 65532:65532 /run/zkdns /var/lib/zkdns
# Settings for a container, which other machines query. Variables override the file, so that a file from another
# machine can be mounted unchanged. Change them with `-e`.
ENV ZKDNS_CONFIG=/etc/zkdns/zkdns.toml \
    ZKDNS_LISTEN=0.0.0.0:53 \
    ZKDNS_ADMIN=0.0.0.0:9153 \
    ZKDNS_ADMIN_SOCKET=/run/zkdns/api \
    ZKDNS_SNAPSHOT=/var/lib/zkdns/table
VOLUME /var/lib/zkdns
EXPOSE 53/udp 53/tcp 9153/tcp
# A number, so that Kubernetes can verify that it is not root. In a container's own network, docker and podman allow
# every user to bind port 53 (net.ipv4.ip_unprivileged_port_start=0).
USER 65532:65532
STOPSIGNAL SIGTERM
# The server is healthy if it responds, even if it has not read ZooKeeper yet: a restart would not help. --dns is
# given so that the check does not read the configuration file, which may have errors that the server has rejected.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD zkdns lookup localhost --timeout 3 ${ZKDNS_LISTEN:+--dns "${ZKDNS_LISTEN%%,*}"} >/dev/null; test $? -le 1
ENTRYPOINT ["zkdns"]
CMD ["serve"]
