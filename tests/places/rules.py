"""What every recipe must keep to: each rule gives what breaks it, in words."""

import re

from flagonctl.processes import PROCESSES
from flagonplaces.platform import JOBS, LEFT_OUT, SERVICES
from k8s.rules import confidential, settings_of, strings

from .recipes import DIGEST, plain

PYTHON = {one.name: one for one in PROCESSES if one.kind == "python"}


def serves(run):
    """Whether requests of the gateway reach it."""
    return run.name in SERVICES


def lasting(recipe):
    return [one for one in recipe.runs if one.lasting]


def complete(recipe):
    """Every process is there or left out with a reason, and so is every job."""
    there = {one.name for one in lasting(recipe)}
    wanted = {one.name for one in PROCESSES} - set(LEFT_OUT)
    yield from (f"{name} is missing" for name in sorted(wanted - there))
    yield from (f"{name} is none of the platform's" for name in sorted(there - wanted))
    jobs = {one.name for one in recipe.runs if not one.lasting}
    if jobs != set(JOBS):
        yield f"the jobs are {sorted(jobs)}"


def commands(recipe):
    """Each process is started as in the other modes."""
    for one in recipe.runs:
        command = " ".join(one.command)
        if one.name in PYTHON:
            if tuple(one.command) != PYTHON[one.name].arguments:
                yield f"{one.name} starts {command}"
            if one.service != PYTHON[one.name].service:
                yield f"{one.name} has the image of {one.service}"
        elif one.name == "gateway":
            if command != "sh /etc/flagon/gateway.sh":
                yield f"{one.name} starts {command}"
        elif not command.endswith("seed" if one.name == "auth-seed" else "migrate"):
            yield f"{one.name} starts {command}"
        elif {"sh", "/bin/sh", "bash"} & set(one.command):
            yield f"{one.name} needs a shell"


def settings(recipe):
    """Each variable is one that the service knows, and each that it needs is given."""
    for one in recipe.runs:
        if one.name == "gateway":
            continue
        fields = settings_of(one.service).model_fields
        prefix = one.service.upper()
        known = {f"{prefix}_{name}".upper() for name in fields} | {"TMPDIR"}
        given = {*one.settings, *one.secrets}
        for name in sorted(given - known):
            yield f"{one.name}: {one.service} knows no {name}"
        for name, about in fields.items():
            full = f"{prefix}_{name}".upper()
            if about.is_required() and full not in given:
                yield f"{one.name} is not given {full}"


def secrets(recipe):
    """No secret stands in a recipe in clear, and each comes from the place's own store."""
    for one in recipe.runs:
        for name in sorted(confidential() & set(one.settings)):
            yield f"{one.name} has {name} in clear"
        for name, source in one.secrets.items():
            words = re.sub("[^a-z]", "", source.lower())
            if re.sub("[^a-z]", "", name.lower()) not in words:
                yield f"{one.name} takes {name} from {source}"
    for text in strings(recipe.documents):
        if re.search(r"\w://[^/\s:@$]*:[^/\s@$]+@", text) or "PRIVATE KEY" in text:
            yield f"a password or a key: {text}"


def owners(recipe):
    """The role that owns the tables is for migrations alone."""
    for one in recipe.runs:
        has = any("_OWNER_" in name for name in one.secrets)
        if has != one.name.endswith("-migrate"):
            yield f"{one.name} {'could' if has else 'cannot'} change tables"
    accounts = {one.account for one in recipe.runs if one.name.endswith("-migrate")}
    for one in recipe.runs:
        if one.account in accounts and not one.name.endswith("-migrate"):
            yield f"{one.name} may read what migrations read"


def digests(recipe):
    """Each image is somebody's to give, by its digest."""
    for one in recipe.runs:
        if DIGEST not in one.image:
            yield f"{one.name} has a certain image: {one.image}"


def health(recipe):
    """Each process is asked the right question, and nobody is ended for a neighbour."""
    for one in lasting(recipe):
        asked = {path for _port, path in one.health}
        right = {"/healthz"} if one.name == "gateway" else {"/livez", "/readyz"}
        if not asked or not asked <= right:
            yield f"{one.name} is asked {sorted(asked)}"
        if one.name != "gateway" and "/livez" not in asked:
            yield f"{one.name} is ended when its database is"
        where = one.settings.get(f"{one.service.upper()}_BIND", ":8081").rpartition(
            ":"
        )[2]
        ports = {8080, 8081} if one.name == "gateway" else {int(where)}
        if not {port for port, _path in one.health} <= ports:
            yield f"{one.name} is asked at another port"


