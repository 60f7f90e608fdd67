# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables cross files here
#
# The issued keys on their way from this machine to the service. Sourced by common.sh.

# What the gateway reads at most, and Secret Manager.
readonly MAX_KEYS_BYTES=16777216 MAX_SECRET_BYTES=65536

sha256() {
  if command -v sha256sum >/dev/null; then
    sha256sum
  elif command -v shasum >/dev/null; then
    shasum -a 256
  else
    openssl dgst -sha256 -r
  fi | cut -c 1-64
}

# is_strict_json FILE: whether its text is JSON for those who read nothing else, and every number a plain one, without sign,
# fraction and exponent, which the gateway demands. jq takes more than that, and other bytes than UTF-8. Strings are one letter for
# the second look.
is_strict_json() {
  local hex='[0-9a-fA-F]' escape cr=$'\r'
  escape="[\"\\\\/bfnrt]|u[0-9a-ceA-CEfF]$hex{3}|u[dD][0-7]$hex{2}|u[dD][89abAB]$hex{2}\\\\u[dD][c-fC-F]$hex{2}"
  if LC_ALL=C grep -q '[^[:cntrl:] -~]' "$1"; then
    jq -Rsj . "$1" | cmp -s - "$1" || return 1
  fi
  LC_ALL=C tr '\000' '\001' <"$1" | LC_ALL=C sed -E "s/\"([^\"\\\\[:cntrl:]]|\\\\($escape))*\"/S/g" >"$work/without-strings"
  ! LC_ALL=C grep -qvE "^([][{},:S[:blank:]$cr]|true|false|[1-9][0-9]*)*\$" "$work/without-strings"
}

# has_digest_of FIELD FILE: whether the digest of an entry's field, key or id, stands in the list too.
has_digest_of() {
  local text
  grep -qE 'sha256|\\u' "$2" || return 1
  jq -r '.[] | .key_sha256 // empty' "$2" >"$work/digests"
  [ -s "$work/digests" ] || return 1
  jq -r --arg field "$1" '.[] | .[$field] // empty' "$2" >"$work/texts"
  while IFS= read -r text; do
    printf %s "$text" | sha256
  done <"$work/texts" >"$work/digests-of-texts"
  grep -qxF -f "$work/digests" "$work/digests-of-texts"
}

# keys_problems FILE: what the gateway with the settings in alias_settings would say of it, a line each; nothing where it is
# right. Never what is in it.
keys_problems() {
  local position problems
  if [ "$(wc -c <"$1")" -gt "$MAX_KEYS_BYTES" ]; then
    echo 'is larger than 16 MiB'
    return
  fi
  # By a file, since arguments can be seen by everybody on this machine, and keys may be among the settings.
  printf '%s\n' "$alias_settings" >"$work/alias-settings.json"
  if ! is_strict_json "$1" || ! problems=$(jq -L deploy -rs --slurpfile settings "$work/alias-settings.json" \
    'include "keys"; list_problems($settings[0] | aliases)' "$1" 2>/dev/null); then
    echo 'must be a JSON array of {"id","key","enabled"}, and is not even JSON, or has a number that is not a whole one, or null'
    return
  fi
  [ -z "$problems" ] || printf '%s\n' "$problems"
  jq -L deploy -rn --stream 'include "keys"; [inputs] | repeated' "$1" | while read -r position; do
    echo "entry $((position + 1)): has a field that stands twice"
  done
  [ -z "$problems" ] || return 0
  ! has_digest_of key "$1" || echo 'a key stands twice in the list, once as its digest'
  ! has_digest_of id "$1" || echo "an 'id' is a key of the list, which has its digest"
}

# check_keys FILE NAME: ends the run where the gateway would refuse the list.
check_keys() {
  local problems
  if [ ! -f "$1" ] || [ ! -r "$1" ]; then die "cannot read the keys file $2"; fi
  problems=$(keys_problems "$1")
  [ -z "$problems" ] || die "$2 is not a list of keys as the gateway wants it, [{\"id\":\"me\",\"key\":\"sk_live_...\",\"enabled\":true}]:
$(head -n 5 <<<"$problems" | sed 's/^/  /')"
  ! grep -q 'sk_live_replace_me' "$1" || die "$2 has a key of an example in it"
}

# choose_keys_file: the keys from --keys, the environment, .env or api-keys.json, in keys_file; empty where there are none.
# keys_name is what to call them.
choose_keys_file() {
  local text=''
  keys_file=$keys
  if [ -z "$keys_file" ]; then
    keys_file=${API_KEYS_FILE:-}
    text=${API_KEYS_JSON:-}
    [ -z "$keys_file" ] || keys_file=$(from_caller "$keys_file")
    if [ -z "$keys_file$text" ]; then
      keys_file=$(from_env_file API_KEYS_FILE)
      text=$(from_env_file API_KEYS_JSON)
    fi
    # As .env.example has it, before there are any.
    [ "${keys_file##*/}" != api-keys.json ] || [ -e "$keys_file" ] || [ -L "$keys_file" ] || keys_file=''
    # As .env.example has it, which is as good as none.
    case $text in *'"sk_live_..."'*) text='' ;; esac
  fi
  keys_name=$keys_file
  if [ -z "$keys_file" ] && [ -n "$text" ]; then
    keys_file=$work/api-keys.json
    keys_name=API_KEYS_JSON
    printf '%s\n' "$text" >"$keys_file"
  elif [ -z "$keys_file" ] && { [ -e api-keys.json ] || [ -L api-keys.json ]; }; then
    keys_file=api-keys.json
    keys_name=api-keys.json
  elif [ -p "$keys_file" ]; then
    # It can be read once only.
    cat "$keys_file" >"$work/api-keys.json"
    keys_file=$work/api-keys.json
  fi
  [ -z "$keys_file" ] || check_keys "$keys_file" "$keys_name"
}

# same_keys FILE FILE: whether two lists say the same, however they are written.
same_keys() {
  cmp -s "$1" "$2" || { jq -S . "$1" >"$work/one.json" 2>/dev/null && jq -S . "$2" >"$work/other.json" && cmp -s "$work/one.json" "$work/other.json"; }
}

# store_version: makes keys_file the newest version of the secret.
store_version() {
  [ "$dry_run" = yes ] || [ "$(wc -c <"$keys_file")" -le "$MAX_SECRET_BYTES" ] ||
    die "$keys_name is larger than the 64 KiB that Secret Manager takes"
  change secrets versions add "$secret" "--data-file=${keys_file:-api-keys.json}" "${in_project[@]}"
}
