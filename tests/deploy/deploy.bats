#!/usr/bin/env bats
# deploy.sh and teardown.sh against a gcloud that talks to nobody.

load support

setup_file() { start_gateway; }
teardown_file() { stop_gateway; }
setup() { new_world "$BATS_TEST_TMPDIR"; }

@test "a new project ends with a service that answers" {
  run deploy
  echo "$output"
  [ "$status" -eq 0 ]
  for check in health models chat stream; do [[ $output == *"ok: $check at $URL"* ]]; done
  [[ $output == *"AI_API_BASE=$URL/v1"* ]]
  [[ $output == *"ai  CNAME  ghs.googlehosted.com."* ]]
  [[ $output == *"gcloud billing budgets create --billing-account=000000-AAAAAA-111111"* ]]
  no_secret_seen "$output"
  [ "$(state '.apis | length')" -eq 6 ]
  [ "$(state '.project_bindings | map(select(.[1] | contains("ai-proxy-sa")))')" = \
    '[["roles/aiplatform.user","serviceAccount:ai-proxy-sa@my-project.iam.gserviceaccount.com"]]' ]
  [ "$(state '.secrets["ai-proxy-api-keys"].bindings | map(.[0])')" = '["roles/secretmanager.secretAccessor"]' ]
  [ "$(state '.secrets["ai-proxy-api-keys"].versions[0] | fromjson | .[0].id')" = '"me"' ]
  [ "$(state '.services["ai-proxy"].environment')" = \
    '{"GOOGLE_CLOUD_PROJECT":"my-project","PUBLIC_URL":"https://ai.example.com","API_KEYS_FILE":"/secrets/api-keys.json"}' ]
  [ "$(state '.services["ai-proxy"] | [."--timeout", ."--concurrency", ."--memory", ."--max-instances", .secrets]')" = \
    '["3600","1000","256Mi","3","/secrets/api-keys.json=ai-proxy-api-keys:latest"]' ]
  [ "$(state '.mappings')" = '{"ai.example.com":"ai-proxy"}' ]
}

@test "a second run makes a revision and nothing else" {
  deploy
  lasting >../first
  forget_calls
  deploy
  lasting | diff ../first -
  not called 'iam service-accounts create'
  not called 'secrets create'
  not called 'secrets versions add'
  not called 'beta run domain-mappings create'
}

# one_failure NUMBER AFTER CALLS FINAL EMPTY: that call of a run fails; what another run and a teardown make of it.
one_failure() {
  local log=$BATS_TEST_TMPDIR/$1-$2.log
  (
    new_world "$BATS_TEST_TMPDIR/$1-$2"
    fail_at "$1" "$2"
    if deploy; then
      # Only questions that are not needed for an answer.
      jq -r 'join(" ")' "$FAKE_GCLOUD/calls.jsonl" | sed -n "$1p" |
        grep -E '^(billing projects|domains list|projects get-iam|iam service-accounts describe|secrets (versions access|describe)|beta run domain-mappings describe)'
    fi
    fail_never
    deploy && lasting | diff "$3" - && teardown_all && without_apis | diff "$4" - &&
      no_secret_seen "$(<"$log")"
  ) >"$log" 2>&1 || echo "$1-$2" >>"$BATS_TEST_TMPDIR/failed"
}

