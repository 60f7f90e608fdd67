#!/usr/bin/env bats
# ops.sh against a gcloud that talks to nobody.

load support

setup_file() { start_gateway; }
teardown_file() { stop_gateway; }
setup() {
  new_world "$BATS_TEST_TMPDIR"
  deploy
  forget_calls
}

@test "logs" {
  run ops logs
  [ "$status" -eq 0 ]
  called 'logging read resource.type="cloud_run_revision" AND resource.labels.service_name="ai-proxy".* --limit=50 --format=json --freshness=30m'
  [[ $output == *'"message": "one line"'* ]]
  ops logs 5
  called 'logging read .*--limit=5 '
  run ops logs many
  [ "$status" -eq 1 ]
}

@test "status and revisions" {
  run ops status
  [ "$status" -eq 0 ]
  [ "${lines[0]}" = "ai-proxy-00001-abc	$URL" ]
  [ "${lines[1]}" = "LATEST	100	ai-proxy-00001-abc" ]
  deploy
  run ops revisions
  [ "$status" -eq 0 ]
  [[ ${lines[0]} == ai-proxy-00002-abc* ]]
}

@test "rollback, one after the other, and back" {
  run ops rollback
  [ "$status" -eq 1 ]
  [[ $output == *"no earlier revision"* ]]
  deploy
  deploy
  run ops rollback
  [ "$status" -eq 0 ]
  [ "$(state '.services["us-central1/ai-proxy"].pinned')" = '"ai-proxy-00002-abc"' ]
  ops rollback
  [ "$(state '.services["us-central1/ai-proxy"].pinned')" = '"ai-proxy-00001-abc"' ]
  ops rollback ai-proxy-00003-abc
  [ "$(state '.services["us-central1/ai-proxy"].pinned')" = '"ai-proxy-00003-abc"' ]
  ops latest
  [ "$(state '.services["us-central1/ai-proxy"].pinned')" = null ]
}

@test "a deploy after a rollback serves the new revision" {
  deploy
  ops rollback
  deploy
  [ "$(state '.services["us-central1/ai-proxy"].pinned')" = null ]
}

@test "cert" {
  run ops cert --domain "$DOMAIN"
  [ "$status" -eq 0 ]
  [[ $output == *"Ready;CertificateProvisioned	Unknown;Unknown	Waiting for certificate;Waiting"* ]]
  run ops cert
  [ "$status" -eq 1 ]
  run ops cert --domain elsewhere.example.com
  [ "$status" -eq 1 ]
}

@test "other keys: a version and a revision, no build" {
  printf '[{"id":"you","key":"%s"}]' "$OTHER_CANARY" >../other.json
  run ops keys ../other.json
  echo "$output"
  [ "$status" -eq 0 ]
  no_secret_seen "$output"
  [ "$(state '.secrets["ai-proxy-api-keys"].versions | map(fromjson[0].id)')" = '["me","you"]' ]
  [ "$(state '.services["us-central1/ai-proxy"].revisions | length')" -eq 2 ]
  not called 'run deploy'
  # Again, as after a failure between the two: the version is there, the revision is made.
  ops keys ../other.json
  [ "$(state '.secrets["ai-proxy-api-keys"].versions | length')" -eq 2 ]
  [ "$(state '.services["us-central1/ai-proxy"].revisions | length')" -eq 3 ]
}

@test "other keys in an environment variable, in a file of flags" {
  deploy --env-keys
  printf '[{"id":"you","key":"%s"}]' "$OTHER_CANARY" >../other.json
  run ops keys ../other.json
  [ "$status" -eq 0 ]
  no_secret_seen "$output"
  [ "$(state '.services["us-central1/ai-proxy"].environment.API_KEYS_JSON | fromjson | map(.id)')" = '["you"]' ]
  [ "$(state '.services["us-central1/ai-proxy"].environment.GOOGLE_CLOUD_PROJECT')" = '"my-project"' ]
}

@test "other keys while traffic is elsewhere: it says who keeps the old ones" {
  deploy
  ops rollback
  run ops keys ../keys.json
  [ "$status" -eq 0 ]
  [[ $output == *"keep the keys they have"* ]]
}

@test "a dry run of every command calls nothing" {
  for command in logs status revisions rollback latest keys "cert --domain $DOMAIN"; do
    # shellcheck disable=SC2086 # words
    run ops $command --dry-run
    [ "$status" -eq 0 ]
    [[ $output == *gcloud* ]]
  done
  [ ! -e "$FAKE_GCLOUD/calls.jsonl" ]
}

@test "keys that the gateway would refuse are not stored, unseen" {
  local list
  for list in "[{\"id\":\"you\",\"key\":\"$OTHER_CANARY\",\"note\":1}]" "[{\"id\":\"\",\"key\":\"$OTHER_CANARY\"}]" \
    "[{\"id\":\"you\",\"key\":\"$OTHER_CANARY x\"}]" "[{\"id\":\"you\",\"key\":\"$OTHER_CANARY\",\"enabled\":\"no\"}]" \
    "[{\"id\":\"you\",\"key\":\"$OTHER_CANARY\",\"models\":[\"unknown\"]}]"; do
    printf '%s' "$list" >../other.json
    run ops keys ../other.json
    echo "$output"
    [ "$status" -eq 1 ]
    [[ $output == *"entry 1: "* ]]
    no_secret_seen "$output"
  done
  [ "$(state '.secrets["ai-proxy-api-keys"].versions | length')" -eq 1 ]
}

@test "an alias that the service has may stand in its keys" {
  change_state '.services["us-central1/ai-proxy"].environment.MODEL_FLASH_LITE_ID = "google/gemini-2.5-flash-lite"'
  printf '[{"id":"you","key":"%s","models":["flash-lite"]}]' "$OTHER_CANARY" >../other.json
  ops keys ../other.json
  [ "$(state '.secrets["ai-proxy-api-keys"].versions | length')" -eq 2 ]
}

@test "no command, an unknown one, a word too many" {
  local words
  for words in 'status extra junk' 'status extra' 'latest x' 'cert x' 'revisions x' 'logs 5 6' 'rollback a b' 'keys a b'; do
    # shellcheck disable=SC2086 # words
    run ops $words
    [ "$status" -eq 1 ]
    [[ $output == *"what is "* ]]
  done
  run ops
  [ "$status" -eq 2 ]
  run ops dance
  [ "$status" -eq 1 ]
}
