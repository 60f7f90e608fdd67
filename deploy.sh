#!/usr/bin/env bash
# Puts ai-proxy on Cloud Run, in your project. Safe to run again: after a failure at any step, after a change of the code,
# of the keys or of .env. What it does, in this order, is `main` at the foot.
set -euo pipefail
unset CDPATH
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
me=deploy.sh
# shellcheck source=deploy/common.sh
. deploy/common.sh
# shellcheck source=deploy/upload.sh
. deploy/upload.sh

usage() {
  cat <<'HELP'
./deploy.sh --project ID [FLAG]...

  --project ID       your Google Cloud project           (.env: GOOGLE_CLOUD_PROJECT)
  --region REGION    default us-central1                 (.env: CLOUD_RUN_REGION)
  --service NAME     default ai-proxy                    (.env: CLOUD_RUN_SERVICE)
  --domain HOST      your host name for it               (.env: CLOUD_RUN_DOMAIN)
  --keys FILE        the issued keys                     (.env: API_KEYS_FILE or API_KEYS_JSON)
                     else api-keys.json, else those that the service has; made, with one key,
                     where there are none yet
  --env-keys         keys in an environment variable, which every viewer of the project can read,
                     instead of Secret Manager
  --wait SECONDS     how long the new service gets to answer, default 180
  --dry-run          prints every command, and runs none

A flag goes before the environment, that before .env, and that before the default. The gateway's other settings (MODEL_FLASH_ID,
GOOGLE_CLOUD_LOCATION ...) go along from .env only. .env is read, never run: NAME=value, in single quotes what has blanks, quotes
or $ in it.

Keys that are stored are replaced by other ones only where --keys says so.
HELP
}

readonly APIS='run aiplatform artifactregistry cloudbuild secretmanager iam'
# Where the service finds the keys: a file of its own folder, as Cloud Run mounts them.
readonly KEYS_PATH=/secrets/api-keys.json
# Settings of the gateway that make sense in Cloud Run and go from .env to the service.
readonly PASSED_ON='^(GOOGLE_CLOUD_LOCATION|GOOGLE_CLOUD_QUOTA_PROJECT|GOOGLE_VERTEX_BASE_URL|MODEL_[A-Z0-9_]+|CORS_ALLOW_ORIGINS|PLAYGROUND|MAX_BODY_BYTES|BODY_BUDGET_BYTES|MAX_CONNECTIONS|UPSTREAM_TIMEOUT_SECONDS|UPSTREAM_ERRORS|THOUGHT_SIGNATURES|THOUGHT_SIGNATURE_SKIP_VALUE|SHUTDOWN_GRACE_SECONDS|SSE_KEEPALIVE_SECONDS)$'

