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
  [ "$(state '.services["us-central1/ai-proxy"].environment')" = \
    '{"GOOGLE_CLOUD_PROJECT":"my-project","PUBLIC_URL":"https://ai.example.com","API_KEYS_FILE":"/secrets/api-keys.json"}' ]
  [ "$(state '.services["us-central1/ai-proxy"] | [."--timeout", ."--concurrency", ."--memory", ."--max-instances", .secrets]')" = \
    '["3600","1000","256Mi","3","/secrets/api-keys.json=ai-proxy-api-keys:latest"]' ]
  [ "$(state '.mappings')" = '{"us-central1/ai.example.com":"ai-proxy"}' ]
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
  [ "$(state '.services["us-central1/ai-proxy"].environment.API_KEYS_JSON | fromjson | .[0].id')" = '"me"' ]
  [ "$(state '.secrets')" = '{}' ]
  # And on to Secret Manager.
  deploy
  [ "$(state '.services["us-central1/ai-proxy"].environment | has("API_KEYS_JSON")')" = false ]
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
  [ "$(state '.services["europe-west1/another-proxy"].environment | keys')" = \
    '["API_KEYS_FILE","GOOGLE_CLOUD_PROJECT","MODEL_ALIASES_JSON","MODEL_FLASH_ID","PLAYGROUND","PUBLIC_URL"]' ]
  # The local one makes no sense there.
  [ "$(state '.services["europe-west1/another-proxy"].environment.PUBLIC_URL')" = '"https://another-proxy-123456789012.europe-west1.run.app"' ]
  [ "$(state '.services["europe-west1/another-proxy"].environment.MODEL_ALIASES_JSON | fromjson | keys')" = '["gpt-4o","it'"'"'s"]' ]
  [ "$(state '.images[1]')" = '"europe-west1-docker.pkg.dev/my-project/cloud-run-source-deploy/another-proxy"' ]
  [ "$(state '.accounts | keys')" = '["another-proxy-sa@my-project.iam.gserviceaccount.com"]' ]
}

@test "an address in .env is what pages say, whatever the domain" {
  echo PUBLIC_URL=https://elsewhere.example >.env
  run deploy
  [ "$status" -eq 0 ]
  [ "$(state '.services["us-central1/ai-proxy"].environment.PUBLIC_URL')" = '"https://elsewhere.example"' ]
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

@test "keys that the gateway would refuse are refused, unseen" {
  printf '{"id":"me","key":"%s"}' "$CANARY" >../keys.json
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"is not a list of keys as the gateway wants it"* ]]
  no_secret_seen "$output"
  printf '[{"id":"me","key":"sk_live_replace_me_by_a_real_one"}]' >../keys.json
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"key of an example"* ]]
  [ "$(state '.apis')" = '[]' ]
}

# refused_upload NAME: whether a deploy of what is here refuses that.
refused_upload() {
  run ./deploy.sh --project my-project --keys ../keys.json
  echo "$1: $output"
  [ "$status" -eq 1 ]
  [[ $output == *"refusing to upload"*"$1"* ]]
  [[ $output != *"cargo"* ]]
  no_secret_seen "$output"
}

