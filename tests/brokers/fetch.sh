#!/bin/sh
# Fetches the real servers that the tests start: Apache Kafka's jars, and Debian's packages where they can be installed.
# Quiet, and quick where all is there already.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${RAYTRAIL_BROKERS:-$HOME/.cache/raytrail/brokers}
# chromium opens the dashboard, systemd reads our units, nginx stands before the server
packages="nats-server redis-server rsyslog rsyslog-kafka chromium systemd nginx"

# shellcheck disable=SC2086 (several words)
sh "$here/debian.sh" $packages

azurite=$cache/azurite  # Microsoft's own emulator of its blob storage
if [ ! -x "$azurite/node_modules/.bin/azurite-blob" ]; then
    if command -v npm >/dev/null; then
        npm install --silent --no-fund --no-audit --prefix "$azurite" azurite@3.35.0 >/dev/null
    else
        echo "no npm: the tests that need Azure's blob storage are skipped (apt-get install npm)" >&2
    fi
fi

version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
jars=$cache/kafka
if [ ! -e "$jars/kafka_2.13-$version.jar" ]; then
    if ! command -v mvn >/dev/null; then
        echo "no mvn: the tests that need Kafka are skipped (apt-get install maven openjdk-17-jre-headless)" >&2
        exit 0
    fi
    mkdir -p "$cache"
    part=$(mktemp -d "$jars.XXXXXX")
    # the version of the plugin is named, so that the same jars come next year
    mvn --quiet --batch-mode --file "$here/pom.xml" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$part"
    rm -rf "$jars"  # of another version
    mv -T "$part" "$jars" 2>/dev/null || rm -rf "$part"  # somebody else was first
fi

gateway=$cache/bin/versitygw  # an S3 server that keeps its objects in files
if [ ! -x "$gateway" ]; then
    if ! command -v go >/dev/null; then
        echo "no go: the tests that need an S3 are skipped (apt-get install golang)" >&2
        exit 0
    fi
    GOBIN=$cache/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 2>/dev/null
fi