check_project() {
  local missing=no
  project_number=$(ask projects describe "$project" "--format=value(projectNumber)") || {
    said
    die "no project $project for this account; a new one: gcloud projects create $project"
  }
  billing_account=''
  if billing_account=$(ask billing projects describe "$project" "--format=value(billingEnabled,billingAccountName)"); then
    case $dry_run/$billing_account in
    yes/* | no/True*) ;;
    *)
      missing=yes
      say "missing: billing. Choose an account of the first command and put its ID into the second:
  gcloud billing accounts list
  gcloud billing projects link $project --billing-account=ACCOUNT_ID"
      ;;
    esac
    billing_account=${billing_account#*[[:space:]]}
    billing_account=${billing_account#billingAccounts/}
  else
    say 'cannot see whether the project has billing; going on'
  fi
  check_domain_is_verified || missing=yes
  [ "$missing" = no ] || die 'do that, then run this again'
}

# Google maps a domain only for those who have shown that it is theirs; the parent domain will do.
check_domain_is_verified() {
  local verified one
  [ -n "$domain" ] || return 0
  if ! verified=$(ask domains list-user-verified '--format=value(id)'); then
    say 'cannot see which domains are verified; going on'
    return 0
  fi
  [ "$dry_run" = no ] || return 0
  for one in $verified; do
    case .$domain in *."$one") return 0 ;; esac
  done
  say "missing: proof that $domain is yours. In the browser that this opens, for the domain or its parent:
  gcloud domains verify $domain"
  return 1
}

# The form that `ai-proxy keys new` makes.
make_keys() {
  local random
  random=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
  printf '[{"id":"me","key":"sk_live_%s","enabled":true}]\n' "$random" >"$work/new-keys.json"
  mv "$work/new-keys.json" api-keys.json || die 'cannot write api-keys.json'
  keys_file=api-keys.json
  say 'made a first key; it is in api-keys.json'
}

enable_apis() {
  local name apis=()
  for name in $APIS; do apis[${#apis[@]}]=$name.googleapis.com; done
  change services enable "${apis[@]}" "${in_project[@]}" ||
    die "an API could not be enabled; if this is about billing:
  gcloud billing projects link $project --billing-account=ACCOUNT_ID"
}

# Source is built as the account of Compute Engine, or of Cloud Build in older projects. New projects often give it no role. It
# may have one from a folder or an organisation, which cannot be seen here, hence no more than a remark.
check_build_account() {
  local roles number=${project_number:-PROJECT_NUMBER}
  build_hint="  gcloud projects add-iam-policy-binding $project --member=serviceAccount:$number-compute@developer.gserviceaccount.com --role=roles/run.builder --condition=None"
  roles=$(ask projects get-iam-policy "$project" '--flatten=bindings[].members' \
    "--filter=bindings.members:($number-compute@developer.gserviceaccount.com $number@cloudbuild.gserviceaccount.com)" \
    '--format=value(bindings.role)') || return 0
  [ "$dry_run" = no ] || return 0
  case $roles in
  *roles/run.builder* | *roles/cloudbuild.builds.builder* | *roles/editor* | *roles/owner*) ;;
  *) say "perhaps missing: a role of the account that builds. If the build is refused:
$build_hint" ;;
  esac
}

make_account() {
  exists iam service-accounts describe "$account" "${in_project[@]}" ||
    change iam service-accounts create "$service-sa" "--display-name=$service on Cloud Run" "${in_project[@]}"
}

grant_role() {
  change_when_known projects add-iam-policy-binding "$project" "--member=serviceAccount:$account" \
    --role=roles/aiplatform.user --condition=None "${in_project[@]}"
}

# The keys that the service has now, in stored.json: of the secret, or of its variable; with --env-keys the other way round. A
# failure where it has none. Where they may not be read, the file is empty.
find_stored_keys() {
  : >"$work/stored.json"
  if [ "$env_keys" = yes ]; then
    keys_of_variable || keys_of_secret
  else
    keys_of_secret || keys_of_variable
  fi
}

keys_of_secret() {
  local version=(latest "--secret=$secret" "${in_project[@]}")
  stored_in="the secret $secret"
  fetch_stored="gcloud secrets versions access latest --secret=$secret --project=$project --out-file=api-keys.json"
  if [ "$dry_run" = yes ]; then
    ask secrets versions describe "${version[@]}"
    ask secrets versions access "${version[@]}"
    return 1
  fi
  exists secrets versions describe "${version[@]}" || return 1
  if ! ask secrets versions access "${version[@]}" >"$work/stored.json"; then
    # Not allowed to, or it is disabled.
    is_forbidden || { [ -n "$keys" ] && grep -qi failed_precondition "$work/stderr"; } || {
      said
      die "cannot read the keys in $stored_in, so nothing is changed; run this again"
    }
    : >"$work/stored.json"
  fi
}

keys_of_variable() {
  stored_in="the variable API_KEYS_JSON of the service $service"
  fetch_stored="(umask 077; gcloud run services describe $service --region=$region --project=$project --format=json | jq -r '.spec.template.spec.containers[].env[] | select(.name == \"API_KEYS_JSON\").value' >api-keys.json)"
  look "$work/service.json" run services describe "$service" "${in_region[@]}" --format=json || return 1
  jq -er '[.spec.template.spec.containers[].env[]? | select(.name == "API_KEYS_JSON").value][0] // empty' "$work/service.json" \
    >"$work/stored.json"
}

# settle_keys: which keys are deployed. Those that are stored are never replaced, by a first key or by a list that may be older
# and bring a revoked key back, unless --keys says so. Sets keys_file, and must_store.
settle_keys() {
  must_store=yes
  if ! find_stored_keys; then
    if [ "$dry_run" = yes ]; then
      [ -n "$keys_file" ] || say '(where no keys are stored yet, a run makes one and writes it to api-keys.json)'
    elif [ -z "$keys_file" ]; then
      make_keys
    fi
    return
  fi
  if [ ! -s "$work/stored.json" ]; then
    [ -z "$keys" ] || return 0
    [ -z "$keys_file" ] || die "the keys in $stored_in may not be read by this account, and those in $keys_name may be older. If they are right:
  $(again) $(quoted "--keys=$keys_name")"
    [ "$env_keys" = no ] || die "the keys in $stored_in may not be read by this account; give them with --keys FILE"
    must_store=no
  elif [ -z "$keys_file" ]; then
    keys_file=$work/stored.json
    check_keys "$keys_file" "$stored_in"
    case $env_keys/$stored_in in no/the\ secret*) must_store=no ;; esac
  elif same_keys "$work/stored.json" "$keys_file"; then
    case $env_keys/$stored_in in no/the\ secret*) must_store=no ;; esac
  elif [ -z "$keys" ]; then
    keep_stored
  fi
  [ "$must_store" = yes ] || say "the keys stay as they are in $stored_in"
}

keep_stored() {
  local mine also=''
  mine=$(quoted "--keys=$keys_name")
  if [ "$keys_name" = API_KEYS_JSON ]; then
    mine='--keys=FILE'
    also=', written to a FILE'
  fi
  die "the keys in $keys_name are not those in $stored_in. They may be older, and bring back a key that was revoked. If those here
are right$also:
  $(again) $mine
If those that are stored are right, fetch them, and let .env name no other:
  $fetch_stored"
}

# again: the command of this run, but for its keys.
again() {
  local flags=("--project=$project" "--region=$region" "--service=$service")
  [ -z "$domain" ] || flags[${#flags[@]}]=--domain=$domain
  [ "$env_keys" = no ] || flags[${#flags[@]}]=--env-keys
  quoted ./deploy.sh "${flags[@]}"
}

store_keys() {
  settle_keys
  [ "$env_keys" = no ] || return 0
  exists secrets describe "$secret" "${in_project[@]}" ||
    change secrets create "$secret" --replication-policy=automatic "${in_project[@]}"
  [ "$must_store" = no ] || store_version
  change_when_known secrets add-iam-policy-binding "$secret" "--member=serviceAccount:$account" \
    --role=roles/secretmanager.secretAccessor --condition=None "${in_project[@]}"
}

# Where its pages say that the service is: at PUBLIC_URL of .env, unless that is for this machine only; at the domain; or at
# the address that Cloud Run gives, which has the same form before the first deploy as ever after.
public_url() {
  local url
  url=$(from_env_file PUBLIC_URL)
  case $url in
  https://*) ;;
  *) url=https://${domain:-$service-${project_number:-PROJECT_NUMBER}.$region.run.app} ;;
  esac
  printf '%s\n' "$url"
}

# The service's environment as a file, which is YAML since JSON is: what is in a file is in no list of processes.
write_environment() {
  jq --arg project "$project" --arg pattern "$PASSED_ON" --arg path "$KEYS_PATH" --arg env_keys "$env_keys" \
    --arg public_url "$(public_url)" --rawfile keys "${keys_file:-/dev/null}" '
    with_entries(select(.key | test($pattern))) + {GOOGLE_CLOUD_PROJECT: $project, PUBLIC_URL: $public_url}
    + if $env_keys == "yes" then {API_KEYS_JSON: ($keys | fromjson? // [] | tojson)} else {API_KEYS_FILE: $path} end' \
    <<<"$env_file" >"$work/environment.yaml"
  if [ "$dry_run" = yes ]; then
    say "environment.yaml, with values of .env left out:"
    jq 'with_entries(.value = if .key == "API_KEYS_FILE" or .key == "GOOGLE_CLOUD_PROJECT" or .key == "PUBLIC_URL" then .value else "..." end)' \
      "$work/environment.yaml" >&2
  fi
}

deploy_service() {
  local environment=$work/environment.yaml secrets=("--set-secrets=$KEYS_PATH=$secret:latest")
  write_environment
  [ "$env_keys" = no ] || secrets=(--clear-secrets)
  [ "$dry_run" = no ] || environment=environment.yaml
  # HTTP/1, since that is what the gateway speaks. An hour, since the clock of --timeout covers the whole of a stream.
  change run deploy "$service" --source=. "--service-account=$account" "--env-vars-file=$environment" "${secrets[@]}" \
    --allow-unauthenticated --port=8080 --no-use-http2 --timeout=3600 --concurrency=1000 --cpu=1 --memory=256Mi \
    --min-instances=0 --max-instances=3 \
    --startup-probe=httpGet.path=/readyz,httpGet.port=8080,periodSeconds=1,timeoutSeconds=1,failureThreshold=120 \
    "${in_region[@]}" || die "the service was not deployed. If the build was refused (PERMISSION_DENIED), run this and try again:
$build_hint"
}

# Where an organisation forbids allUsers, gcloud deploys with a warning and nobody gets in. Then the check itself is turned
# off; who gets in is the gateway's business anyway.
open_to_all() {
  local members
  members=$(ask run services get-iam-policy "$service" '--flatten=bindings[].members' \
    --filter=bindings.role:roles/run.invoker '--format=value(bindings.members)' "${in_region[@]}") || { said; return 1; }
  case $members in *allUsers*) return ;; esac
  [ "$dry_run" = no ] || say '(only where an organisation forbids allUsers:)'
  change run services update "$service" --no-invoker-iam-check "${in_region[@]}" ||
    die 'callers cannot be let in: an administrator must allow allUsers for this project, or the check to be disabled'
}

# After a rollback traffic stays with the old revision until it is told otherwise.
route_traffic() {
  change run services update-traffic "$service" --to-latest "${in_region[@]}"
}

map_domain() {
  local mapped
  [ -n "$domain" ] || return 0
  if exists beta run domain-mappings describe "--domain=$domain" "${in_region[@]}" '--format=value(spec.routeName)'; then
    mapped=$(<"$work/answer")
    [ "$mapped" = "$service" ] || die "$domain leads to the service $mapped already"
    return
  fi
  change beta run domain-mappings create "--service=$service" "--domain=$domain" "${in_region[@]}" ||
    die "$domain was not mapped. Not every region can: see https://cloud.google.com/run/docs/mapping-custom-domains"
}

print_dns() {
  [ -n "$domain" ] || return 0
  ask beta run domain-mappings describe "--domain=$domain" "${in_region[@]}" --format=json >"$work/mapping.json" || { said; return 1; }
  [ "$dry_run" = no ] || return 0
  say "DNS records for $domain; the certificate comes by itself 15 minutes to a day after them (./ops.sh cert):"
  jq -r --arg domain "$domain" '.status.resourceRecords[]?
    | "  \(if (.name // "") == "" then $domain else .name end)  \(.type)  \(.rrdata)"' "$work/mapping.json" >&2
}

find_url() {
  url=$(ask run services describe "$service" "${in_region[@]}" '--format=value(status.url)') || { said; return 1; }
  [ "$dry_run" = no ] || url="https://URL-OF-$service"
  base=$url
  # The mapping answers once it has its certificate.
  if [ -n "$domain" ] && [ "$dry_run" = no ] &&
    jq -e '.status.conditions[]? | select(.type == "Ready" and .status == "True")' "$work/mapping.json" >/dev/null; then
    base=https://$domain
  fi
}

# choose_trial: a key and a model to try the service with, in trial.json; a failure where there is no key that may.
choose_trial() {
  # By the environment, since everybody may read a process's arguments.
  OWN_KEY=$(from_env_file API_KEY | grep -v replace_me) \
    jq -L deploy -en 'include "keys"; [inputs][0] // [] | trial(env.OWN_KEY)' "${keys_file:-/dev/null}" >"$work/trial.json"
}

# call_with_key ARGUMENT...: curl with that key, which goes in by a pipe.
call_with_key() {
  jq -r '"header = " + ("x-api-key: " + .key | tojson)' "$work/trial.json" |
    curl --config - --silent --show-error --fail --max-time 60 "$@" 2>"$work/curl"
}

ask_health() { curl --silent --show-error --fail --max-time 30 "$1/health" 2>"$work/curl" | jq -e .ok; }
ask_models() { call_with_key "$1/v1/models" | jq -e '.data | length > 0'; }
ask_chat() { post_chat "$1" false | jq -e '.choices | length > 0'; }
ask_stream() { post_chat "$1" true | grep -F 'data: [DONE]'; }

post_chat() {
  call_with_key "$1/v1/chat/completions" --header 'content-type: application/json' \
    --data "{\"model\":\"$(jq -r .model "$work/trial.json")\",\"stream\":$2,\"messages\":[{\"role\":\"user\",\"content\":\"Say hi.\"}]}"
}

# A new service, and a role that was just given, take a while to be known.
smoke_test() {
  local check where tries
  find_url
  if [ "$dry_run" = yes ]; then
    for check in 'GET /health' 'GET /v1/models' 'POST /v1/chat/completions' 'POST /v1/chat/completions, streamed'; do
      say "then, with curl: $check at $url"
    done
    return
  fi
  local checks='health models chat stream'
  if ! choose_trial; then
    checks=health
    say 'no key that could be used is here (only digests, or all expired), so no more than /health can be tried; with API_KEY in .env it would be all'
  fi
  for where in "$url" "$base"; do
    for check in $checks; do
      tries=$((wait_seconds / PAUSE_SECONDS))
      until "ask_$check" "$where" >/dev/null 2>&1; do
        if [ "$tries" -le 0 ]; then
          say "the last answer: $(cat "$work/curl")"
          die "$where is deployed, but $check did not succeed; see ./ops.sh logs"
        fi
        tries=$((tries - 1))
        sleep "$PAUSE_SECONDS"
      done
      say "ok: $check at $where"
    done
    [ "$where" != "$base" ] || break
  done
}

report() {
  [ "$dry_run" = no ] || return 0
  say 'Deployed. To paste into .env, with the key of yours:'
  printf 'AI_API_BASE=%s/v1\nAPI_KEY=\n' "$base"
  case $keys_file in
  '' | "$work"/*) ;;
  *) [ "$(jq -L deploy 'include "keys"; trial("")' "$keys_file")" = '' ] || say "The key that it was tried with, put there without showing it:
  (umask 077; jq -L deploy -r 'include \"keys\"; \"\\nAPI_KEY=\" + trial(\"\").key' $(quoted "$keys_file") >>.env)" ;;
  esac
  [ -z "$domain" ] || [ "$base" = "https://$domain" ] || say "Once $domain has its certificate: AI_API_BASE=https://$domain/v1"
  say "Tokens cost money. A mail at half and at all of 10 a month, in the currency of the account:
  gcloud billing budgets create --billing-account=${billing_account:-ACCOUNT_ID} --display-name=$service --budget-amount=10 --filter-projects=projects/$project --threshold-rule=percent=0.5 --threshold-rule=percent=1.0"
}

main() {
  start "$@"
  [ "${#words[@]}" -eq 0 ] || die "what is ${words[0]}? See $me --help"
  step 'what is here'
  if [ "$dry_run" = no ]; then need_tools gcloud curl; fi
  need_login
  check_project
  choose_keys_file
  check_upload
  step 'project'
  enable_apis
  check_build_account
  make_account
  grant_role
  step 'keys'
  store_keys
  step 'service'
  deploy_service
  open_to_all
  route_traffic
  map_domain
  print_dns
  step 'answers'
  smoke_test
  report
}

main "$@"