@test "an upload with a secret is refused by its name, before anything is made" {
  local name names
  # Those of the tests of the image, each of which one entry of the list stands for.
  names=$("$PYTHON" -c 'import sys; sys.path.insert(0, sys.argv[1]); import support; print("\n".join(support.SECRET_FILES))' \
    "$REPOSITORY/tests/image" | grep -v /)
  [ "$(wc -l <<<"$names")" -ge 30 ]
  printf '.git\n.gcloudignore\n' >.gcloudignore
  mkdir "src/a b"
  for name in $names; do
    echo '# nothing of note' >"src/a b/$name"
  done
  echo >.env
  for name in .ENV Id_RSA TLS.PEM; do echo >"src/$name"; done
  mkdir src/x.key
  echo >src/x.key/notes.txt
  touch -- -my-key.json
  refused_upload src/.ENV
  for name in $names; do [[ $output == *"  src/a b/$name"* ]]; done
  for name in .env src/Id_RSA src/TLS.PEM src/x.key/notes.txt -my-key.json; do [[ $output == *"  $name"* ]]; done
  [ "$(state '.apis')" = '[]' ]
  # An example is none.
  rm -rf -- src/* .env src/.[A-Z]* -my-key.json
  touch src/.env.example src/main.rs
  deploy
}

@test "an upload with a secret is refused by what is in it" {
  local text number=0
  while IFS= read -r text; do
    number=$((number + 1))
    printf 'x\n%s\n' "$text" >"src/a note $number.txt"
  done <<END
-----BEGIN PRIVATE KEY-----
  "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE
-----BEGIN RSA PRIVATE KEY-----
-----BEGIN OPENSSH PRIVATE KEY-----
-----BEGIN EC PRIVATE KEY-----
-----BEGIN ENCRYPTED PRIVATE KEY-----
[{"id":"another","key":"sk_live_$(printf '%043d' 7)"}]
{"type": "authorized_user", "refresh_token" : "1//x"}
{"id":"https://acme.example/1","key_pkcs8":"MIGH"}
$CANARY
END
  # What is no text, too.
  printf '\0\1%s\0' "$OTHER_CANARY" >src/program
  refused_upload src/program
  for number in $(seq "$number"); do [[ $output == *"  src/a note $number.txt"* ]]; done
  [ "$(state '.apis')" = '[]' ]
  rm src/*
  # The examples of this repository are none.
  printf '%s\n' 'sk_live_0123456789abcdef' 'sk_live_...' 'API_KEY=sk_live_replace_me' 'a refresh_token, a PRIVATE KEY' >src/main.rs
  deploy
}

@test "an upload of what cannot be judged is refused" {
  local name
  mkdir ../elsewhere
  echo >../elsewhere/id_rsa
  ln -s ../../elsewhere src/folder
  refused_upload src/folder
  rm src/folder
  ln -s ../../elsewhere/id_rsa src/file.rs
  refused_upload src/file.rs
  rm src/file.rs
  ln -s /nowhere src/nowhere.rs
  refused_upload src/nowhere.rs
  rm src/nowhere.rs
  name=$'src/with\na line break.rs'
  echo "$OTHER_CANARY" >"$name"
  refused_upload src/with
  rm "$name"
  deploy
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
  [ "$(state '.services["us-central1/ai-proxy"].open')" = true ]
  called 'run services update ai-proxy --no-invoker-iam-check'
}

@test "where allUsers may call, the check stays" {
  deploy
  not called 'run services update ai-proxy --no-invoker-iam-check'
}

@test "a domain that leads elsewhere stays there" {
  change_state '.mappings = {"us-central1/ai.example.com": "another"}'
  run deploy
  [ "$status" -eq 1 ]
  [[ $output == *"leads to the service another already"* ]]
  [ "$(state '.mappings')" = '{"us-central1/ai.example.com":"another"}' ]
  teardown_all
  [ "$(state '.mappings')" = '{"us-central1/ai.example.com":"another"}' ]
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
  change_state '.services["europe-west1/ai-proxy"] = .services["us-central1/ai-proxy"]'
  run teardown_all
  [ "$status" -eq 0 ]
  [[ $output == *"kept, since another service uses them"* ]]
  [ "$(state '[(.secrets | length), (.accounts | length)]')" = '[1,1]' ]
}

# with_stored JSON: a project with a service whose secret has these keys, and none of them here.
with_stored() {
  deploy >/dev/null 2>&1
  change_state ".secrets[\"ai-proxy-api-keys\"].versions += [$(jq -Rs . <<<"$1")]"
  forget_calls
  # What this test itself has called.
  rm ../arguments
}
versions() { state '.secrets["ai-proxy-api-keys"].versions | length'; }

@test "stored keys are never lost for a question that fails, whichever and how" {
  local number count message call
  with_stored "[{\"id\":\"issued\",\"key\":\"$OTHER_CANARY\"}]"
  cp "$FAKE_GCLOUD/state.json" ../before
  ./deploy.sh --project my-project --wait 0 || true
  jq -r 'join(" ")' "$FAKE_GCLOUD/calls.jsonl" >../calls
  count=0
  number=0
  while read -r call; do
    number=$((number + 1))
    case $call in secrets*describe* | secrets*access* | run*describe* | iam*describe*) ;; *) continue ;; esac
    for message in 'PERMISSION_DENIED: Permission denied on resource (or it may not exist).' 'UNAVAILABLE: The service is currently unavailable.'; do
      cp ../before "$FAKE_GCLOUD/state.json"
      forget_calls
      jq -n --argjson at "$number" --arg message "$message" '{$at, $message}' >"$FAKE_GCLOUD/fail.json"
      run ./deploy.sh --project my-project --wait 0
      echo "$call: $message: $output"
      [ ! -e api-keys.json ]
      # Who may not read the keys may deploy with those that are there.
      case $call/$message in *' access '*/PERM*) [[ $output == *"the keys stay as they are"* ]] ;; *) [ "$status" -eq 1 ] ;; esac
      [ "$(versions)" -eq 2 ]
      no_secret_seen "$output"
      fail_never
      count=$((count + 1))
    done
  done <../calls
  [ "$count" -ge 8 ]
  # And with all well again nothing is lost.
  run ./deploy.sh --project my-project --wait 0
  [[ $output == *"the keys stay as they are in the secret ai-proxy-api-keys"* ]]
  [ ! -e api-keys.json ]
  [ "$(versions)" -eq 2 ]
}

