#!/bin/sh
# Prints the Java class path of a ZooKeeper server on this machine; status 1 if none is found.
set -u

if [ -n "${ZOOKEEPER_CLASSPATH:-}" ]; then
    printf '%s\n' "$ZOOKEEPER_CLASSPATH"
    exit 0
fi

# A release has its jars in lib. Before 3.5 the jar of the server is one level up.
release() {
    [ -n "$1" ] || return 1
    for jar in "$1"/lib/zookeeper-[0-9]*.jar "$1"/zookeeper-[0-9]*.jar; do
        if [ -e "$jar" ]; then
            printf '%s\n' "$1/lib/*:$1/*"
            exit 0
        fi
    done
    return 1
}

release "${ZOOKEEPER_HOME:-}"
if script=$(command -v zkServer.sh); then
    script=$(readlink -f "$script")
    release "$(dirname "$(dirname "$script")")"
fi

# The jar of Debian names its dependencies, except a logger, which a failed start needs for its error message, and
# parts of Netty, which TLS needs.
if [ -e /usr/share/java/zookeeper.jar ]; then
    classpath=/usr/share/java/zookeeper.jar
    for jar in slf4j-simple netty-codec netty-resolver; do
        [ -e "/usr/share/java/$jar.jar" ] && classpath=$classpath:/usr/share/java/$jar.jar
    done
    printf '%s\n' "$classpath"
    exit 0
fi

for home in /opt/zookeeper*; do
    release "$home"
done
exit 1
