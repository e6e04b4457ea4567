#!/usr/bin/env bash
# Runs the Autobahn fuzzing client (wstest) against a WebSocket echo endpoint
# and prints one summary line.
#
#   autobahn.sh [options] URL [CASE-PATTERN ...]
#   autobahn.sh -i
#
#   URL            ws://127.0.0.1:7777/echo or wss://…  (the endpoint must echo text and binary)
#   CASE-PATTERN   Autobahn patterns, e.g. '1.*' '6.4.2'   (default: '*')
#
#   -i             install the suite and end
#   -c FILE        the certificate in FILE vouches for a wss: endpoint, which is then
#                  verified, the host's name too; without it any certificate will do
#   -x PATTERN     leave these cases out (may be given more than once)
#   -o DIR         where reports go (default: a fresh temporary folder)
#   -t SECONDS     give up after that long (default 1800)
#   -e             an UNIMPLEMENTED case counts as a failure (expect compression)
#   -S             a NON-STRICT case counts as a failure
#   -q             the summary line only
#
# Exit: 0 all cases pass; 1 some case failed; 2 the run itself did not complete
# (server away, fewer cases reported than asked for, time limit, install
# failed); 3 there is no Python 2.7 here.
#
# The suite is Python 2.7 code. A 2.7 interpreter is taken from $AUTOBAHN_PY2,
# the PATH, or pyenv's versions. The suite is installed once, from its PyPI
# package, into a private environment below $AUTOBAHN_HOME (default:
# target/tools/autobahn of this project); that needs gcc for two small C
# extensions.
#
# Patterns are regular expressions of a sort: `.` is literal, `*` is `.*`,
# matched at the start. So `1.*` is section 1 only. A pattern with no `*` is
# one case id, verbatim.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${AUTOBAHN_HOME:-$here/../../target/tools/autobahn}
suite=autobahntestsuite==25.10.1
# The last virtualenv that can still make a 2.7 environment.
virtualenv=virtualenv==20.21.1

die() {
  echo "autobahn: $*" >&2
  exit 2
}
usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}

out='' limit=1800 quiet='' install_only='' voucher='' exclude=() flags=()
while getopts 'ic:x:o:t:eSqh' option; do
  case $option in
    i) install_only=1 ;;
    c) voucher=$(realpath "$OPTARG") ;;
    x) exclude+=("$OPTARG") ;;
    o) out=$OPTARG ;;
    t) limit=$OPTARG ;;
    e) flags+=(--need-all) ;;
    S) flags+=(--strict) ;;
    q) quiet=1 flags+=(--quiet) ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))

find_python2() {
  local python
  for python in "${AUTOBAHN_PY2:-}" "$(command -v python2.7 || true)" \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
    # Asking it for its version also weeds out pyenv's shims without a version behind them.
    if [ -x "$python" ] &&
      "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "autobahn: no Python 2.7 found in \$AUTOBAHN_PY2, the PATH or pyenv" >&2
  exit 3
}

install_suite() {
  local python2=$1 log=$home/install.log
  mkdir -p "$home"
  # Two runs at once install once.
  exec 9>"$home/lock"
  flock 9
  if [ ! -e "$home/ready" ] || [ "$(cat "$home/ready")" != "$suite" ]; then
    echo "autobahn: installing $suite (once, about half a minute)" >&2
    rm -rf "$home/ready" "$home/suite" "$home/virtualenv"
    {
      python3 -m venv "$home/virtualenv" &&
        "$home/virtualenv/bin/pip" install -q "$virtualenv" &&
        "$home/virtualenv/bin/virtualenv" -q -p "$python2" "$home/suite" &&
        "$home/suite/bin/pip" install "$suite" &&
        "$home/suite/bin/wstest" --autobahnversion
    } >"$log" 2>&1 || {
      tail -5 "$log" >&2
      die "installing failed, see $log"
    }
    echo "$suite" >"$home/ready"
  fi
  exec 9>&-
}

python2=$(find_python2)
install_suite "$python2"
[ -z "$install_only" ] || exit 0
[ $# -ge 1 ] || usage
url=$1
shift
[ $# -gt 0 ] || set -- '*'

[ -n "$out" ] || out=$(mktemp -d "${TMPDIR:-/tmp}/autobahn.XXXXXX")
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out/reports"

URL=$url VOUCHER=$voucher EXCLUDE=$(printf '%s\n' "${exclude[@]:-}") python3 - "$out/spec.json" "$@" <<'PY'
import json, os, sys
from urllib.parse import urlsplit
exclude = [line for line in os.environ["EXCLUDE"].split("\n") if line]
server = {"agent": "testee", "url": os.environ["URL"]}
if os.environ["VOUCHER"]:
    # A name to verify is what makes the suite verify at all.
    server["hostname"] = urlsplit(os.environ["URL"]).hostname
spec = {
    "outdir": "./reports",
    "servers": [server],
    "cases": sys.argv[2:],
    "exclude-cases": exclude,
    "exclude-agent-cases": {},
}
json.dump(spec, open(sys.argv[1], "w"), indent=1)
PY

log=$out/wstest.log
rc=0
[ -z "$voucher" ] || export SSL_CERT_FILE=$voucher
(cd "$out" && exec timeout -k 5 "$limit" "$home/suite/bin/wstest" -m fuzzingclient -s spec.json) \
  >"$log" 2>&1 || rc=$?
if [ "$rc" = 124 ] || [ "$rc" = 137 ]; then
  grep '^Running test case' "$log" | tail -1 >&2 || true
  die "no end after $limit s; log: $log"
fi
# wstest ends with 0 whatever happened to the cases: the report is what counts.
if [ "$rc" != 0 ] || [ ! -e "$out/reports/index.json" ]; then
  tail -3 "$log" >&2
  die "wstest ended with $rc and without a full report; log: $log"
fi
rc=0
python3 "$here/autobahn_summary.py" ${flags[@]+"${flags[@]}"} --url "$url" --log "$log" \
  "$out/reports/index.json" || rc=$?
[ -n "$quiet" ] || echo "reports: $out/reports/index.html" >&2
exit "$rc"