@test "an API that is not known everywhere yet is waited for" {
  cp ../bin/gcloud ../bin/real
  cat >../bin/gcloud <<END
#!/bin/sh
if [ "\$1 \$2" = "secrets versions" ] && mkdir "$BATS_TEST_TMPDIR/early" 2>/dev/null; then
  echo "ERROR: PERMISSION_DENIED: Secret Manager API has not been used in project 1 before or it is disabled." >&2
  exit 1
fi
exec "$BATS_TEST_TMPDIR/bin/real" "\$@"
END
  with_stored "[{\"id\":\"issued\",\"key\":\"$OTHER_CANARY\"}]"
  rm -rf ../early
  run ./deploy.sh --project my-project --wait 0
  [ -d ../early ]
  [ ! -e api-keys.json ]
  [ "$(versions)" -eq 2 ]
}

@test "a stale list here brings no revoked key back, until --keys says so" {
  with_stored "[{\"id\":\"issued\",\"key\":\"$OTHER_CANARY\"}]"
  cp ../keys.json api-keys.json
  run ./deploy.sh --project my-project
  echo "$output"
  [ "$status" -eq 1 ]
  no_secret_seen "$output"
  [ "$(versions)" -eq 2 ]
  not called 'run deploy'
  # The two commands that it gives: the one that fetches, then the one that stores.
  [[ $output == *"./deploy.sh --project=my-project --region=us-central1 --service=ai-proxy --keys=api-keys.json"* ]]
  bash -euc "$(sed -n 's/^  \(gcloud secrets versions access .*\)/\1/p' <<<"$output")"
  [ "$(jq -r '.[0].id' api-keys.json)" = issued ]
  run ./deploy.sh --project my-project --wait 0
  [[ $output == *"the keys stay as they are"* ]]
  cp ../keys.json api-keys.json
  bash -euc "$(sed -n 's/^  \(.\/deploy.sh .*\)/\1/p' <<<"$(./deploy.sh --project my-project 2>&1)")"
  [ "$(versions)" -eq 3 ]
  # The same for what .env names.
  printf "API_KEYS_JSON='%s'\n" "[{\"id\":\"old\",\"key\":\"$CANARY\"}]" >.env
  run ./deploy.sh --project my-project
  [ "$status" -eq 1 ]
  [[ $output == *"the keys in API_KEYS_JSON are not those in the secret"* ]]
  [ "$(versions)" -eq 3 ]
}

@test "the same keys, written otherwise, are the same" {
  deploy
  jq . ../keys.json >api-keys.json
  run ./deploy.sh --project my-project
  [ "$status" -eq 0 ]
  [ "$(versions)" -eq 1 ]
}

