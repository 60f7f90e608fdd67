"""A gcloud that talks to nobody: what it is told to make it keeps in a file, and it refuses what it does not know.

Its folder is $FAKE_GCLOUD:

  state.json   the project, as it is; tests prepare and compare it
  calls.jsonl  the arguments of every call, one JSON array a line
  fail.json    {"at": N, "after": false, "message": "..."}: the Nth call fails, before or after it has done its work;
               {"match": "run deploy", ...}: every call of that command does

With "mount" in the state, that file is what the newest revision has mounted as its keys.

COMMANDS has the commands and flags that scripts and documents use, as they are in a real gcloud (Google Cloud SDK 528.0.0), so
that a typing error is a failure. Services and domain mappings are kept by region, as "us-central1/ai-proxy".
"""

import fcntl
import json
import os
import re
import sys

# Few and light: it starts thousands of times.

HOME = os.environ["FAKE_GCLOUD"]
EVERYWHERE = {"--project", "--quiet", "--format", "--filter", "--flatten", "--flags-file"}
REGION = {"--region"}
BINDING = {"--member", "--role", "--condition"}
MAPPING = {"--region", "--domain"}
# Command: how many words after it, flags.
COMMANDS = {
    "auth list": (0, set()),
    "auth login": (0, set()),
    "auth application-default login": (0, set()),
    "projects create": (1, set()),
    "billing accounts list": (0, set()),
    "billing projects link": (1, {"--billing-account"}),
    "billing budgets create": (
        0,
        {"--billing-account", "--display-name", "--budget-amount", "--filter-projects", "--threshold-rule"},
    ),
    "domains verify": (1, set()),
    "iam service-accounts add-iam-policy-binding": (1, BINDING),
    "run services replace": (1, REGION),
    "artifacts repositories delete": (1, {"--location"}),
    "storage rm": (1, {"--recursive"}),
    "logging metrics create": (1, {"--config-from-file"}),
    "logging metrics delete": (1, set()),
    "monitoring policies create": (0, {"--policy-from-file", "--notification-channels"}),
    "monitoring policies list": (0, set()),
    "monitoring policies delete": (1, set()),
    "beta monitoring channels create": (0, {"--display-name", "--type", "--channel-labels"}),
    "projects describe": (1, set()),
    "projects get-iam-policy": (1, set()),
    "projects add-iam-policy-binding": (1, BINDING),
    "projects remove-iam-policy-binding": (1, BINDING),
    "billing projects describe": (1, set()),
    "domains list-user-verified": (0, set()),
    "meta list-files-for-upload": (1, set()),
    "services enable": (6, set()),
    "iam service-accounts describe": (1, set()),
    "iam service-accounts create": (1, {"--display-name"}),
    "iam service-accounts delete": (1, set()),
    "secrets describe": (1, set()),
    "secrets create": (1, {"--replication-policy"}),
    "secrets delete": (1, set()),
    "secrets add-iam-policy-binding": (1, BINDING),
    "secrets versions access": (1, {"--secret", "--out-file"}),
    "secrets versions describe": (1, {"--secret"}),
    "secrets versions add": (1, {"--data-file"}),
    "run deploy": (
        1,
        REGION
        | set(
            "--source --service-account --env-vars-file --set-secrets --clear-secrets --allow-unauthenticated --port "
            "--no-use-http2 --timeout --concurrency --cpu --memory --min-instances --max-instances --startup-probe".split()
        ),
    ),
    "run services describe": (1, REGION),
    "run services list": (0, REGION),
    "run services delete": (1, REGION),
    "run services get-iam-policy": (1, REGION),
    "run services update": (1, REGION | {"--no-invoker-iam-check", "--update-labels", "--update-env-vars"}),
    "run services update-traffic": (1, REGION | {"--to-latest", "--to-revisions"}),
    "run revisions list": (0, REGION | {"--service", "--sort-by"}),
    "beta run domain-mappings list": (0, REGION),
    "beta run domain-mappings describe": (0, MAPPING),
    "beta run domain-mappings create": (0, MAPPING | {"--service"}),
    "beta run domain-mappings delete": (0, MAPPING),
    "artifacts docker images delete": (1, {"--delete-tags"}),
    "logging read": (1, {"--limit", "--freshness"}),
}
SWITCHES = {
    "--quiet", "--clear-secrets", "--allow-unauthenticated", "--no-use-http2", "--no-invoker-iam-check", "--to-latest",
    "--delete-tags", "--recursive",
}  # fmt: skip


class Failure(Exception):
    pass


