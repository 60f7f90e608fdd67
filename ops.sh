#!/usr/bin/env bash
# The everyday of a deployed ai-proxy: what it logs, what serves, back to an earlier revision, other keys.
set -euo pipefail
unset CDPATH
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
me=ops.sh
# shellcheck source=deploy/common.sh
. deploy/common.sh

usage() {
  cat <<'HELP'
./ops.sh COMMAND [--project ID] [--region REGION] [--service NAME] [--dry-run]

  logs [N]             the last N log lines (50) of the last 30 minutes, as JSON
  status               the revision that is ready, the address, and where traffic goes
  revisions            all revisions, the newest first
  rollback [REVISION]  traffic to that revision, or to the one before the one that serves
  latest               traffic to the newest revision again
  cert                 the certificate of the domain (--domain HOST, or CLOUD_RUN_DOMAIN in .env)
  keys FILE            other keys, without a new image

The defaults are those of deploy.sh, and so is .env.
HELP
}

# show ARGUMENT...: a question whose answer is for the user.
show() {
  ask "$@" || { said; exit 1; }
}

logs() {
  local count=${1:-50}
  [[ $count =~ ^[0-9]{1,6}$ ]] || die 'logs takes a number of lines'
  count=$((10#$count))
  show logging read "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"$service\" AND resource.labels.location=\"$region\"" \
    "--limit=$count" --format=json --freshness=30m "${in_project[@]}"
}

status() {
  show run services describe "$service" "${in_region[@]}" '--format=value(status.latestReadyRevisionName,status.url)'
  print_traffic
}

list_revisions() {
  show run revisions list "--service=$service" "${in_region[@]}" '--sort-by=~metadata.creationTimestamp' \
    '--format=value(metadata.name,metadata.creationTimestamp)'
}

# The revision made before the one that serves most.
previous() {
  local serving
  serving=$(print_traffic) || return 1
  serving=$(sort -t $'\t' -k 2,2nr <<<"$serving" | head -n 1 | cut -f 3)
  list_revisions | cut -f 1 | awk -v serving="$serving" 'found { print; exit } $0 == serving { found = 1 }'
}

rollback() {
  local target=${1:-}
  [ -n "$target" ] || target=$(previous) || exit 1
  if [ "$dry_run" = yes ]; then target=${target:-REVISION}; fi
  [ -n "$target" ] || die 'there is no earlier revision'
  change run services update-traffic "$service" "--to-revisions=$target=100" "${in_region[@]}"
  say "Traffic stays with $target until ./ops.sh latest or ./deploy.sh."
}

latest() {
  change run services update-traffic "$service" --to-latest "${in_region[@]}"
}

cert() {
  [ -n "$domain" ] || die 'which domain? Give --domain HOST, or CLOUD_RUN_DOMAIN in .env'
  show beta run domain-mappings describe "--domain=$domain" "${in_region[@]}" \
    '--format=value(status.conditions[].type,status.conditions[].status,status.conditions[].message)'
  say "https works once CertificateProvisioned and Ready are True."
}

# update_keys [FILE]: a new version of the secret, which running instances take up by themselves, and a new revision of the same
# image, so that it does not depend on that.
update_keys() {
  local traffic
  [ -z "${1:-}" ] || keys=$(from_caller "$1")
  traffic=$(print_traffic) || exit 1
  if [ "$dry_run" = no ]; then
    alias_settings=$(jq -c '[.spec.template.spec.containers[].env[]? | {(.name): (.value // "")}] | add // {}' "$work/service.json")
  fi
  choose_keys_file
  [ -n "$keys_file" ] || [ "$dry_run" = yes ] || die 'which keys? ./ops.sh keys FILE'
  if jq -e 'has("API_KEYS_JSON")' <<<"$alias_settings" >/dev/null && [ "$dry_run" = no ]; then
    update_variable
  else
    if ask secrets versions access latest "--secret=$secret" "${in_project[@]}" >"$work/stored.json" &&
      same_keys "$work/stored.json" "${keys_file:-/dev/null}"; then
      say 'the keys are stored already'
    else
      store_version
    fi
    new_revision
  fi
  case $dry_run/$traffic in
  yes/* | no/LATEST*) ;;
  *) say "Traffic stays with an earlier revision, whose running instances keep the keys they have. ./ops.sh latest ends that." ;;
  esac
}

new_revision() {
  # A label with the time makes a revision that differs in nothing else.
  change run services update "$service" "--update-labels=keys-updated=$(date -u +%Y%m%d-%H%M%S)" "${in_region[@]}"
}

# In a file of flags, since arguments can be seen by everybody on this machine.
update_variable() {
  jq -n --rawfile keys "$keys_file" '{"--update-env-vars": {API_KEYS_JSON: ($keys | fromjson | tojson)}}' >"$work/flags.yaml"
  change run services update "$service" "--flags-file=$work/flags.yaml" "${in_region[@]}"
}

main() {
  start "$@"
  [ "${#words[@]}" -gt 0 ] || { usage >&2; exit 2; }
  case ${words[0]} in
  logs | rollback | keys) [ "${#words[@]}" -le 2 ] || die "what is ${words[2]}? See $me --help" ;;
  *) [ "${#words[@]}" -eq 1 ] || die "what is ${words[1]}? See $me --help" ;;
  esac
  if [ "$dry_run" = no ]; then need_tools gcloud; fi
  case ${words[0]} in
  logs) logs "${words[1]:-}" ;;
  status) status ;;
  revisions) list_revisions ;;
  rollback) rollback "${words[1]:-}" ;;
  latest) latest ;;
  cert) cert ;;
  keys) update_keys "${words[1]:-}" ;;
  *) die "no such command: ${words[0]}; see $me --help" ;;
  esac
}

main "$@"
