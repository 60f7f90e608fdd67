#!/usr/bin/env bash
# Removes what deploy.sh has made, and tells what it leaves. Safe to run again; what is gone already is no failure.
set -euo pipefail
unset CDPATH
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
me=teardown.sh
# shellcheck source=deploy/common.sh
. deploy/common.sh

usage() {
  cat <<'HELP'
./teardown.sh --project ID [--region REGION] [--service NAME] [--yes] [--dry-run]

Removes the domain mappings, the service, its secret, its service account with its role, and its images. Asks first; --yes
answers. The defaults are those of deploy.sh, and so is .env.
HELP
}

failures=0

# remove NAME ARGUMENT...: one thing. A failure does not keep the rest from going.
remove() {
  local name=$1
  shift
  if [ "$dry_run" = yes ]; then
    change "$@"
    return
  fi
  say "\$ $(quoted gcloud "$@")"
  if gcloud "$@" >/dev/null 2>"$work/stderr"; then
    say "removed: $name"
  elif absent; then
    say "gone already: $name"
  else
    failed "$name"
  fi
}

failed() {
  said
  say "NOT removed: $1"
  failures=$((failures + 1))
}

confirm() {
  local answer=''
  [ "$assume_yes" = no ] && [ "$dry_run" = no ] || return 0
  say "This removes the service $service in $region of the project $project, with its domain mappings, the secret
$secret, the service account $account and the images $repository/$service."
  printf 'Type yes to go on: ' >&2
  read -r answer || true
  [ "$answer" = yes ] || die 'nothing was removed'
}

# The mappings of this service, whichever domains they are for.
remove_mappings() {
  local one domains
  if ! ask beta run domain-mappings list "${in_region[@]}" --format=json >"$work/mappings.json"; then
    absent || failed 'the domain mappings, which cannot be listed'
    return 0
  fi
  domains=$domain
  if [ "$dry_run" = no ]; then
    domains=$(jq -r --arg service "$service" '.[] | select((.spec.routeName // .route_name) == $service) | .metadata.name' \
      "$work/mappings.json")
  fi
  for one in $domains; do
    remove "the mapping of $one" beta run domain-mappings delete "--domain=$one" "${in_region[@]}"
  done
}

remove_service() {
  remove "the service $service" run services delete "$service" "${in_region[@]}"
}

# Whether a service in another region, or one that could not be removed, runs as the same account and with the same secret.
still_in_use() {
  if ! ask run services list "${in_project[@]}" --format=json >"$work/services.json"; then
    absent && return 1
    failed 'the secret and the service account: the services that may use them cannot be listed'
    return 0
  fi
  [ "$dry_run" = no ] || return 1
  jq -e --arg account "$account" 'any(.[]; .spec.template.spec.serviceAccountName == $account)' "$work/services.json" >/dev/null
}

remove_secret_and_account() {
  local failures_before
  if still_in_use; then
    say "kept, since another service uses them: the secret $secret, the service account $account"
    return
  fi
  # Who may read a secret is written on the secret, and goes with it.
  remove "the secret $secret" secrets delete "$secret" "${in_project[@]}"
  failures_before=$failures
  remove "the role of $account" projects remove-iam-policy-binding "$project" "--member=serviceAccount:$account" \
    --role=roles/aiplatform.user --condition=None "${in_project[@]}"
  # Else the role would stay on the project, for an account that no other run finds.
  if [ "$failures" -gt "$failures_before" ]; then
    say "kept until its role is gone: the service account $account"
    return
  fi
  remove "the service account $account" iam service-accounts delete "$account" "${in_project[@]}"
}

# The repository belongs to all that Cloud Run builds in this region; only this service's images go.
remove_images() {
  remove "the images of $service" artifacts docker images delete "$repository/$service" --delete-tags "${in_project[@]}"
}

tell_what_stays() {
  say "Left as they are:
  the project, its APIs (Vertex AI too), logs and billing, and any budget alert
  the repository cloud-run-source-deploy in $region, which other services may share; where none does:
    $(quoted gcloud artifacts repositories delete cloud-run-source-deploy "--location=$region" "--project=$project")
  the uploaded sources; to remove those of this service:
    $(quoted gcloud storage rm --recursive "gs://run-sources-$project-$region/services/$service")
  a role that you gave to the account that builds
  api-keys.json and .env on this machine, and the DNS record of a domain"
}

main() {
  start "$@"
  [ "${#words[@]}" -eq 0 ] || die "what is ${words[0]}? See $me --help"
  if [ "$dry_run" = no ]; then need_tools gcloud; fi
  need_login
  ask projects describe "$project" '--format=value(projectNumber)' >/dev/null || { said; die "no project $project for this account"; }
  confirm
  remove_mappings
  remove_service
  remove_secret_and_account
  remove_images
  tell_what_stays
  [ "$failures" -eq 0 ] || die "$failures not removed; run this again"
}

main "$@"