def main():
    command, words, flags = parse(sys.argv[1:])
    with open(f"{HOME}/calls.jsonl", "a+", encoding="utf-8") as calls:
        # Two calls of one pipeline would come at the same time.
        fcntl.flock(calls, fcntl.LOCK_EX)
        calls.write(json.dumps(sys.argv[1:]) + "\n")
        calls.seek(0)
        number = len(calls.readlines())
        plan = json.loads(contents(f"{HOME}/fail.json") or "{}")
        fails = plan.get("at") == number or plan.get("match") == command
        if fails and not plan.get("after"):
            raise Failure(plan.get("message", "the network is gone"))
        state = json.loads(contents(f"{HOME}/state.json"))
        answer = globals()[re.sub(r"\W", "_", command)](state, words, flags)
        with open(f"{HOME}/state.json", "w", encoding="utf-8") as file:
            json.dump(state, file)
        if fails:
            raise Failure(plan.get("message", "the network is gone"))
    show(answer, flags.get("--format"))


def contents(path):
    """What is in a file; nothing where there is none."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


def parse(arguments):
    command = next(
        (" ".join(arguments[:n]) for n in (4, 3, 2) if " ".join(arguments[:n]) in COMMANDS), None
    )
    if command is None:
        usage(f"Invalid choice: {' '.join(arguments[:3])}")
    count, known = COMMANDS[command]
    words, flags = [], {}
    for argument in arguments[len(command.split()) :]:
        if not argument.startswith("--"):
            words.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if name not in known | EVERYWHERE or bool(equals) == (name in SWITCHES) or (equals and not value):
            usage(f"unrecognized arguments: {argument}")
        flags[name] = value
    if len(words) != count:
        usage(f"{command} takes {count} words, not {words}")
    if "--region" in known and command != "run services list" and "--region" not in flags:
        usage("no region")
    if "--flags-file" in flags:
        for name, value in json.loads(contents(flags["--flags-file"])).items():
            if name not in known:
                usage(f"unrecognized arguments: {name}")
            flags[name] = value
    return command, words, flags


def usage(text):
    print(f"ERROR: (gcloud) {text}", file=sys.stderr)
    # So that a test sees it even where a script goes on.
    with open(f"{HOME}/refused", "a", encoding="utf-8") as refused:
        refused.write(text + "\n")
    sys.exit(2)


def show(answer, form):
    if answer is None:
        return
    if isinstance(answer, str):
        sys.stdout.write(answer)
    elif form == "json" or form is None:
        print(json.dumps(answer))
    else:
        fields = re.fullmatch(r"value\((.*)\)", form).group(1).split(",")
        for row in answer if isinstance(answer, list) else [answer]:
            print("\t".join(text(look_up(row, field)) for field in fields))


def look_up(row, field):
    for part in field.split("."):
        if isinstance(row, list):
            row = [one.get(part) for one in row]
        else:
            row = (row or {}).get(part.removesuffix("[]"))
    return row


def text(value):
    if isinstance(value, list):
        return ";".join(text(one) for one in value)
    return "" if value is None else str(value)


def one(things, name, message):
    if name not in things:
        raise Failure(message)
    return things[name]


# Accounts and the project.


def auth_list(state, words, flags):
    return [{"account": name} for name in state["logged_in"]]


def auth_login(state, words, flags):
    state["logged_in"] = ["someone@example.com"]


def auth_application_default_login(state, words, flags):
    state["application_default"] = True


def projects_create(state, words, flags):
    if words[0] == state["project"]:
        raise Failure("ALREADY_EXISTS: Requested entity already exists")
    state["project"], state["billing"] = words[0], False


def billing_accounts_list(state, words, flags):
    return [{"name": "billingAccounts/000000-AAAAAA-111111"}]


def billing_projects_link(state, words, flags):
    projects_describe(state, words, flags)
    the_billing_account(flags)
    state["billing"] = True


def billing_budgets_create(state, words, flags):
    the_billing_account(flags)
    if flags["--filter-projects"] != f"projects/{state['project']}" or not re.fullmatch(r"[\d.]+[A-Z]*", flags["--budget-amount"]):
        usage("not a budget")
    state.setdefault("budgets", []).append(flags["--display-name"])


def the_billing_account(flags):
    if flags["--billing-account"] != "000000-AAAAAA-111111":
        raise Failure("PERMISSION_DENIED: no such billing account")


def projects_describe(state, words, flags):
    if words[0] != state["project"]:
        raise Failure("[someone@example.com] does not have permission to access projects instance (or it may not exist)")
    return {"projectNumber": state["number"]}


def billing_projects_describe(state, words, flags):
    return {"billingEnabled": state["billing"], "billingAccountName": "billingAccounts/000000-AAAAAA-111111" if state["billing"] else ""}


def projects_get_iam_policy(state, words, flags):
    wanted = re.search(r"\((.*)\)", flags["--filter"]).group(1).split()
    return [
        {"bindings": {"role": role}}
        for role, member in state["project_bindings"]
        if any(name in member for name in wanted)
    ]


def account_must_exist(state, member):
    kind, _, name = member.partition(":")
    if kind != "serviceAccount" or name not in state["accounts"]:
        raise Failure(f"INVALID_ARGUMENT: Service account {name} does not exist.")


def bind(bindings, flags):
    if flags["--condition"] != "None":
        usage("a policy with conditions needs --condition")
    pair = [flags["--role"], flags["--member"]]
    if pair not in bindings:
        bindings.append(pair)
        bindings.sort()


def projects_add_iam_policy_binding(state, words, flags):
    projects_describe(state, words, flags)
    account_must_exist(state, flags["--member"])
    bind(state["project_bindings"], flags)


def projects_remove_iam_policy_binding(state, words, flags):
    pair = [flags["--role"], flags["--member"]]
    if pair not in state["project_bindings"]:
        raise Failure("Policy bindings with the specified principal and role were not found!")
    state["project_bindings"].remove(pair)


def domains_list_user_verified(state, words, flags):
    return [{"id": name} for name in state["verified"]]


def domains_verify(state, words, flags):
    state["verified"] = sorted({*state["verified"], words[0]})


def services_enable(state, words, flags):
    if not state["billing"]:
        raise Failure("FAILED_PRECONDITION: Billing account for project is not found. UREQ_PROJECT_BILLING_NOT_FOUND")
    state["apis"] = sorted({*state["apis"], *words})


def api(state, name):
    if f"{name}.googleapis.com" not in state["apis"]:
        raise Failure(f"PERMISSION_DENIED: {name} API has not been used in project {state['project']} before or it is disabled")


def iam_service_accounts_describe(state, words, flags):
    api(state, "iam")
    one(state["accounts"], words[0], "NOT_FOUND: Unknown service account")
    return {"email": words[0]}


def iam_service_accounts_create(state, words, flags):
    api(state, "iam")
    name = f"{words[0]}@{state['project']}.iam.gserviceaccount.com"
    if name in state["accounts"]:
        raise Failure("ALREADY_EXISTS: Service account already exists")
    state["accounts"][name] = {}


def iam_service_accounts_delete(state, words, flags):
    iam_service_accounts_describe(state, words, flags)
    del state["accounts"][words[0]]


def iam_service_accounts_add_iam_policy_binding(state, words, flags):
    iam_service_accounts_describe(state, words, flags)
    bind(state["accounts"][words[0]].setdefault("bindings", []), {"--condition": "None", **flags})


# Secrets.


def the_secret(state, name):
    api(state, "secretmanager")
    return one(state["secrets"], name, f"NOT_FOUND: Secret [projects/{state['number']}/secrets/{name}] not found.")


def secrets_describe(state, words, flags):
    the_secret(state, words[0])
    return {"name": words[0]}


def secrets_create(state, words, flags):
    api(state, "secretmanager")
    if words[0] in state["secrets"]:
        raise Failure("ALREADY_EXISTS: Secret already exists.")
    state["secrets"][words[0]] = {"versions": [], "bindings": []}


def secrets_delete(state, words, flags):
    the_secret(state, words[0])
    del state["secrets"][words[0]]


def secrets_add_iam_policy_binding(state, words, flags):
    account_must_exist(state, flags["--member"])
    bind(the_secret(state, words[0])["bindings"], flags)


def secrets_versions_access(state, words, flags):
    versions = the_secret(state, flags["--secret"])["versions"]
    if not versions:
        raise Failure("NOT_FOUND: Secret Version not found")
    if "--out-file" not in flags:
        return versions[-1]
    with open(os.open(flags["--out-file"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(versions[-1])
    return None


def secrets_versions_describe(state, words, flags):
    secrets_versions_access(state, words, {"--secret": flags["--secret"]})
    return {"state": "ENABLED"}


def secrets_versions_add(state, words, flags):
    the_secret(state, words[0])["versions"].append(contents(flags["--data-file"]))


# Cloud Run.


def the_service(state, name, flags):
    api(state, "run")
    return one(state["services"], f"{flags['--region']}/{name}", f"Cannot find service [{name}]")


def new_revision(state, name, service):
    state["revisions"] += 1
    service["revisions"].append(f"{name}-{state['revisions']:05d}-abc")
    if "mount" in state and service["secrets"]:
        with open(f"{state['mount']}.new", "w", encoding="utf-8") as file:
            file.write(state["secrets"][service["secrets"].partition("=")[2].partition(":")[0]]["versions"][-1])
        os.replace(f"{state['mount']}.new", state["mount"])


def run_deploy(state, words, flags):
    for name in ("run", "cloudbuild", "artifactregistry"):
        api(state, name)
    builder = f"serviceAccount:{state['number']}-compute@developer.gserviceaccount.com"
    if not any(member == builder for _, member in state["project_bindings"]):
        raise Failure("PERMISSION_DENIED: Build failed because the default service account is missing required IAM permissions")
    if flags["--source"] != ".":
        usage("another source")
    name = f"{flags['--region']}/{words[0]}"
    # What is not said stays as it is.
    service = state["services"].get(name) or {
        "revisions": [], "pinned": None, "labels": {}, "public": False, "open": False,
        "environment": {}, "secrets": "", "account": f"{state['number']}-compute@developer.gserviceaccount.com",
    }  # fmt: skip
    if "--service-account" in flags:
        service["account"] = flags["--service-account"]
        account_must_exist(state, "serviceAccount:" + service["account"])
    if "--env-vars-file" in flags:
        service["environment"] = json.loads(contents(flags["--env-vars-file"]))
    if not all(isinstance(value, str) for value in service["environment"].values()):
        usage("Environment variable values must be strings")
    if "--set-secrets" in flags:
        service["secrets"] = flags["--set-secrets"]
    if "--clear-secrets" in flags:
        service["secrets"] = ""
    if service["secrets"]:
        secret = the_secret(state, service["secrets"].partition("=")[2].partition(":")[0])
        reader = ["roles/secretmanager.secretAccessor", "serviceAccount:" + service["account"]]
        if not secret["versions"] or reader not in secret["bindings"]:
            raise Failure("Permission denied on secret")
    for flag in ("--timeout", "--concurrency", "--cpu", "--memory", "--min-instances", "--max-instances", "--port", "--startup-probe"):
        if flag in flags:
            service[flag] = flags[flag]
    if "--allow-unauthenticated" in flags and not state["forbids_all_users"]:
        service["public"] = True
    state["services"][name] = service
    image = f"{flags['--region']}-docker.pkg.dev/{state['project']}/cloud-run-source-deploy/{words[0]}"
    if image not in state["images"]:
        state["images"].append(image)
    new_revision(state, words[0], service)


def run_services_replace(state, words, flags):
    """The file has this project's name in the place of PROJECT, and the image is built already."""
    api(state, "run")
    text = contents(words[0])
    found = re.search(r"^kind: Service\nmetadata:\n  name: (\S+)", text, re.MULTILINE)
    if not found:
        usage("not a service")
    account = re.search(r"^ +serviceAccountName: (\S+)", text, re.MULTILINE).group(1)
    account_must_exist(state, "serviceAccount:" + account)
    the_secret(state, re.search(r"^ +secretName: (\S+)", text, re.MULTILINE).group(1))
    service = state["services"].setdefault(
        f"{flags['--region']}/{found.group(1)}",
        {"revisions": [], "pinned": None, "labels": {}, "public": False, "open": False, "environment": {}, "secrets": ""},
    )
    service["account"] = account
    new_revision(state, found.group(1), service)


