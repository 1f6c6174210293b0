#!/bin/sh
# Starts nginx as the proxy in front of the replicas, with limits that follow the settings of the service.
#
#   REPLICAS            servers, separated by spaces: addresses, or names that are resolved again while nginx runs
#   PROXY_LISTEN        port, or address and port, to listen on
#   PROXY_RESOLVER      name servers, and the parameters of nginx's `resolver`; those of the system when left out
#   PROXY_DIR           folder to write to; it holds the bodies of requests that are being received
#   BODY_LIMIT, REQUEST_TIMEOUT_MS, UPLOAD_TIMEOUT_MS, STREAM_LIMIT, STREAM_STALL_MS    as the service has them
#
# An empty variable counts as left out.
set -eu

here=$(dirname "$0")
dir=${PROXY_DIR:-/tmp/proxy}
replicas=${REPLICAS:-service:3000}
body_limit=${BODY_LIMIT:-1048576}
request_timeout_ms=${REQUEST_TIMEOUT_MS:-5000}
upload_timeout_ms=${UPLOAD_TIMEOUT_MS:-5000}
stream_limit=${STREAM_LIMIT:-1073741824}
stream_stall_ms=${STREAM_STALL_MS:-30000}

for pair in "BODY_LIMIT $body_limit" "REQUEST_TIMEOUT_MS $request_timeout_ms" "UPLOAD_TIMEOUT_MS $upload_timeout_ms" \
  "STREAM_LIMIT $stream_limit" "STREAM_STALL_MS $stream_stall_ms"; do
  case ${pair#* } in
    '' | *[!0-9]* | 0*)
      echo "proxy: ${pair%% *} is '${pair#* }'; it takes an integer, 1 or more" >&2
      exit 1
      ;;
  esac
done

# An IPv6 address stands in brackets.
system_resolvers() {
  awk '$1 == "nameserver" { printf "%s ", index($2, ":") ? "[" $2 "]" : $2 }' /etc/resolv.conf
}
resolver=${PROXY_RESOLVER:-$(system_resolvers)valid=2s ipv6=off}

is_address() {
  case ${1%:*} in
    \[*\]) return 0 ;;
    *[!0-9.]*) return 1 ;;
  esac
}
has_names=
count=0
for replica in $replicas; do
  count=$((count + 1))
  is_address "$replica" || has_names=yes
done

# Since version 1.27.3 the servers of an upstream may be names that are resolved again.
resolves_upstreams() {
  nginx -v 2>&1 | awk -F'[/.]' '{ exit !($2 * 1000000 + $3 * 1000 + $4 >= 1027003) }'
}

mkdir -p "$dir"
if [ -n "$has_names" ] && ! resolves_upstreams; then
  if [ $count -gt 1 ]; then
    echo 'proxy: this nginx takes one name in REPLICAS, or addresses; from version 1.27.3 on it takes several names' >&2
    exit 1
  fi
  # An older nginx resolves a name again only where it stands in a variable, and then picks an address at random.
  echo "map \$host \$replicas { default $replicas; }" > "$dir/replicas.conf"
else
  {
    echo "map \$host \$replicas { default replicas; }"
    echo 'upstream replicas {'
    echo '    zone replicas 256k;'
    # A replica that hangs gathers requests, and so gets no more of them.
    echo '    least_conn;'
    for replica in $replicas; do
      # max_fails=0: nothing that a client does takes a replica out.
      if is_address "$replica"; then echo "    server $replica max_fails=0;"; else echo "    server $replica max_fails=0 resolve;"; fi
    done
    echo '    keepalive 64;'
    echo '}'
  } > "$dir/replicas.conf"
fi

sed \
  -e "s|\${RESOLVER}|$resolver|" \
  -e "s|\${LISTEN}|${PROXY_LISTEN:-8080}|" \
  -e "s|\${BODY_LIMIT}|$body_limit|" \
  -e "s|\${REQUEST_TIMEOUT_MS}|$request_timeout_ms|" \
  -e "s|\${READ_TIMEOUT_MS}|$((request_timeout_ms + 400))|" \
  -e "s|\${UPLOAD_TIMEOUT_MS}|$upload_timeout_ms|" \
  -e "s|\${STREAM_LIMIT}|$stream_limit|" \
  -e "s|\${STREAM_TIMEOUT_MS}|$((stream_stall_ms + 2000))|" \
  "$here/nginx.conf.template" > "$dir/nginx.conf"

exec nginx -e stderr -p "$dir" -c "$dir/nginx.conf"
