# shellcheck shell=bash
# Variables cross files here: 'me' comes from the script, and most others go to it.
# shellcheck disable=SC2034,SC2154
#
# What deploy.sh, teardown.sh and ops.sh share: settings, and the ways in which they call gcloud. Sourced, not run.
# 'caller' is the folder that the script was called in.
#
# Runs on the bash of macOS (3.2) too: there an empty array counts as unset, hence ${name[@]+"${name[@]}"}.

# shellcheck source=deploy/keys.sh
. deploy/keys.sh

# Settings, in this order: flag, environment, .env, default.
project='' region='' service='' domain='' keys='' env_keys=no dry_run=no assume_yes=no wait_seconds=180
# What the file .env says, as one JSON object; secrets may be among it.
env_file='{}'
# The settings that say which aliases the gateway has: those of .env, or of the service.
alias_settings='{}'
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

# look FILE ARGUMENT...: asks about a thing that may not be there, and puts the answer into the file. A failure when it is not
# there; where that cannot be told, the run ends. In a dry run nothing exists yet.
look() {
  local answer=$1 tries=$TRIES
  shift
  if [ "$dry_run" = yes ]; then
    ask "$@"
    return 1
  fi
  until ask "$@" >"$answer"; do
    # An API that was enabled a moment ago is not known everywhere at once.
    tries=$((tries - 1))
    if is_switched_off && [ "$tries" -gt 0 ]; then
      sleep "$PAUSE_SECONDS"
      continue
    fi
    absent && ! is_switched_off && return 1
    said
    die "cannot tell what is there, and stops; run this again: $(quoted gcloud "$@")"
  done
}

exists() { look "$work/answer" "$@"; }

is_switched_off() { grep -qiE 'has not been used in project' "$work/stderr"; }

# absent: whether the last question failed for want of the thing itself, and not of a right or a network.
absent() {
  is_switched_off || {
    grep -qiE 'not[_ ]found|could not be found|does not exist|cannot find|unknown service account' "$work/stderr" &&
      ! grep -qiE 'permission[_ ]denied|unavailable|deadline[_ ]exceeded' "$work/stderr"
  }
}

is_forbidden() { grep -qiE 'permission[_ ]denied' "$work/stderr"; }

said() { cat "$work/stderr" >&2; }

# A new service account, or a new service, is not known everywhere at once.
readonly PAUSE_SECONDS=5 TRIES=12

# change_when_known ARGUMENT...: tried again while Google says that a thing which was just made does not exist.
change_when_known() {
  local tries=$TRIES
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
      --keys) keys=$(from_caller "$value") ;;
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

# from_caller PATH: a path that was given in the folder of the caller, as seen from here.
from_caller() {
  case $1 in
  /*) printf '%s\n' "$1" ;;
  *) if [ "$caller" = "$PWD" ]; then printf '%s\n' "$1"; else printf '%s\n' "$caller/$1"; fi ;;
  esac
}

# The settings in .env, which shells read too. It is not run, and nothing of it gets into the environment of a process.
read_env_file() {
  local problem
  [ -e .env ] || [ -L .env ] || return 0
  if [ -d .env ] || [ ! -r .env ]; then die 'cannot read .env'; fi
  jq -Rs -f deploy/env.jq .env >"$work/env.json" 2>/dev/null || die 'cannot read .env'
  problem=$(jq -r '.error // empty' "$work/env.json")
  [ -z "$problem" ] || die ".env, $problem"
  env_file=$(jq -c .settings "$work/env.json")
  alias_settings=$env_file
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
  [[ $wait_seconds =~ ^[0-9]{1,5}$ ]] || die '--wait takes a number of seconds'
  wait_seconds=$((10#$wait_seconds))
}

# start ARGUMENT...: what each script does first. Commands of a dry run go to the standard output, also where a question's
# answer would be caught.
start() {
  umask 077
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' HUP TERM
  exec 3>&1
  parse_arguments "$@"
  need_tools jq
  settle
}

# print_traffic: revision and percent, one line each; the revision LATEST is whichever is ready last.
print_traffic() {
  ask run services describe "$service" "${in_region[@]}" --format=json >"$work/service.json" || { said; return 1; }
  [ "$dry_run" = no ] || return 0
  jq -r '.status.traffic[]? | select((.percent // 0) > 0)
    | "\(if .latestRevision then "LATEST" else .revisionName end)\t\(.percent)\t\(.revisionName)"' "$work/service.json"
}