@test "a failure at any call, before or after its work: another run ends like a clean one, and a teardown leaves nothing" {
  local number after call cases=0
  without_apis >../empty
  deploy
  lasting >../final
  jq -r 'join(" ")' "$FAKE_GCLOUD/calls.jsonl" >../calls
  number=0
  while read -r call; do
    number=$((number + 1))
    for after in false true; do
      # A question does no work.
      case $after/$call in true/*' describe '* | true/*' list'* | true/*' get-iam-policy '* | true/*' access '*) continue ;; esac
      one_failure "$number" "$after" "$BATS_TEST_TMPDIR/final" "$BATS_TEST_TMPDIR/empty" &
      cases=$((cases + 1))
      [ $((cases % 4)) -ne 0 ] || wait
    done
  done <../calls
  wait
  [ "$cases" -ge 30 ]
  [ "$(find .. -maxdepth 1 -name '*.log' | wc -l)" -eq "$cases" ]
  if [ -e ../failed ]; then
    for number in $(<../failed); do
      echo "== $number"
      cat "../$number.log"
    done
    return 1
  fi
}

@test "a dry run calls nothing, changes nothing, and prints every command that a run makes" {
  run deploy --dry-run
  [ "$status" -eq 0 ]
  [ ! -e "$FAKE_GCLOUD/calls.jsonl" ]
  [ ! -e api-keys.json ]
  [[ $output != *"$CANARY"* ]]
  deploy
  all_printed "$output"
  forget_calls
  run ./teardown.sh --project my-project --domain "$DOMAIN" --dry-run
  [ "$status" -eq 0 ]
  [ ! -e "$FAKE_GCLOUD/calls.jsonl" ]
  teardown_all
  all_printed "$output"
}

@test "a dry run works where there is no gcloud" {
  rm ../bin/gcloud
  PATH=$BATS_TEST_TMPDIR/bin:/bin run deploy --dry-run
  [ "$status" -eq 0 ]
}

@test "keys in an environment variable: no secret, and none in arguments" {
  run deploy --env-keys
  [ "$status" -eq 0 ]
  no_secret_seen "$output"
  [ "$(state '.services["ai-proxy"].environment.API_KEYS_JSON | fromjson | .[0].id')" = '"me"' ]
  [ "$(state '.secrets')" = '{}' ]
  # And on to Secret Manager.
  deploy
  [ "$(state '.services["ai-proxy"].environment | has("API_KEYS_JSON")')" = false ]
}

@test "settings and keys from .env; its gateway settings go along" {
  cat >.env <<END
GOOGLE_CLOUD_PROJECT=my-project
CLOUD_RUN_REGION=europe-west1
CLOUD_RUN_SERVICE=another-proxy
API_KEY=$CANARY
API_KEYS_JSON='$KEYS'
MODEL_FLASH_ID="google/gemini-2.5-flash"
PLAYGROUND=on
PUBLIC_URL=http://localhost:8080
MODEL_ALIASES_JSON='{"gpt-4o":"google/gemini-2.5-flash","it'"'"'s":"a/b"}'
PORT=9999
END
  run ./deploy.sh
  echo "$output"
  [ "$status" -eq 0 ]
  no_secret_seen "$output"
  [ "$(state '.services["another-proxy"].environment | keys')" = \
    '["API_KEYS_FILE","GOOGLE_CLOUD_PROJECT","MODEL_ALIASES_JSON","MODEL_FLASH_ID","PLAYGROUND","PUBLIC_URL"]' ]
  # The local one makes no sense there.
  [ "$(state '.services["another-proxy"].environment.PUBLIC_URL')" = '"https://another-proxy-123456789012.europe-west1.run.app"' ]
  [ "$(state '.services["another-proxy"].environment.MODEL_ALIASES_JSON | fromjson | keys')" = '["gpt-4o","it'"'"'s"]' ]
  [ "$(state '.images[1]')" = '"europe-west1-docker.pkg.dev/my-project/cloud-run-source-deploy/another-proxy"' ]
  [ "$(state '.accounts | keys')" = '["another-proxy-sa@my-project.iam.gserviceaccount.com"]' ]
}

@test "an address in .env is what pages say, whatever the domain" {
  echo PUBLIC_URL=https://elsewhere.example >.env
  run deploy
  [ "$status" -eq 0 ]
  [ "$(state '.services["ai-proxy"].environment.PUBLIC_URL')" = '"https://elsewhere.example"' ]
}

@test "without keys it makes one, for its owner's eyes only, and keeps it" {
  run ./deploy.sh --project my-project --wait 0
  # The gateway of this test does not know it, and the smoke test sees that.
  [ "$status" -eq 1 ]
  [[ $output == *"models did not succeed"* ]]
  no_secret_seen "$output"
  [ "$(stat -c %a api-keys.json 2>/dev/null || stat -f %Lp api-keys.json)" = 600 ]
  jq -e '.[0].key | test("^sk_live_[A-Za-z0-9_-]{43}$")' api-keys.json
  cp api-keys.json ../made
  run ./deploy.sh --project my-project --wait 0
  cmp api-keys.json ../made
  [ "$(state '.secrets["ai-proxy-api-keys"].versions | length')" -eq 1 ]
}

@test "a list of digests: the service is tried with API_KEY of .env, or no further than it goes without" {
  local digest
  digest=$(printf %s "$CANARY" | openssl dgst -sha256 -r | cut -d' ' -f1)
  printf '[{"id":"me","key_sha256":"%s","enabled":true}]\n' "$digest" >../keys.json
  run deploy
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output == *"ok: health at $URL"*"no more than /health"* || $output == *"no more than /health"*"ok: health at $URL"* ]]
  [[ $output != *"ok: models"* && $output != *"jq -r"* ]]
  printf 'API_KEY=%s\n' "$CANARY" >.env
  echo .env >>.gcloudignore
  run deploy
  echo "$output"
  [ "$status" -eq 0 ]
  for check in health models chat stream; do [[ $output == *"ok: $check at $URL"* ]]; done
  no_secret_seen "$output"
  # A digest in what goes up is nobody's business; the key would be.
  cp ../keys.json src/notes.txt
  deploy
}

@test "a copy of .env.example has no keys in it, so it makes one" {
  cp "$REPOSITORY/.env.example" .env
  run ./deploy.sh --project my-project --wait 0
  echo "$output"
  [[ $output == *"made a first key"* ]]
  [ -f api-keys.json ]
}

@test "from another clone the stored keys stay" {
  deploy
  run ./deploy.sh --project my-project
  [ "$status" -eq 0 ]
  no_secret_seen "$output"
  [ ! -e api-keys.json ]
  [ "$(state '.secrets["ai-proxy-api-keys"].versions | length')" -eq 1 ]
}

@test "keys that only the service has are not replaced by new ones" {
  deploy --env-keys
  run ./deploy.sh --project my-project --env-keys
  [ "$status" -eq 1 ]
  [[ $output == *"give them with --keys FILE"* ]]
}

@test "keys that the gateway would refuse are refused, unseen" {
  printf '{"id":"me","key":"%s"}' "$CANARY" >../keys.json
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"is not a list of keys"* ]]
  no_secret_seen "$output"
  printf '[{"id":"me","key":"sk_live_replace_me_by_a_real_one"}]' >../keys.json
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"key of an example"* ]]
  [ "$(state '.apis')" = '[]' ]
}

@test "an upload with a secret is refused, before anything is made" {
  local name
  cp .gcloudignore ../rules 2>/dev/null || cp .gitignore ../rules
  for name in .env .env.local api-keys.json src/api-keys-old.json src/my-key.json src/tls.pem src/service-account-x.json; do
    mkdir -p src
    echo '# nothing of note' >"$name"
    printf '.git\n.gcloudignore\n' >.gcloudignore
    run ./deploy.sh --project my-project --keys ../keys.json
    [ "$status" -eq 1 ]
    [[ $output == *"refusing to upload"*"$name"* ]]
    rm "$name"
  done
  cp ../keys.json src/notes.txt
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"refusing to upload"*src/notes.txt* ]]
  no_secret_seen "$output"
  printf '%s\n' '-----BEGIN PRIVATE KEY-----' >src/notes.txt
  run deploy
  [ "$status" -eq 1 ]
  [ "$(state '.apis')" = '[]' ]
}

@test "the repository's own rules keep secrets out of an upload" {
  local name
  touch .env .env.prod api-keys.json api-keys-2.json me-key.json
  run gcloud meta list-files-for-upload .
  [ "$status" -eq 0 ]
  for name in .env .env.prod api-keys.json api-keys-2.json me-key.json; do
    not grep -qx "$name" <<<"$output"
  done
  grep -qx Dockerfile <<<"$output"
}

@test "without a list of what would go up, nothing does" {
  fail_always 'meta list-files-for-upload' 'Invalid choice'
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"cannot tell what would be uploaded"* ]]
}

@test "nobody logged in, no project, no tool" {
  change_state '.logged_in = []'
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"gcloud auth login"* ]]
  change_state '.logged_in = ["someone@example.com"]'
  run ./deploy.sh --project not-there --keys ../keys.json
  [[ $output == *"gcloud projects create not-there"* ]]
  run ./deploy.sh
  [[ $output == *"which project"* ]]
  mkdir ../few
  for tool in bash dirname mktemp rm jq cat; do ln -s "$(command -v "$tool")" ../few; done
  PATH=$BATS_TEST_TMPDIR/few run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"not installed: gcloud curl"* ]]
}

@test "a project made a minute ago: all that is missing is named at once, with its command" {
  change_state '.billing = false | .verified = []'
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"gcloud billing projects link my-project --billing-account=ACCOUNT_ID"* ]]
  [[ $output == *"gcloud domains verify ai.example.com"* ]]
  [ "$(state '.apis')" = '[]' ]
}

@test "the build account's role: a remark before, the command after the build was refused" {
  change_state '.project_bindings = []'
  run deploy
  [ "$status" -eq 1 ]
  [ "$(grep -c 'member=serviceAccount:123456789012-compute@developer.gserviceaccount.com --role=roles/run.builder' <<<"$output")" -eq 2 ]
}

@test "a new account that is not known everywhere yet" {
  # The first binding comes too early, once.
  cp ../bin/gcloud ../bin/real
  cat >../bin/gcloud <<END
#!/bin/sh
if [ "\$2" = add-iam-policy-binding ] && mkdir "$BATS_TEST_TMPDIR/early" 2>/dev/null; then
  echo "ERROR: Service account ai-proxy-sa does not exist." >&2
  exit 1
fi
exec "$BATS_TEST_TMPDIR/bin/real" "\$@"
END
  run deploy
  [ "$status" -eq 0 ]
  [ -d ../early ]
}

@test "an organisation that forbids allUsers: the check is turned off instead" {
  change_state '.forbids_all_users = true'
  run deploy
  [ "$status" -eq 0 ]
  [ "$(state '.services["ai-proxy"].open')" = true ]
  called 'run services update ai-proxy --no-invoker-iam-check'
}

@test "where allUsers may call, the check stays" {
  deploy
  not called 'run services update ai-proxy --no-invoker-iam-check'
}

@test "a domain that leads elsewhere stays there" {
  change_state '.mappings = {"ai.example.com": "another"}'
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"leads to the service another already"* ]]
  [ "$(state '.mappings')" = '{"ai.example.com":"another"}' ]
  teardown_all
  [ "$(state '.mappings')" = '{"ai.example.com":"another"}' ]
}

@test "wrong arguments" {
  local words
  for words in '--bogus' 'word' '--project' '--project=' '--project=UPPER' '--region=nowhere' '--service=x' '--domain=nodot' '--wait=soon'; do
    # shellcheck disable=SC2086 # nothing in them to split
    run ./deploy.sh --project my-project $words
    [ "$status" -eq 1 ]
  done
  [ ! -e "$FAKE_GCLOUD/calls.jsonl" ]
  run ./deploy.sh --help
  [ "$status" -eq 0 ]
}

@test "teardown asks; anything but yes leaves all as it is" {
  deploy
  lasting >../before
  run ./teardown.sh --project my-project <<<'no'
  [ "$status" -eq 1 ]
  run ./teardown.sh --project my-project </dev/null
  [ "$status" -eq 1 ]
  lasting | diff ../before -
  run ./teardown.sh --project my-project <<<'yes'
  [ "$status" -eq 0 ]
  [ "$(state '[.services, .secrets, .accounts, .mappings]')" = '[{},{},{},{}]' ]
}

@test "teardown keeps Vertex AI, the repository and others' images, and says so" {
  deploy
  run teardown_all
  [ "$status" -eq 0 ]
  [ "$(state '.apis | index("aiplatform.googleapis.com") != null')" = true ]
  [ "$(state .images)" = '["us-central1-docker.pkg.dev/my-project/cloud-run-source-deploy/another"]' ]
  [[ $output == *"Left as they are:"*"Vertex AI too"*"cloud-run-source-deploy"* ]]
  not called 'artifacts repositories'
}

@test "teardown survives whatever is gone already, and a project in which nothing ever was" {
  local gone
  without_apis >../empty
  run teardown_all
  [ "$status" -eq 0 ]
  for gone in '.services = {}' '.secrets = {}' '.accounts = {}' '.mappings = {}' '.images |= .[:1]' \
    '.project_bindings |= map(select(.[0] != "roles/aiplatform.user"))'; do
    deploy
    change_state "$gone"
    run teardown_all
    [ "$status" -eq 0 ]
    without_apis | diff ../empty -
  done
}

@test "teardown: a failure at any call is told, keeps nothing else from going, and is mended by another run" {
  local number calls
  without_apis >../empty
  deploy
  cp "$FAKE_GCLOUD/state.json" ../deployed
  forget_calls
  teardown_all
  calls=$(calls_count)
  for number in $(seq "$calls"); do
    cp ../deployed "$FAKE_GCLOUD/state.json"
    fail_at "$number" false
    run teardown_all
    echo "$number: $output"
    [ "$status" -eq 1 ]
    fail_never
    run teardown_all
    [ "$status" -eq 0 ]
    without_apis | diff ../empty -
  done
}

@test "teardown of a service that shares account and secret with one elsewhere keeps these" {
  deploy
  change_state '.services.elsewhere = .services["ai-proxy"]'
  run teardown_all
  [ "$status" -eq 0 ]
  [[ $output == *"kept, since another service uses them"* ]]
  [ "$(state '[(.secrets | length), (.accounts | length)]')" = '[1,1]' ]
}
