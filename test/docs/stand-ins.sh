# Read by every shell of shell-blocks.ts: what the commands of the pages come to where the real thing would take a
# network, Docker or many minutes. Everything else is what it is.

failed=0
trap 'failed=$?' ERR

# The copy of this repository that a clone would be is there already, under the same name.
git() {
  if [ "$1" = clone ]; then test -d "$(basename "$2" .git)"; else command git "$@"; fi
}

npm() {
  case "$1" in
    ci) test -f package-lock.json ;; # was done
    test) echo '# { total: 1, pass: 1 }' ;; # is going on
    install) npm_has "$2" ;;
    run) case "$2" in
      bench) test -n "$(command npm pkg get scripts.bench)" ;;
      *) command npm "$@" ;;
    esac ;;
    *) command npm "$@" ;;
  esac
}

# npm asks for what it runs here as it does everywhere; what it asks is another test's.
npx() {
  test "$1" = ml-api-rate-limiter && shift && node service/bin/ml-api-rate-limiter.js "$@"
}

npm_has() { node --input-type=module -e 'import(process.argv[1])' "$1"; }

# What a page asks of Docker is in compose.yaml, or in the files that it names.
docker() {
  local file=compose.yaml
  while [ $# -gt 0 ]; do
    case "$1" in
      -f) file=$2 && test -f "$2" || return 1 ;;
      --profile) grep -q "profiles: \[.*$2" compose.yaml || return 1 ;;
    esac
    shift
  done
  test -f "$file"
}
