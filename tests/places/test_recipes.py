"""What is committed is what is made, has the shape of its place, and keeps every rule."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from flagonctl.processes import PROCESSES
from flagonplaces.__main__ import made
from flagonplaces.platform import LEFT_OUT, parts
from jsonschema import Draft202012Validator
from k8s.rules import confidential, settings_of

from .recipes import DEPLOY, READERS, recipe
from .rules import RULES, broken

PLACES = sorted(READERS)
LINT = Path(sysconfig.get_path("scripts")) / "cfn-lint"


def shape(name):
    """The validator of what a maker's own client knows."""
    path = Path(__file__).parent / "schemas" / f"{name}.json"
    return json.loads(path.read_text())


def mistakes(name, kind, value):
    """What is wrong with an object of a kind."""
    found = shape(name)
    validator = Draft202012Validator(
        {"$ref": f"#/$defs/{kind}", "$defs": found["$defs"]}
    )
    return [
        f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)
    ]


KINDS = {
    "Microsoft.App/containerApps": "ContainerApp",
    "Microsoft.App/jobs": "Job",
    "Microsoft.App/managedEnvironments": "ManagedEnvironment",
    "Microsoft.App/managedEnvironments/storages": "ManagedEnvironmentStorage",
}
ENVELOPE = {"apiVersion", "dependsOn", "scope"}
"""Of a resource in a template, around what the client knows."""


def wrong_shapes(one):
    """What a place would refuse about a recipe of Google's or Microsoft's."""
    if one.place == "gcp":
        for value in one.documents["objects"].values():
            yield from mistakes("cloud-run", value["kind"], value)
        return
    for template in one.documents.values():
        for value in template["resources"]:
            inner = {key: each for key, each in value.items() if key not in ENVELOPE}
            if value["type"] in KINDS:
                yield from mistakes("container-apps", KINDS[value["type"]], inner)


class TestMade:
    def test_is_what_is_committed(self):
        for path, text in made().items():
            assert path.read_text() == text, f"{path} is old: make places"

    def test_leaves_nothing_behind(self):
        objects = DEPLOY / "gcp" / "objects"

        assert set(objects.iterdir()) == {
            path for path in made() if path.parent == objects
        }

    def test_has_every_process_or_a_reason(self):
        there = {one.name for one in parts() if one.kind != "job"}

        assert there | set(LEFT_OUT) == {one.name for one in PROCESSES}
        assert not there & set(LEFT_OUT)
        assert all(LEFT_OUT.values())


