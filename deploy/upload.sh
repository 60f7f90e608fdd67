# shellcheck shell=bash
# shellcheck disable=SC2154 # variables cross files here
#
# Whether what Cloud Build would get carries a secret. Sourced by deploy.sh.
#
# .gcloudignore should keep all of that out already. This is for when it was changed, or is not there, and it fails closed: what
# cannot be judged does not go up.

# Names of files that hold secrets, and of folders. The same list is in .gitignore, .dockerignore and .gcloudignore.
readonly SECRET_NAMES=(
  '*.env' '.env.*' '.envrc'
  '*keys*.json' '*-key.json' '*_key.json' '*credentials*.json' 'credentials' 'adc.json' 'service-account*.json'
  'account-*.json'
  '*.pem' '*.key' '*.p12' '*.pfx' '*.jks' '*.keystore' '*.new'
  'id_rsa*' 'id_dsa*' 'id_ecdsa*' 'id_ed25519*'
  '.netrc' '.npmrc' '.pypirc' '.pgpass'
)

# What a secret begins with, wherever it lies. An issued key is longer than those that stand in tests and examples.
readonly SECRET_TEXT='-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY
sk_live_[A-Za-z0-9_-]{20}
"refresh_token"[[:space:]]*:[[:space:]]*"
"key_pkcs8"[[:space:]]*:'

# An upload that carries a secret is refused.
check_upload() {
  local file found=''
  ask meta list-files-for-upload . >"$work/upload" || { said; die 'cannot tell what would be uploaded'; }
  [ "$dry_run" = no ] || return 0
  [ -f Dockerfile ] || die 'there is no Dockerfile here to build'
  [ -s "$work/upload" ] || die '.gcloudignore leaves nothing to upload'
  while IFS= read -r file || [ -n "$file" ]; do
    if ! is_plain "$file"; then
      found="$found
  $file (a link, a name with a line break in it, or not to be read: what goes up there cannot be judged)"
    elif has_secret_name "$file"; then
      found="$found
  $file"
    else
      printf '%s\0' "$file" >>"$work/to-read"
    fi
  done <"$work/upload"
  while IFS= read -r file; do
    found="$found
  $file"
  done < <(with_secret_text)
  [ -z "$found" ] || die "refusing to upload what looks like a secret; move it away, or name it in .gcloudignore:$found"
}

is_plain() { [ -f "$1" ] && [ ! -L "$1" ] && [ -r "$1" ]; }

# has_secret_name PATH: whether a part of it is such a name, in capitals or not.
has_secret_name() {
  local rest=$1/ part pattern is_secret=1
  shopt -s nocasematch
  while [ -n "$rest" ]; do
    part=${rest%%/*}
    rest=${rest#*/}
    [ "$part" != .env.example ] || continue
    for pattern in "${SECRET_NAMES[@]}"; do
      # shellcheck disable=SC2053 # a pattern
      if [[ $part == $pattern ]]; then is_secret=0; fi
    done
  done
  shopt -u nocasematch
  return "$is_secret"
}

# with_secret_text: those of the files in to-read that hold such a text, or one of the keys that are about to be deployed. These
# go in by a file: arguments can be seen by everybody on this machine. Digests are no secret.
with_secret_text() {
  [ -s "$work/to-read" ] || return 0
  printf '%s\n' "$SECRET_TEXT" >"$work/secret-text"
  {
    xargs -0 grep -alE -f "$work/secret-text" -- <"$work/to-read"
    if [ -n "$keys_file" ] && jq -r '.[].key // empty' "$keys_file" | grep . >"$work/secret-keys"; then
      xargs -0 grep -alF -f "$work/secret-keys" -- <"$work/to-read"
    fi
  } | sort -u
}
