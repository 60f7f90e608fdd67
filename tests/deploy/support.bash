# What the tests of the deploy scripts share. Sourced by them.
#
# A world is a folder with a clone of what the scripts need, a gcloud that talks to nobody (fake_gcloud.py), and recorders of
# what the programs are called with. The service that is "deployed" is a real `ai-proxy dev`, one for each file of tests.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly REPOSITORY
# Keys that must never be seen in an output or in arguments.
readonly CANARY=sk_live_canary_canary_canary_1 OTHER_CANARY=sk_live_canary_canary_canary_2
readonly KEYS="[{\"id\":\"me\",\"key\":\"$CANARY\",\"enabled\":true}]"
readonly DOMAIN=ai.example.com

start_gateway() {
  local waited=0
  API_KEYS_JSON=$KEYS PORT=0 env -u GCE_METADATA_HOST "${AI_PROXY:-$REPOSITORY/target/debug/ai-proxy}" dev \
    </dev/null >"$BATS_FILE_TMPDIR/gateway.log" 2>&1 3>&- &
  echo $! >"$BATS_FILE_TMPDIR/gateway.pid"
  until grep -q 'base URL' "$BATS_FILE_TMPDIR/gateway.log"; do
    kill -0 "$!" || { cat "$BATS_FILE_TMPDIR/gateway.log"; return 1; }
    waited=$((waited + 1))
    [ "$waited" -lt 600 ] || return 1
    /bin/sleep 0.05
  done
  URL=$(sed -n 's|^ *base URL *\(http:.*\)/v1$|\1|p' "$BATS_FILE_TMPDIR/gateway.log")
  # Not the wrapper of a version manager, which is slow to start.
  PYTHON=$(python3 -c 'import sys; print(sys.executable)')
  export URL PYTHON
}

stop_gateway() { kill "$(cat "$BATS_FILE_TMPDIR/gateway.pid")"; }

# new_world FOLDER: a project made a minute ago, with billing, a verified domain, and the keys in keys.json.
new_world() {
  mkdir -p "$1/clone/deploy" "$1/clone/src" "$1/bin" "$1/gcloud"
  cd "$1/clone" || return
  cp "$REPOSITORY"/{deploy,teardown,ops}.sh .
  cp "$REPOSITORY"/deploy/*.{sh,jq} deploy
  cp "$REPOSITORY/.gitignore" .
  [ ! -f "$REPOSITORY/.gcloudignore" ] || cp "$REPOSITORY/.gcloudignore" .
  touch Dockerfile Cargo.toml
  echo 'fn main() {}' >src/main.rs
  printf '%s\n' "$KEYS" >../keys.json
  export FAKE_GCLOUD=$1/gcloud
  jq -n --arg url "$URL" '{
    project: "my-project", number: "123456789012", logged_in: ["someone@example.com"], billing: true,
    verified: ["example.com"], forbids_all_users: false, url: $url, revisions: 0,
    apis: [], accounts: {}, secrets: {}, services: {}, mappings: {},
    images: ["us-central1-docker.pkg.dev/my-project/cloud-run-source-deploy/another"],
    project_bindings: [["roles/run.builder", "serviceAccount:123456789012-compute@developer.gserviceaccount.com"]]
  }' >"$FAKE_GCLOUD/state.json"
  printf '#!/bin/sh\nexec "%s" -ISs "%s" "$@"\n' "$PYTHON" "$REPOSITORY/tests/deploy/fake_gcloud.py" >"$1/bin/gcloud"
  printf '#!/bin/sh\nexit 0\n' >"$1/bin/sleep"
  recorder "$1" curl
  recorder "$1" jq
  recorder "$1" grep
  chmod +x "$1"/bin/*
  PATH=$1/bin:$PATH
  unset GOOGLE_CLOUD_PROJECT CLOUD_RUN_REGION CLOUD_RUN_SERVICE CLOUD_RUN_DOMAIN API_KEYS_FILE API_KEYS_JSON
}

# recorder FOLDER PROGRAM: the program, with its arguments noted down.
recorder() {
  printf '#!/bin/sh\nprintf "%%s\\n" "%s $*" >>"%s/arguments"\nexec "%s" "$@"\n' "$2" "$1" "$(command -v "$2")" >"$1/bin/$2"
}

deploy() { ./deploy.sh --project my-project --domain "$DOMAIN" --keys ../keys.json --wait 30 "$@"; }
teardown_all() { ./teardown.sh --project my-project --yes "$@"; }
ops() { ./ops.sh --project my-project "$@"; }

# change_state FILTER: by a filter of jq.
change_state() {
  jq "$1" "$FAKE_GCLOUD/state.json" >"$FAKE_GCLOUD/new" && mv "$FAKE_GCLOUD/new" "$FAKE_GCLOUD/state.json"
}

state() { jq -c "$1" "$FAKE_GCLOUD/state.json"; }

# fail_at NUMBER AFTER; fail_always COMMAND MESSAGE.
fail_at() { printf '{"at": %d, "after": %s}' "$(($1 + $(calls_count)))" "$2" >"$FAKE_GCLOUD/fail.json"; }
fail_always() { jq -n --arg match "$1" --arg message "$2" '$ARGS.named' >"$FAKE_GCLOUD/fail.json"; }
fail_never() { rm -f "$FAKE_GCLOUD/fail.json"; }

calls_count() { cat "$FAKE_GCLOUD/calls.jsonl" 2>/dev/null | wc -l; }
forget_calls() { rm -f "$FAKE_GCLOUD/calls.jsonl"; }
# called WORDS: whether a call began with these.
called() { jq -r 'join(" ")' "$FAKE_GCLOUD/calls.jsonl" | grep -q "^$1"; }

# not COMMAND...: a test does not end at a command that fails after a mere "!".
not() { ! "$@"; }

# What is the same after any number of runs.
lasting() { jq -S 'del(.revisions) | .services |= map_values(del(.revisions))' "$FAKE_GCLOUD/state.json"; }
# What a teardown brings back.
without_apis() { jq -S 'del(.revisions, .apis)' "$FAKE_GCLOUD/state.json"; }

# no_secret_seen TEXT...: neither in these nor in what any program was called with. By awk, which is not among the recorded.
no_secret_seen() {
  local secret made=''
  [ ! -f api-keys.json ] || made=$(sed -n 's/.*\(sk_live_[A-Za-z0-9_-]*\).*/\1/p' api-keys.json)
  for secret in "$CANARY" "$OTHER_CANARY" $made; do
    printf '%s\n' "$@" | cat - ../arguments "$FAKE_GCLOUD/calls.jsonl" |
      awk -v secret="$secret" 'index($0, secret) { print "SEEN: " $0; seen = 1 } END { exit seen }' || return 1
  done
  # Nor was anything asked that gcloud does not know.
  [ ! -e "$FAKE_GCLOUD/refused" ] || { cat "$FAKE_GCLOUD/refused"; return 1; }
}

# commands: what stands before the first flag of each line, three words at most.
commands() { sed 's/ --.*//' | cut -d ' ' -f 1-3 | sort -u; }
# all_printed TEXT: whether each command that was called stands in what a dry run has printed.
all_printed() {
  local missing
  missing=$(comm -13 <(sed -n 's/^gcloud //p' <<<"$1" | sed "s/ '--/ --/g" | commands) \
    <(jq -r 'join(" ")' "$FAKE_GCLOUD/calls.jsonl" | commands))
  [ -z "$missing" ] || { echo "not printed: $missing"; return 1; }
}