def run_services_describe(state, words, flags):
    service = the_service(state, words[0], flags)
    serving = service["pinned"] or service["revisions"][-1]
    traffic = {"percent": 100, "revisionName": serving}
    if not service["pinned"]:
        traffic["latestRevision"] = True
    variables = [{"name": name, "value": value} for name, value in service["environment"].items()]
    return {
        "metadata": {"name": words[0]},
        "spec": {"template": {"spec": {"serviceAccountName": service["account"], "containers": [{"env": variables}]}}},
        "status": {"url": state["url"], "latestReadyRevisionName": service["revisions"][-1], "traffic": [traffic]},
    }


def run_services_list(state, words, flags):
    api(state, "run")
    names = (name.split("/") for name in state["services"])
    return [run_services_describe(state, [name], {"--region": region}) for region, name in names]


def run_services_delete(state, words, flags):
    the_service(state, words[0], flags)
    del state["services"][f"{flags['--region']}/{words[0]}"]


def run_services_get_iam_policy(state, words, flags):
    return [{"bindings": {"members": "allUsers"}}] if the_service(state, words[0], flags)["public"] else []


def run_services_update(state, words, flags):
    service = the_service(state, words[0], flags)
    if "--no-invoker-iam-check" in flags:
        service["open"] = True
    else:
        name, _, value = flags.get("--update-labels", "=").partition("=")
        if not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            usage("not a label's value")
        service["labels"][name] = value
        service["environment"].update(flags.get("--update-env-vars", {}))
        new_revision(state, words[0], service)