@test "a stale list does not replace the keys of a variable either" {
  deploy --env-keys
  printf '[{"id":"old","key":"%s"}]' "$OTHER_CANARY" >api-keys.json
  for flag in --env-keys ''; do
    # shellcheck disable=SC2086 # a flag or nothing
    run ./deploy.sh --project my-project $flag
    [ "$status" -eq 1 ]
    [[ $output == *"in the variable API_KEYS_JSON of the service ai-proxy"* ]]
    no_secret_seen "$output"
  done
  bash -euc "$(sed -n 's/^  \((umask 077; gcloud run services describe .*\)/\1/p' <<<"$output")"
  [ "$(jq -r '.[0].id' api-keys.json)" = me ]
  rm api-keys.json
  # And they go along into Secret Manager.
  ./deploy.sh --project my-project
  [ "$(state '.secrets["ai-proxy-api-keys"].versions[0] | fromjson | .[0].id')" = '"me"' ]
  [ "$(state '.services["us-central1/ai-proxy"].environment | has("API_KEYS_JSON")')" = false ]
}

@test "another region has another service" {
  deploy
  run ./deploy.sh --project my-project --region europe-west1
  [ "$status" -eq 0 ]
  [ "$(state '.services | keys')" = '["europe-west1/ai-proxy","us-central1/ai-proxy"]' ]
  [ "$(versions)" -eq 1 ]
  run ./teardown.sh --project my-project --region europe-west1 --yes
  [ "$status" -eq 0 ]
  [ "$(state '.services | keys')" = '["us-central1/ai-proxy"]' ]
  [ "$(state '[(.secrets | length), (.accounts | length)]')" = '[1,1]' ]
}