def drain(recipe):
    """Nobody is killed before the time that their settings give them is over."""
    for one in lasting(recipe):
        if one.name == "gateway":
            continue
        fields = settings_of(one.service).model_fields
        needs = sum(
            float(
                one.settings.get(f"{one.service}_{name}".upper(), fields[name].default)
            )
            for name in ("grace_seconds", "drain_seconds")
        )
        if one.grace < needs + 1:
            yield f"{one.name} is killed after {one.grace} s and may need {needs} s"


def first(recipe):
    """Tables change before the rollout: nothing that lasts does it, nothing waits in it."""
    for one in lasting(recipe):
        if any("migrate" in word or word == "seed" for word in one.command):
            yield f"{one.name} migrates when it starts"
    for name, document in recipe.documents.items():
        jobs = {one.name for one in recipe.runs if not one.lasting}
        if name in {"services.yaml", "apps.json"}:
            text = str(document)
            yield from (f"{job} is rolled out" for job in jobs if f"'{job}'" in text)


def public(recipe):
    """Only the gateway is open to the world, and what is called is open to the others."""
    for one in lasting(recipe):
        if (one.reached == "world") != (one.name == "gateway"):
            yield f"{one.name} is reached by: {one.reached or 'nobody'}"
        if one.name not in {*SERVICES, "gateway"} and one.reached:
            yield f"{one.name} is reached, and nobody calls it"
    if recipe.place == "azure":
        for one in recipe.documents["apps.json"]["resources"]:
            ingress = one["properties"]["configuration"].get("ingress", {})
            if ingress.get("allowInsecure"):
                yield f"{one['name']} answers in clear"
            for more in ingress.get("additionalPortMappings", []):
                if more["external"]:
                    yield f"{one['name']}: port {more['targetPort']} is open"


def data(recipe):
    """Postgres, Redis and files are reached by the platform alone."""
    if recipe.place != "aws":
        # The recipe has none: what it calls is an address inside (docs/places.md).
        return
    resources = recipe.documents["platform.yaml"]["Resources"]
    for name, one in resources.items():
        said = one.get("Properties", {})
        if one["Type"] == "AWS::RDS::DBInstance" and said["PubliclyAccessible"]:
            yield f"{name} is public"
        for key in ("StorageEncrypted", "AtRestEncryptionEnabled", "Encrypted"):
            if said.get(key) is False:
                yield f"{name} lies in clear"
        if said.get("TransitEncryptionEnabled") is False:
            yield f"{name} speaks in clear"
        if one["Type"] == "AWS::EC2::SecurityGroupIngress":
            group = said["GroupId"]["Ref"]
            if "CidrIp" in said and group != "DoorGroup":
                yield f"{group} is open to {said['CidrIp']}"
        anybody = (
            one["Type"] == "AWS::ElastiCache::User" and said["UserName"] == "default"
        )
        if anybody and not said["AccessString"].startswith("off"):
            yield f"{name} may come without a password"


def rights(recipe):
    """Each account reads the secrets that its processes have, and no other."""
    used = {}
    for one in recipe.runs:
        mine = used.setdefault(one.account, set())
        mine |= {_stored(source) for source in (*one.secrets.values(), *one.files)}
    used = {name: found for name, found in used.items() if found}
    granted = GRANTED[recipe.place](recipe.documents)
    for account in sorted({*used, *granted}):
        more = granted.get(account, set()) - used.get(account, set())
        less = used.get(account, set()) - granted.get(account, set())
        yield from (f"{account} may read {name}" for name in sorted(more))
        yield from (f"{account} may not read {name}" for name in sorted(less))
    if recipe.place == "aws":
        yield from _wide(recipe.documents["platform.yaml"])


def _stored(source):
    """The secret of the store that a reference leads to."""
    return (
        source.split(":")[0].rpartition("/")[2]
        if "://" not in source and (":" in source)
        else re.split(r"[/']+", source.strip("[])'"))[-1]
    )