def run_services_update_traffic(state, words, flags):
    service = the_service(state, words[0], flags)
    if "--to-latest" in flags:
        service["pinned"] = None
        return
    revision, _, percent = flags["--to-revisions"].partition("=")
    if revision not in service["revisions"] or percent != "100":
        raise Failure(f"Revision [{revision}] could not be found.")
    service["pinned"] = revision


def run_revisions_list(state, words, flags):
    revisions = the_service(state, flags["--service"], flags)["revisions"]
    if flags["--sort-by"] != "~metadata.creationTimestamp":
        usage("another order")
    return [{"metadata": {"name": name, "creationTimestamp": "2030-01-01"}} for name in reversed(revisions)]


def beta_run_domain_mappings_list(state, words, flags):
    api(state, "run")
    names = (name.split("/") for name in state["mappings"])
    found = ({"--domain": name, "--region": region} for region, name in names if region == flags["--region"])
    return [beta_run_domain_mappings_describe(state, [], one) for one in found]


def beta_run_domain_mappings_describe(state, words, flags):
    name = flags["--domain"]
    route = one(state["mappings"], f"{flags['--region']}/{name}", f"Cannot find domain mapping for [{name}]")
    return {
        "metadata": {"name": name},
        "spec": {"routeName": route},
        "status": {
            "resourceRecords": [{"name": name.partition(".")[0], "type": "CNAME", "rrdata": "ghs.googlehosted.com."}],
            "conditions": [
                {"type": "Ready", "status": "Unknown", "message": "Waiting for certificate"},
                {"type": "CertificateProvisioned", "status": "Unknown", "message": "Waiting"},
            ],
        },
    }


