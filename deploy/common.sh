# shellcheck shell=bash
# Variables cross files here: 'me' comes from the script, and most others go to it.
# shellcheck disable=SC2034,SC2154
#
# What deploy.sh, teardown.sh and ops.sh share: settings, and the ways in which they call gcloud. Sourced, not run.
#
# Runs on the bash of macOS (3.2) too: there an empty array counts as unset, hence ${name[@]+"${name[@]}"}.

# Settings, in this order: flag, environment, .env, default.
project='' region='' service='' domain='' keys='' env_keys=no dry_run=no assume_yes=no wait_seconds=180
# What the file .env says, as one JSON object; secrets may be among it.
env_file='{}'
# The folder for files that must not outlive the run, and what a failed call of gcloud said.
work=''
# What the arguments leave: the command of ops.sh, and its own.
words=()

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$me: $*"
  exit 1
}

step() { say "== $*"; }

# quoted WORD...: one line that can be pasted into a shell.
quoted() {
  local word line='' quote="'\\''"
  for word in "$@"; do
    case $word in
    '' | *[!A-Za-z0-9_./:=@%+,-]*) word=\'${word//\'/$quote}\' ;;
    esac
    line="$line${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# ask ARGUMENT...: a question to gcloud, in silence. A dry run prints it and gets no answer.
ask() {
  if [ "$dry_run" = yes ]; then
    quoted gcloud "$@" >&3
    return 0
  fi
  gcloud "$@" 2>"$work/stderr"
}

# change ARGUMENT...: shows the call and makes it. A dry run only prints it.
change() {
  if [ "$dry_run" = yes ]; then
    quoted gcloud "$@" >&3
    return 0
  fi
  say "\$ $(quoted gcloud "$@")"
  gcloud "$@" >&2
}

# exists ARGUMENT...: whether gcloud can describe it. In a dry run nothing exists yet.
exists() {
  ask "$@" >/dev/null || return 1
  [ "$dry_run" = no ]
}

# absent: whether the last question failed for want of the thing itself, and not of a right or a network.
absent() {
  grep -qiE 'not[_ ]found|could not be found|does not exist|cannot find|unknown service account|has not been used in project' \
    "$work/stderr"
}

said() { cat "$work/stderr" >&2; }

# A new service account, or a new service, is not known everywhere at once.
readonly PAUSE_SECONDS=5

# change_when_known ARGUMENT...: tried again while Google says that a thing which was just made does not exist.
change_when_known() {
  local tries=12
  if [ "$dry_run" = yes ]; then
    change "$@"
    return
  fi
  say "\$ $(quoted gcloud "$@")"
  until gcloud "$@" >/dev/null 2>"$work/stderr"; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ] || ! absent; then
      said
      return 1
    fi
    sleep "$PAUSE_SECONDS"
  done
}

need_tools() {
  local tool missing=''
  for tool in "$@"; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
  done
  [ -z "$missing" ] && return
  say "$me: not installed:$missing"
  case $missing in *gcloud*) say '  gcloud: https://cloud.google.com/sdk/docs/install' ;; esac
  case $missing in *jq*) say '  jq: brew install jq, or apt-get install jq' ;; esac
  exit 1
}

need_login() {
  local account
  account=$(ask auth list --filter=status:ACTIVE '--format=value(account)') || { said; die 'gcloud does not work'; }
  [ "$dry_run" = yes ] || [ -n "$account" ] || die 'nobody is logged in; run: gcloud auth login'
}

value_of() {
  if [ $# -lt 2 ] || [ -z "$2" ]; then die "$1 needs a value"; fi
  printf '%s\n' "$2"
}

# parse_arguments ARGUMENT...: flags as --name=value or --name value; `usage` prints the help of the script.
parse_arguments() {
  local name value shifted
  while [ $# -gt 0 ]; do
    shifted=1
    name=${1%%=*}
    case $1 in
    --dry-run) dry_run=yes ;;
    --env-keys) env_keys=yes ;;
    --yes) assume_yes=yes ;;
    --help | -h)
      usage
      exit 0
      ;;
    --project | --region | --service | --domain | --keys | --wait | --project=* | --region=* | --service=* | --domain=* | --keys=* | --wait=*)
      if [ "$name" = "$1" ]; then
        value=$(value_of "$@") || exit 1
        shifted=2
      else
        value=$(value_of "$name" "${1#*=}") || exit 1
      fi
      case $name in
      --project) project=$value ;;
      --region) region=$value ;;
      --service) service=$value ;;
      --domain) domain=$value ;;
      --keys) keys=$value ;;
      --wait) wait_seconds=$value ;;
      esac
      ;;
    -*) die "no such flag: $1; see $me --help" ;;
    *) words[${#words[@]}]=$1 ;;
    esac
    shift "$shifted"
  done
}

# from_env_file NAME: what .env sets it to, or nothing.
from_env_file() { jq -r --arg name "$1" '.[$name] // ""' <<<"$env_file"; }

# The variables of .env, which is a piece of shell, as it is elsewhere. It is read in a shell of its own with nothing else in
# its environment, and nothing of it gets into the environment of a process.
read_env_file() {
  local unit=$'\x1f' record=$'\x1e'
  [ -f .env ] || return 0
  # shellcheck disable=SC2016 # for the inner shell
  env_file=$(env -i PATH="$PATH" bash -c '
    . ./.env >&2 || exit 1
    for name in $(compgen -v); do
      case $name in
      GOOGLE_* | CLOUD_RUN_* | PUBLIC_URL | PLAYGROUND | API_KEY* | MODEL_* | CORS_* | MAX_BODY_* | BODY_* | UPSTREAM_* | THOUGHT_* | SHUTDOWN_*)
        printf "%s%s%s%s" "$name" "$1" "${!name}" "$2"
        ;;
      esac
    done' read-env "$unit" "$record" |
    jq -Rs --arg unit "$unit" --arg record "$record" '
      split($record) | map(select(. != "") | split($unit) | select(.[1] != "") | {(.[0]): .[1]}) | add // {}') ||
    die '.env is not a file of settings for a shell'
}

settle() {
  read_env_file
  project=${project:-${GOOGLE_CLOUD_PROJECT:-$(from_env_file GOOGLE_CLOUD_PROJECT)}}
  region=${region:-${CLOUD_RUN_REGION:-$(from_env_file CLOUD_RUN_REGION)}}
  service=${service:-${CLOUD_RUN_SERVICE:-$(from_env_file CLOUD_RUN_SERVICE)}}
  domain=${domain:-${CLOUD_RUN_DOMAIN:-$(from_env_file CLOUD_RUN_DOMAIN)}}
  region=${region:-us-central1}
  service=${service:-ai-proxy}
  case $project in
  '' | your-project) die 'which project? Give --project ID, or GOOGLE_CLOUD_PROJECT in .env' ;;
  esac
  check_names
  account=$service-sa@$project.iam.gserviceaccount.com
  secret=$service-api-keys
  repository=$region-docker.pkg.dev/$project/cloud-run-source-deploy
  in_project=("--project=$project" --quiet)
  in_region=("--region=$region" "--project=$project" --quiet)
}