@test ".env is read, and nothing of it is run or shown" {
  local line
  while IFS= read -r line; do
    printf 'GOOGLE_CLOUD_PROJECT=my-project\n%s\nPLAYGROUND=on\n' "$line" >.env
    for flag in '' --dry-run; do
      # shellcheck disable=SC2086 # a flag or nothing
      run ./deploy.sh $flag
      echo "$line: $output"
      [ "$status" -eq 1 ]
      [[ $output == "deploy.sh: .env, line 2: "* ]]
      [[ $line != *=* || $output == *"line 2: ${line%%=*}: "* ]]
      [[ $output != *secret* && $output != *canary* ]]
      [ ! -e ran ]
    done
  done <<END
API_KEY=my secret $CANARY
API_KEYS_JSON=[{"id":"me", "key":"$CANARY"}]
API_KEYS_JSON=[{"id":"me","key":"$CANARY"}]
API_KEY=\$(touch ran)
API_KEY="\$(touch ran)secret"
API_KEY=\`touch ran\`
API_KEY=secret;touch ran
API_KEY=secret&touch ran
API_KEY=secret>ran
API_KEY=<(touch ran)
API_KEY=\${secret:-x}
API_KEY=\$secret_of_nobody
API_KEY='secret
API_KEY="secret
touch ran secret
\$(touch ran)
END
  [ ! -e "$FAKE_GCLOUD/calls.jsonl" ]
}

@test "what .env says is what a shell makes of it" {
  cat >.env <<'END'
# a comment
GOOGLE_CLOUD_PROJECT=my-project # another

export MODEL_A_ID=google/a
  MODEL_B_ID="google/$MODEL_A_ID"
MODEL_C_ID='it'"'"'s $HOME "quoted" #'
MODEL_D_ID="a \"b\" \\ \$x \n ${MODEL_A_ID}"
MODEL_E_ID=$HOME/x
MODEL_F_ID=~/x
MODEL_G_ID=a#b\ c
MODEL_H_ID='two
lines'
MODEL_I_ID=""
MODEL_J_ID=once
MODEL_J_ID=twice
MODEL_K_ID=a=b~c
END
  for ending in lf crlf; do
    [ "$ending" = lf ] || { sed 's/$/\r/' .env >crlf && mv crlf .env; }
    run ./deploy.sh --keys ../keys.json
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(state '.services["us-central1/ai-proxy"].environment | with_entries(select(.key | startswith("MODEL_"))) | to_entries | map(.value)' | jq -S .)" = \
      "$(tr -d '\r' <.env >plain && HOME=$HOME bash -c '. ./plain; for name in A B C D E F G H J K; do name=MODEL_${name}_ID; printf "%s\036" "${!name}"; done' | jq -Rs 'split("\u001e")[:-1]')" ]
  done
}

@test "every setting of the gateway goes along, or makes no sense there" {
  local name
  for name in $(sed -n 's/^# \{0,1\}\([A-Z][A-Z0-9_]*\)=.*/\1/p; s/^\([A-Z][A-Z0-9_]*\)=.*/\1/p' "$REPOSITORY/.env.example"); do
    case $name in
    AI_API_BASE | API_KEY | API_KEYS_* | CLOUD_RUN_* | PORT | HOST | TLS_* | ACME_* | HTTP_REDIRECT_PORT | METRICS_PORT | SSL_* | \
      GOOGLE_APPLICATION_CREDENTIALS | GCE_METADATA_HOST) ;;
    GOOGLE_CLOUD_PROJECT | PUBLIC_URL) ;;
    *)
      echo "$name=x-$name" >>.env
      echo "$name" >>../names
      ;;
    esac
  done
  # One that .env.example cannot spell.
  echo MODEL_X_LOCATION=x-MODEL_X_LOCATION >>.env
  grep -q THOUGHT_SIGNATURES ../names
  deploy
  for name in $(<../names) MODEL_X_LOCATION; do
    [ "$(state ".services[\"us-central1/ai-proxy\"].environment.$name")" = "\"x-$name\"" ]
  done
  [ "$(state '.services["us-central1/ai-proxy"].environment | length')" -eq "$(($(wc -l <../names) + 4))" ]
}

@test "a flag goes before the environment, that before .env, that before the default" {
  local flags
  run ./deploy.sh --dry-run --project my-project
  [[ $output == *"run deploy ai-proxy "*"--region=us-central1 --project=my-project"* ]]
  printf '%s\n' GOOGLE_CLOUD_PROJECT=of-file CLOUD_RUN_REGION=europe-west1 CLOUD_RUN_SERVICE=of-file CLOUD_RUN_DOMAIN=file.example.com >.env
  run ./deploy.sh --dry-run
  [[ $output == *"run deploy of-file "*"--region=europe-west1 --project=of-file"*"--domain=file.example.com"* ]]
  export GOOGLE_CLOUD_PROJECT=of-shell CLOUD_RUN_REGION=europe-west2 CLOUD_RUN_SERVICE=of-shell CLOUD_RUN_DOMAIN=shell.example.com
  run ./deploy.sh --dry-run
  [[ $output == *"run deploy of-shell "*"--region=europe-west2 --project=of-shell"*"--domain=shell.example.com"* ]]
  flags='--project of-flag --region europe-west3 --service of-flag --domain flag.example.com'
  # shellcheck disable=SC2086 # words
  run ./deploy.sh --dry-run $flags
  [[ $output == *"run deploy of-flag "*"--region=europe-west3 --project=of-flag"*"--domain=flag.example.com"* ]]
  unset GOOGLE_CLOUD_PROJECT CLOUD_RUN_REGION CLOUD_RUN_SERVICE CLOUD_RUN_DOMAIN
  # The same for keys.
  echo API_KEYS_FILE=of-file.json >.env
  run ./deploy.sh --project my-project --dry-run
  [[ $output == *"keys file of-file.json"* ]]
  API_KEYS_FILE=of-shell.json run ./deploy.sh --project my-project --dry-run
  [[ $output == *"keys file of-shell.json"* ]]
  API_KEYS_FILE=of-shell.json run ./deploy.sh --project my-project --dry-run --keys of-flag.json
  [[ $output == *"keys file of-flag.json"* ]]
}

@test "paths are those of the caller, wherever that is" {
  mkdir -p "../else where"
  cp ../keys.json "../else where/-mine.json"
  cd "../else where"
  CDPATH=/ run ../clone/deploy.sh --project my-project --keys -mine.json
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(versions)" -eq 1 ]
}

@test "the smoke test takes a key that may be used, and a model that it may use" {
  local over
  over=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  # The gateway of this test knows the last one only.
  jq -n --arg over "$over" --arg key "$CANARY" '[
    {id: "off", key: "sk_live_not_this_one_1", enabled: false},
    {id: "over", key: "sk_live_not_this_one_2", expires_at: $over},
    {id: "bounded", key: "sk_live_not_this_one_3", rpm: 1},
    {id: "other", key: "sk_live_not_this_one_4", models: ["pro-preview"]},
    {id: "me", key: $key}]' >../keys.json
  run deploy
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output == *"ok: stream at $URL"* ]]
  # One that may use another model is tried with that.
  jq -n --arg key "$CANARY" '[{id: "me", key: $key, models: ["pro-preview"]}]' >../keys.json
  rm ../arguments
  run deploy
  [ "$status" -eq 0 ]
  /bin/grep -q '"model":"pro-preview"' ../arguments
  # And where none may be used it says that it stops there.
  jq -n --arg over "$over" --arg key "$CANARY" '[{id: "over", key: $key, expires_at: $over}]' >../keys.json
  run deploy
  [ "$status" -eq 0 ]
  [[ $output == *"no more than /health"* && $output != *"ok: models"* && $output != *"umask"* ]]
}

@test "the key gets into .env by what is printed, for its owner's eyes only" {
  run deploy
  bash -euc "$(sed -n 's/^  \((umask 077.*\)/\1/p' <<<"$output")"
  [ "$(stat -c %a .env 2>/dev/null || stat -f %Lp .env)" = 600 ]
  [ "$(bash -c '. ./.env; echo "$API_KEY"')" = "$CANARY" ]
  # Also behind a line without an end.
  printf 'PLAYGROUND=on' >.env
  bash -euc "$(sed -n 's/^  \((umask 077.*\)/\1/p' <<<"$output")"
  [ "$(bash -c '. ./.env; echo "$PLAYGROUND $API_KEY"')" = "on $CANARY" ]
}

@test "nothing is left behind: no file with a key in the folder for temporary ones" {
  mkdir ../tmp
  export TMPDIR=$BATS_TEST_TMPDIR/tmp
  deploy --env-keys
  run ./deploy.sh --project my-project --keys missing.json
  [ "$status" -eq 1 ]
  teardown_all
  [ -z "$(ls "$TMPDIR")" ]
  # Nor by a run that is told to stop, at a call that takes long.
  cp ../bin/gcloud ../bin/real
  cat >../bin/gcloud <<END
#!/bin/sh
case "\$1 \$2" in "run deploy") kill -TERM "\$(cat "$BATS_TEST_TMPDIR/pid")"; exit 1 ;; esac
exec "$BATS_TEST_TMPDIR/bin/real" "\$@"
END
  run bash -c 'echo $$ >../pid; exec ./deploy.sh --project my-project --keys ../keys.json'
  [ "$status" -eq 143 ]
  [ -z "$(ls "$TMPDIR")" ]
}

@test "a number is one, whatever it begins with" {
  run ./deploy.sh --project my-project --keys ../keys.json --wait 08
  [ "$status" -eq 0 ]
  run ./deploy.sh --project my-project --wait 123456
  [ "$status" -eq 1 ]
}

@test "teardown keeps the account whose role could not be removed" {
  deploy
  fail_always 'projects remove-iam-policy-binding' 'PERMISSION_DENIED: not allowed'
  run teardown_all
  [ "$status" -eq 1 ]
  [[ $output == *"kept until its role is gone"* ]]
  [ "$(state '.accounts | length')" -eq 1 ]
  fail_never
  run teardown_all
  [ "$status" -eq 0 ]
  [ "$(state '[(.accounts | length), (.project_bindings | map(select(.[0] == "roles/aiplatform.user")) | length)]')" = '[0,0]' ]
}

@test "a link to keys that are elsewhere at the moment is not replaced" {
  ln -s /nowhere/api-keys.json api-keys.json
  run ./deploy.sh --project my-project
  [ "$status" -eq 1 ]
  [[ $output == *"cannot read the keys file api-keys.json"* ]]
  [ -L api-keys.json ]
}