def beta_run_domain_mappings_create(state, words, flags):
    the_service(state, flags["--service"], flags)
    # A domain leads to one place in the world.
    if any(name.endswith("/" + flags["--domain"]) for name in state["mappings"]):
        raise Failure("This domain is already being used as a mapping elsewhere.")
    state["mappings"][f"{flags['--region']}/{flags['--domain']}"] = flags["--service"]


def beta_run_domain_mappings_delete(state, words, flags):
    beta_run_domain_mappings_describe(state, words, flags)
    del state["mappings"][f"{flags['--region']}/{flags['--domain']}"]


# The rest.


def artifacts_docker_images_delete(state, words, flags):
    if words[0] not in state["images"]:
        raise Failure("NOT_FOUND: Package not found")
    state["images"].remove(words[0])


def artifacts_repositories_delete(state, words, flags):
    prefix = f"{flags['--location']}-docker.pkg.dev/{state['project']}/{words[0]}/"
    state["images"] = [image for image in state["images"] if not image.startswith(prefix)]


def storage_rm(state, words, flags):
    if not words[0].startswith("gs://"):
        usage("not a URL of a bucket")


def logging_metrics_create(state, words, flags):
    state.setdefault("metrics", []).append(words[0])


def logging_metrics_delete(state, words, flags):
    state.setdefault("metrics", []).remove(words[0])


def monitoring_policies_create(state, words, flags):
    state.setdefault("policies", []).append(flags["--notification-channels"])


def monitoring_policies_list(state, words, flags):
    return [{"name": name} for name in state.get("policies", [])]


def monitoring_policies_delete(state, words, flags):
    state.setdefault("policies", []).remove(words[0])


def beta_monitoring_channels_create(state, words, flags):
    return {"name": f"projects/{state['project']}/notificationChannels/1"}


def logging_read(state, words, flags):
    return [{"jsonPayload": {"message": "one line"}, "filter": words[0]}]


def meta_list_files_for_upload(state, words, flags):
    """As gcloud does: by .gcloudignore, or else by .gitignore; both have git's syntax."""
    import subprocess
    import tempfile

    rules = ".gcloudignore" if os.path.exists(".gcloudignore") else ".gitignore"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
        command = ["git", f"--git-dir={folder}", "--work-tree=.", "ls-files", "-z", "--others", f"--exclude-from={rules}"]
        # A name with a line break in it becomes two lines.
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout.replace("\0", "\n")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        print(f"ERROR: (gcloud) {failure}", file=sys.stderr)
        sys.exit(1)