def _of_roles(documents):
    granted = {}
    for name, one in documents["platform.yaml"]["Resources"].items():
        if one["Type"] != "AWS::IAM::Role":
            continue
        for policy in one["Properties"]["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                if "secretsmanager:GetSecretValue" in statement["Action"]:
                    whose = statement["Resource"]
                    whose = whose if isinstance(whose, list) else [whose]
                    granted.setdefault(name, set()).update(
                        plain(each) for each in whose
                    )
    return granted


def _wide(template):
    for name, one in template["Resources"].items():
        said = one.get("Properties", {})
        policies = [each["PolicyDocument"] for each in said.get("Policies", [])]
        policies += [said["PolicyDocument"]] if "PolicyDocument" in said else []
        for policy in policies:
            for statement in policy["Statement"]:
                actions = statement["Action"]
                if any(action.endswith("*") for action in actions):
                    yield f"{name} may do {actions}"
                alone = actions == ["ecr:GetAuthorizationToken"]
                if statement["Resource"] == "*" and not alone:
                    yield f"{name} may {actions} with everything"


def _of_lines(documents):
    granted = {}
    for line in documents["access"].splitlines():
        if not line.startswith("#"):
            account, secret = line.split()
            granted.setdefault(account, set()).add(secret)
    return granted


def _of_assignments(documents):
    granted = {}
    for one in documents["platform.json"]["resources"]:
        found = re.search(r"vaults/secrets', .*'([a-z-]+)'\)\]", one.get("scope", ""))
        if found:
            account = re.search(r"'(flagon-[a-z-]+)'", one["dependsOn"][0])[1]
            granted.setdefault(account, set()).add(found[1])
    return granted


GRANTED = {"aws": _of_roles, "gcp": _of_lines, "azure": _of_assignments}


def single(recipe):
    """The one that keeps the time is never there twice, a relay at most in a rollout."""
    for one in lasting(recipe):
        if one.name == "worker-beat" and one.most > 1:
            yield f"{one.name} may be there {one.most} times"
        if one.name.endswith("-relay") and one.most > 2:
            yield f"{one.name} may be there {one.most} times"


def streams(recipe):
    """A stream is ended by the platform, which tells its client, and not by the place."""
    realtime = next(one for one in recipe.runs if one.name == "realtime")
    fields = settings_of("realtime").model_fields
    rotated = float(
        realtime.settings.get(
            "REALTIME_ROTATE_SECONDS", fields["rotate_seconds"].default
        )
    )
    for limit, lowest in LIMITS[recipe.place](recipe.documents, rotated):
        if limit <= lowest:
            yield f"streams are cut after {limit} s, and end by themselves after {lowest}"


def _of_the_door(documents, _rotated):
    door = documents["services.yaml"]["Resources"]["Door"]["Properties"]
    for one in door["LoadBalancerAttributes"]:
        if one["Key"] == "idle_timeout.timeout_seconds":
            # What counts is silence: there are signs of life.
            yield (
                int(one["Value"]),
                settings_of("realtime").model_fields["heartbeat_seconds"].default,
            )


def _of_requests(documents, rotated):
    yield (
        documents["objects"]["flagon"]["spec"]["template"]["spec"]["timeoutSeconds"],
        rotated,
    )


def _of_azure(_documents, rotated):
    # https://learn.microsoft.com/azure/container-apps/ingress-overview
    yield 240, rotated


LIMITS = {"aws": _of_the_door, "gcp": _of_requests, "azure": _of_azure}


def addresses(recipe):
    """Each address of a neighbour is one at which somebody answers, under one name."""
    urls, cookies = set(), set()
    for one in recipe.runs:
        for key, value in one.settings.items():
            if key.endswith("_PUBLIC_URL"):
                urls.add(value)
            if key in {"WEB_SESSION_COOKIE", "GATEWAY_SESSION_COOKIE"}:
                cookies.add(value)
            for name in SERVICES:
                if (
                    re.search(rf"https?://{name}:8000", value)
                    and recipe.place != "azure"
                ):
                    yield f"{one.name}: nobody is called {name} here ({key})"
    if len(urls) != 1 or len(cookies) != 1:
        yield f"the platform has several names: {sorted(urls)} {sorted(cookies)}"


RULES = {
    rule.__name__: rule
    for rule in (
        *(complete, commands, settings, secrets, owners, digests, health, drain),
        *(first, public, data, rights, single, streams, addresses),
    )
}


def broken(recipe):
    """Everything that breaks any rule."""
    return [
        f"{name}: {found}" for name, rule in RULES.items() for found in rule(recipe)
    ]
