# The server in an image of its own, for docker, podman and buildah:
#
#     docker build -t zkdns .
#     docker run -p 53:53/udp -p 53:53/tcp -e ZKDNS_ZOOKEEPER=zk01:2181 zkdns
#
# (podman and buildah with --format docker, since OCI's own format knows no health check.) BASE may be any image with
# Python 3.11 or newer, or one of Debian or Ubuntu without: then Python is installed by apt.

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
COPY zkdns /src/zkdns
# pip compiles what it installs: whoever runs the image may not write there, and would compile at each start.
RUN /pip/bin/pip --python /opt/zkdns/bin/python install --no-cache-dir --no-input '/src[sasl]'

FROM base
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="zkdns" \
      org.opencontainers.image.description="A DNS server for one machine that answers from ZooKeeper server sets." \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/zkdns /opt/zkdns
# The file is there to be mounted over; until then it says nothing.
RUN ln -s /opt/zkdns/bin/zkdns /usr/local/bin/zkdns && \
    mkdir -p /etc/zkdns /run/zkdns /var/lib/zkdns && \
    touch /etc/zkdns/zkdns.toml && \
    chown 65532:65532 /run/zkdns /var/lib/zkdns
# What a container is: its own machine, asked by others. Variables go before the file, so that a file from elsewhere
# can be mounted as it is; with `-e` they can be others.
ENV ZKDNS_CONFIG=/etc/zkdns/zkdns.toml \
    ZKDNS_LISTEN=0.0.0.0:53 \
    ZKDNS_ADMIN=0.0.0.0:9153 \
    ZKDNS_CONTROL=/run/zkdns/control \
    ZKDNS_SNAPSHOT=/var/lib/zkdns/table
VOLUME /var/lib/zkdns
EXPOSE 53/udp 53/tcp 9153/tcp
# No name of /etc/passwd, so that Kubernetes sees that it is not root. In a container's own network docker and podman
# let every user have port 53 (net.ipv4.ip_unprivileged_port_start=0).
USER 65532:65532
STOPSIGNAL SIGTERM
# Healthy is who answers at all, if only that ZooKeeper has not been read yet: a restart would not make that better.
# The server is named, so that no mistake in a file which it has refused to reload makes it ill.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD zkdns lookup localhost --timeout 3 ${ZKDNS_LISTEN:+--server "${ZKDNS_LISTEN%%,*}"} >/dev/null; test $? -le 1
ENTRYPOINT ["zkdns"]
CMD ["serve"]
