# shellcheck shell=bash
# Sourced: one way to have programs installed, on a Debian or Ubuntu, as root or through sudo. Uses
# the function `say` of whoever sources it.

# need_packages PACKAGE CHECK [PACKAGE CHECK …]
# Installs those packages whose check, a shell command, fails; says what is still missing then, and
# returns 1.
need_packages() {
  local missing=()
  find_missing "$@"
  if [ "${#missing[@]}" -gt 0 ]; then
    say "installing ${missing[*]}"
    install_packages "${missing[@]}" || true
    find_missing "$@"
    if [ "${#missing[@]}" -gt 0 ]; then
      say "MISSING and not installable from here: ${missing[*]}"
      say 'install them and run this again'
      return 1
    fi
  fi
}

# Sets `missing`.
find_missing() {
  missing=()
  while [ "$#" -gt 0 ]; do
    bash -c "$2" >/dev/null 2>&1 || missing+=("$1")
    shift 2
  done
}

install_packages() {
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say 'neither root nor sudo here'; return 1; }
    # CI has nobody to type a password.
    as_root=(sudo ${CI:+-n})
  fi
  command -v apt-get >/dev/null || { say 'apt-get is not here'; return 1; }
  local apt=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -q)
  "${apt[@]}" update >&2 || say 'apt-get update failed; trying with the lists at hand'
  "${apt[@]}" install -y --no-install-recommends "$@" >&2
}