@pytest.mark.parametrize("place", PLACES)
class TestEach:
    def test_keeps_every_rule(self, place):
        assert broken(recipe(place)) == []

    def test_gives_each_service_what_its_settings_take(self, place, monkeypatch):
        for one in recipe(place).runs:
            if one.name == "gateway":
                continue
            with monkeypatch.context() as patch:
                for name, value in one.settings.items():
                    patch.setenv(name, value)
                for name in one.secrets:
                    # A key of 32 bytes in base64, which is long enough for all others.
                    patch.setenv(name, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
                found = settings_of(one.service)()

            assert found.environment == "production"
            assert found.public_url == "https://shop.example.com"

    def test_names_secrets_alone_as_secrets(self, place):
        for one in recipe(place).runs:
            # The name of the bucket's key belongs to the key.
            assert set(one.secrets) - confidential() <= {"CATALOG_IMAGES_KEY_ID"}


class TestShapes:
    def test_of_aws_are_what_cloudformation_takes(self):
        done = subprocess.run(
            [LINT, *(DEPLOY / "aws").glob("*.yaml")],
            check=False,
            capture_output=True,
            text=True,
        )

        assert (done.returncode, done.stdout) == (0, "")

    @pytest.mark.parametrize("place", ["azure", "gcp"])
    def test_of_others_are_what_their_makers_know(self, place):
        assert list(wrong_shapes(recipe(place))) == []

    def test_of_objects_of_azure_are_not_skipped(self):
        template = recipe("azure").documents["platform.json"]

        others = {one["type"] for one in template["resources"]} - set(KINDS)
        assert others == {
            "Microsoft.Authorization/roleAssignments",
            "Microsoft.ManagedIdentity/userAssignedIdentities",
        }


# -- Tests of the tests ---------------------------------------------------------------------

BROKEN = {}


def breaks(rule, place):
    """Note a change of a place's documents that `rule` must see."""

    def note(change):
        BROKEN[f"{place}-{rule}-{change.__name__}"] = (rule, place, change)
        return change

    return note


def resource(documents, name):
    for template in documents.values():
        if name in template["Resources"]:
            return template["Resources"][name]["Properties"]
    raise KeyError(name)


def task(documents, name):
    return resource(documents, f"{name}Task")["ContainerDefinitions"][0]


def app(documents, name):
    for template in documents.values():
        for one in template["resources"]:
            if one["name"] == name:
                return one["properties"]
    raise KeyError(name)


def pod(documents, name):
    return documents["objects"][name]["spec"]["template"]["spec"]["containers"][0]


def without(variables, name):
    variables[:] = [one for one in variables if one["name"] != name]


@breaks("complete", "aws")
def no_relay(documents):
    del documents["services.yaml"]["Resources"]["AuthRelayTask"]


@breaks("complete", "azure")
def no_job(documents):
    template = documents["platform.json"]
    without(template["resources"], "auth-migrate")


@breaks("complete", "gcp")
def no_clock(documents):
    del documents["objects"]["worker-beat"]


@breaks("commands", "gcp")
def another_queue(documents):
    pod(documents, "worker-bulk")["args"][-1] = "bulk"


@breaks("commands", "aws")
def image_of_a_neighbour(documents):
    task(documents, "AuthRelay")["Image"] = {"Ref": "CatalogImage"}


@breaks("commands", "aws")
def shell(documents):
    task(documents, "AuthSeed")["EntryPoint"] = ["sh", "-c"]


@breaks("settings", "azure")
def misspelt(documents):
    env = app(documents, "web")["template"]["containers"][0]["env"]
    env.append({"name": "WEB_TOCKEN_URL", "value": "x"})


@breaks("settings", "gcp")
def no_folder(documents):
    without(pod(documents, "worker-bulk")["env"], "WORKER_FILES_DIR")


@breaks("settings", "aws")
def no_database(documents):
    container = task(documents, "Auth")
    container["Secrets"] = [
        one for one in container["Secrets"] if one["Name"] != "AUTH_DATABASE_URL"
    ]


@breaks("secrets", "aws")
def key_in_clear(documents):
    value = {"Name": "AUTH_SECRET_KEY", "Value": "0123456789"}
    task(documents, "Auth")["Environment"].append(value)


@breaks("secrets", "gcp")
def password_in_an_address(documents):
    value = {"name": "WEB_PROMETHEUS_URL", "value": "http://web:secret@watch"}
    pod(documents, "inside-web")["env"].append(value)


@breaks("secrets", "azure")
def somebody_elses_secret(documents):
    said = app(documents, "auth")["configuration"]["secrets"]
    said[0]["keyVaultUrl"] = said[1]["keyVaultUrl"]


@breaks("owners", "aws")
def service_that_owns(documents):
    value = {"Name": "AUTH_OWNER_DATABASE_URL", "ValueFrom": "AuthOwnerSecret:x"}
    task(documents, "Auth")["Secrets"].append(value)


@breaks("owners", "gcp")
def account_of_the_owner(documents):
    whole = documents["objects"]["auth-relay"]["spec"]["template"]["spec"]
    whole["serviceAccountName"] = "flagon-auth-migrate@market.iam"


@breaks("digests", "azure")
def any_version(documents):
    container = app(documents, "web")["template"]["containers"][0]
    container["image"] = "registry.example.com/web:latest"


@breaks("digests", "aws")
def certain_version(documents):
    task(documents, "Web")["Image"] = "registry.example.com/web:latest"


@breaks("health", "aws")
def ended_with_its_database(documents):
    check = task(documents, "Catalog")["HealthCheck"]
    check["Command"] = [word.replace("/livez", "/readyz") for word in check["Command"]]


@breaks("health", "gcp")
def another_port(documents):
    pod(documents, "worker-relay")["livenessProbe"]["httpGet"]["port"] = 8080


@breaks("health", "azure")
def not_asked(documents):
    app(documents, "worker-beat")["template"]["containers"][0]["probes"] = []


@breaks("drain", "aws")
def killed_at_once(documents):
    task(documents, "WorkerBulk")["StopTimeout"] = 5


@breaks("drain", "gcp")
def grace_of_other_places(documents):
    without(pod(documents, "worker-bulk")["env"], "WORKER_GRACE_SECONDS")


@breaks("drain", "azure")
def killed_in_the_middle(documents):
    app(documents, "auth")["template"]["terminationGracePeriodSeconds"] = 10


@breaks("first", "aws")
def migrates_at_its_start(documents):
    task(documents, "Auth")["Command"] = ["migrate"]


@breaks("first", "azure")
def rolled_out_with_its_job(documents):
    job = next(
        one
        for one in documents["platform.json"]["resources"]
        if one["name"] == "auth-migrate"
    )
    documents["apps.json"]["resources"].append(job)


@breaks("public", "aws")
def address_of_its_own(documents):
    network = resource(documents, "CatalogService")["NetworkConfiguration"]
    network["AwsvpcConfiguration"]["AssignPublicIp"] = "ENABLED"


@breaks("public", "gcp")
def open_inside(documents):
    notes = documents["objects"]["inside-auth"]["metadata"]["annotations"]
    notes["run.googleapis.com/ingress"] = "all"


@breaks("public", "azure")
def open_service(documents):
    app(documents, "auth")["configuration"]["ingress"]["external"] = True


@breaks("public", "azure")
def open_numbers(documents):
    ingress = app(documents, "gateway")["configuration"]["ingress"]
    ingress["additionalPortMappings"][0]["external"] = True


@breaks("public", "azure")
def in_clear(documents):
    app(documents, "gateway")["configuration"]["ingress"]["allowInsecure"] = True


@breaks("data", "aws")
def open_postgres(documents):
    resource(documents, "Postgres")["PubliclyAccessible"] = True


@breaks("data", "aws")
def open_redis(documents):
    way = resource(documents, "RedisFromInside6379")
    del way["SourceSecurityGroupId"]
    way["CidrIp"] = "0.0.0.0/0"


@breaks("data", "aws")
def redis_in_clear(documents):
    resource(documents, "RedisStore")["TransitEncryptionEnabled"] = False


@breaks("data", "aws")
def redis_for_everybody(documents):
    resource(documents, "RedisStoreNobody")["AccessString"] = "on ~* +@all"


@breaks("rights", "aws")
def reads_everything(documents):
    policy = resource(documents, "WebRole")["Policies"][0]["PolicyDocument"]
    policy["Statement"][-1]["Resource"].append({"Ref": "AuthSecret"})


@breaks("rights", "aws")
def may_do_everything(documents):
    policy = resource(documents, "WebRole")["Policies"][0]["PolicyDocument"]
    policy["Statement"].append({"Effect": "Allow", "Action": ["s3:*"], "Resource": "*"})


@breaks("rights", "gcp")
def reads_the_owners_secret(documents):
    documents["access"] += "flagon-auth auth_owner_database_url\n"


@breaks("rights", "gcp")
def reads_nothing(documents):
    documents["access"] = "".join(
        line
        for line in documents["access"].splitlines(keepends=True)
        if not line.startswith("flagon-worker ")
    )


@breaks("rights", "azure")
def reads_a_secret_of_auth(documents):
    resources = documents["platform.json"]["resources"]
    one = next(
        each
        for each in resources
        if "'auth-secret-key'" in each.get("scope", "")
        and "'flagon-auth'" in each["dependsOn"][0]
    )
    one["dependsOn"] = [one["dependsOn"][0].replace("flagon-auth", "flagon-web")]


@breaks("single", "aws")
def two_clocks_in_a_rollout(documents):
    service = resource(documents, "WorkerBeatService")
    service["DeploymentConfiguration"]["MaximumPercent"] = 200


@breaks("single", "gcp")
def two_clocks(documents):
    notes = documents["objects"]["worker-beat"]["metadata"]["annotations"]
    notes["run.googleapis.com/manualInstanceCount"] = "2"


@breaks("single", "azure")
def many_relays(documents):
    app(documents, "auth-relay")["template"]["scale"]["maxReplicas"] = 3


@breaks("streams", "aws")
def silent_door(documents):
    door = resource(documents, "Door")
    door["LoadBalancerAttributes"][0]["Value"] = "10"


@breaks("streams", "gcp")
def cut_by_the_place(documents):
    whole = documents["objects"]["flagon"]["spec"]["template"]["spec"]
    whole["timeoutSeconds"] = 300


@breaks("streams", "azure")
def longer_than_the_ingress(documents):
    env = app(documents, "realtime")["template"]["containers"][0]["env"]
    without(env, "REALTIME_ROTATE_SECONDS")


@breaks("addresses", "gcp")
def name_of_another_place(documents):
    for variable in pod(documents, "worker-bulk")["env"]:
        if variable["name"] == "WORKER_CATALOG_URL":
            variable["value"] = "http://catalog:8000"


@breaks("addresses", "azure")
def two_names(documents):
    for variable in app(documents, "web")["template"]["containers"][0]["env"]:
        if variable["name"] == "WEB_PUBLIC_URL":
            variable["value"] = "https://other.example.com"


class TestSeedOfAws:
    def test_has_its_clients_in_a_file_that_nobody_else_reads(self, tmp_path):
        """What is secret comes as a variable there, and auth reads files."""
        seed = next(one for one in recipe("aws").runs if one.name == "auth-seed")
        python, option, code, *command = seed.command
        shown = """
import os
path = os.environ["AUTH_CLIENTS_FILE"]
print(open(path).read(), oct(os.stat(path).st_mode), "AUTH_CLIENTS" in os.environ)
"""
        done = subprocess.run(
            [
                *(sys.executable, option, code.replace("/tmp/", f"{tmp_path}/")),
                *(sys.executable, "-c", shown),
            ],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "AUTH_CLIENTS": "[1]"},
        )

        assert python == "python"
        assert command == ["flask", "--app", "flagon_auth.app", "seed"]
        assert done.stdout == "[1] 0o100600 False\n"


class TestRules:
    @pytest.mark.parametrize("name", sorted(BROKEN))
    def test_catches(self, name):
        rule, place, change = BROKEN[name]
        one = recipe(place)

        change(one.documents)

        assert list(RULES[rule](one)) != []

    def test_are_all_tried(self):
        assert {rule for rule, _place, _change in BROKEN.values()} == set(RULES)

    def test_of_shapes_catch_an_unknown_field(self):
        one = recipe("gcp")
        pod(one.documents, "auth-relay")["imagePolicy"] = "Always"

        assert len(list(wrong_shapes(one))) == 1

    def test_of_shapes_catch_a_wrong_word(self):
        one = recipe("azure")
        app(one.documents, "auth")["configuration"]["ingress"]["transport"] = "udp"

        assert len(list(wrong_shapes(one))) == 1

    def test_of_cloudformation_catch_a_missing_property(self, tmp_path):
        text = (DEPLOY / "aws" / "platform.yaml").read_text()
        path = tmp_path / "platform.yaml"
        path.write_text(text.replace("NetworkMode:", "NetworkMood:"))

        done = subprocess.run([LINT, path], check=False, capture_output=True, text=True)

        assert "NetworkMood" in done.stdout
