# Sourced by .ci/scenario and .ci/cluster: starts raftkv processes that end with
# the shell that started them, however it ends, because they live as long as a
# pipe that it holds.

nodes_dir=$(mktemp -d)
mkfifo "$nodes_dir/alive"
exec 9<>"$nodes_dir/alive"
declare -A node_addr=() node_pid=()

# start_node ID ADDR FLAGS... starts a node and waits for its ready line.
start_node() {
  local id=$1 addr=$2 line
  shift 2
  "$raftkv" serve --id "$id" --addr "$addr" --exit-with-stdin "$@" \
    <"$nodes_dir/alive" >"$nodes_dir/ready$id" 2>"$nodes_dir/log$id" 9>&- &
  node_pid[$id]=$!
  for _ in $(seq 100); do
    line=$(head -n 1 "$nodes_dir/ready$id")
    if [ -n "$line" ]; then
      node_addr[$id]=$(sed -n 's/.*"addr":"\([^"]*\)".*/\1/p' <<<"$line")
      return 0
    fi
    kill -0 "${node_pid[$id]}" 2>/dev/null || break
    sleep 0.1
  done
  echo "node $id did not start:" >&2
  cat "$nodes_dir/log$id" >&2
  return 1
}

stop_nodes() {
  trap - EXIT INT TERM
  for id in "${!node_pid[@]}"; do kill "${node_pid[$id]}" 2>/dev/null || true; done
  for id in "${!node_pid[@]}"; do wait "${node_pid[$id]}" 2>/dev/null || true; done
  rm -rf "$nodes_dir"
}
trap stop_nodes EXIT
trap 'exit 130' INT TERM
