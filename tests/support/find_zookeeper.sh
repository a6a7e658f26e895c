#!/bin/sh
# Prints the Java class path of a ZooKeeper server on this machine; status 1 when there is none.
set -u

if [ -n "${ZOOKEEPER_CLASSPATH:-}" ]; then
    printf '%s\n' "$ZOOKEEPER_CLASSPATH"
    exit 0
fi

# An unpacked release keeps its jars in lib (before 3.5 the server's own is one level up).
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

# Debian's jar names what it depends on, but no logger, without which a failed start would say nothing, and not
# all of Netty, without which no TLS is spoken.
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