check_names() {
  [[ $project =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] || die "$project is not the ID of a project"
  [[ $region =~ ^[a-z]+-[a-z]+[0-9]+$ ]] || die "$region is not a region; one is us-central1"
  # A service account's name, which this is a part of, has 6 to 30 characters.
  [[ $service =~ ^[a-z][a-z0-9-]{1,25}[a-z0-9]$ ]] ||
    die "$service cannot be a service: 3 to 27 lower-case letters, digits and hyphens"
  [ -z "$domain" ] || [[ $domain =~ ^[a-z0-9-]+(\.[a-z0-9-]+)+$ ]] || die "$domain is not a domain; one is ai.example.com"
  [[ $wait_seconds =~ ^[0-9]+$ ]] || die '--wait takes a number of seconds'
}

# start ARGUMENT...: what each script does first. Commands of a dry run go to the standard output, also where a question's
# answer would be caught.
start() {
  umask 077
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  exec 3>&1
  parse_arguments "$@"
  need_tools jq
  settle
}

# check_keys FILE NAME: the form that the gateway wants, as far as it matters here. Says nothing of what is in it.
check_keys() {
  local name=$2
  [ -r "$1" ] || die "cannot read the keys file $1"
  jq -e 'type == "array" and any(.[]; .enabled != false)
    and all(.[]; type == "object" and (.id | type == "string")
      and (.key // .key_sha256 | type == "string" and length >= 20))' \
    "$1" >/dev/null 2>&1 ||
    die "$name is not a list of keys, [{\"id\":\"me\",\"key\":\"sk_live_...\",\"enabled\":true}], with one enabled at least"
  ! jq -r '.[].key // empty' "$1" | grep -q replace_me || die "$name has a key of an example in it"
}

# choose_keys_file: the keys from --keys or .env, in keys_file; empty where neither has any.
choose_keys_file() {
  local in_env_file
  keys_file=${keys:-$(from_env_file API_KEYS_FILE)}
  # As .env.example has it, before there are any.
  [ "$keys_file" != api-keys.json ] || [ -n "$keys" ] || [ -e api-keys.json ] || keys_file=''
  in_env_file=$(from_env_file API_KEYS_JSON)
  # As .env.example has it, which is as good as none.
  case $in_env_file in *'"sk_live_..."'*) in_env_file='' ;; esac
  if [ -z "$keys_file" ] && [ -n "$in_env_file" ]; then
    keys_file=$work/api-keys.json
    printf '%s\n' "$in_env_file" >"$keys_file"
    check_keys "$keys_file" 'API_KEYS_JSON in .env'
    return
  fi
  if [ -z "$keys_file" ] && [ -f api-keys.json ]; then
    keys_file=api-keys.json
  fi
  [ -z "$keys_file" ] || check_keys "$keys_file" "$keys_file"
}

# store_version: makes keys_file the newest version of the secret, unless it is that already.
store_version() {
  if ask secrets versions access latest "--secret=$secret" "${in_project[@]}" >"$work/stored.json" &&
    cmp -s "$work/stored.json" "$keys_file"; then
    say 'the keys are stored already'
    return
  fi
  change secrets versions add "$secret" "--data-file=${keys_file:-api-keys.json}" "${in_project[@]}"
}

# print_traffic: revision and percent, one line each; the revision LATEST is whichever is ready last.
print_traffic() {
  ask run services describe "$service" "${in_region[@]}" --format=json >"$work/service.json" || { said; return 1; }
  [ "$dry_run" = no ] || return 0
  jq -r '.status.traffic[]? | select((.percent // 0) > 0)
    | "\(if .latestRevision then "LATEST" else .revisionName end)\t\(.percent)\t\(.revisionName)"' "$work/service.json"
}
